"""Editors of structured files: each sets or takes out one value, and leaves the rest of the text as it is written."""

from __future__ import annotations

import abc
import io
import json
import re
from collections.abc import Mapping
from typing import Any

Key = tuple[str | int, ...]
_PART = re.compile(r'"((?:[^"\\]|\\.)*)"|([^.\[\]"]+)|\[(\d+|-1)\]')


class KeyMistake(Exception):
    """A key or file that cannot be worked with; the text says why."""


def parse_key(text: str) -> Key:
    """Return the parts of `a.b[0]."c.d"`. Raises: KeyMistake."""
    found: list[str | int] = []
    at = 0
    while at < len(text):
        if found and text[at] == ".":
            at += 1
        match = _PART.match(text, at)
        if match is None:
            raise KeyMistake(f"'{text}' is not a key, at character {at + 1}")
        quoted, plain, index = match.groups()
        found.append(
            int(index) if index is not None else plain if plain is not None else re.sub(r"\\(.)", r"\1", quoted)
        )
        at = match.end()
    if not found or isinstance(found[0], int) or text.endswith("."):
        raise KeyMistake(f"'{text}' is not a key")
    return tuple(found)


def told(key: Key) -> str:
    return ".".join(map(str, key))


class Editor(abc.ABC):
    """One format."""

    @abc.abstractmethod
    def with_value(self, text: str, key: Key, value: Any) -> str:
        """Return the text with the value at the key. Raises: KeyMistake."""

    @abc.abstractmethod
    def without(self, text: str, key: Key) -> str:
        """Return the text without the key. Raises: KeyMistake."""


def put(root: Any, key: Key, value: Any, make: Any) -> bool:
    """Set a value in mappings and lists; return whether it was another. make: a new mapping. Raises: KeyMistake."""
    at = root
    for number, part in enumerate(key[:-1]):
        below = _below(at, part, key[:number])
        if below is None:
            if isinstance(part, int) or not isinstance(at, Mapping):
                raise KeyMistake(f"{told(key[: number + 1])} is not there")
            at[part] = make()  # type: ignore[index]
            below = at[part]
        at = below
    last = key[-1]
    if isinstance(last, int):
        if not isinstance(at, list):
            raise KeyMistake(f"{told(key[:-1])} is no list")
        if last == -1 or last == len(at):
            if value in at:
                return False
            at.append(value)
            return True
        if last > len(at):
            raise KeyMistake(f"{told(key[:-1])} has only {len(at)} values")
    elif not isinstance(at, Mapping):
        raise KeyMistake(f"{told(key[:-1]) or 'the file'} is no mapping")
    elif last in at and same(at[last], value):
        return False
    if isinstance(last, int) and same(at[last], value):
        return False
    at[last] = value
    return True


def take(root: Any, key: Key) -> bool:
    """Take a value out; return whether there was one."""
    at = root
    for number, part in enumerate(key[:-1]):
        at = _below(at, part, key[:number])
        if at is None:
            return False
    last = key[-1]
    if isinstance(last, int):
        if not isinstance(at, list) or last >= len(at):
            return False
    elif not isinstance(at, Mapping) or last not in at:
        return False
    del at[last]
    return True


def same(old: Any, new: Any) -> bool:
    """Return whether two values say the same; true is not 1."""
    if isinstance(old, bool) != isinstance(new, bool):
        return False
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return list(old) == list(new) and all(same(old[name], new[name]) for name in new)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same, old, new))
    return bool(old == new) and isinstance(old, str) == isinstance(new, str)


def _below(at: Any, part: str | int, before: Key) -> Any:
    if isinstance(part, int):
        if not isinstance(at, list):
            raise KeyMistake(f"{told(before)} is no list")
        return at[part] if -1 <= part < len(at) and at else None
    if not isinstance(at, Mapping):
        raise KeyMistake(f"{told(before) or 'the file'} is no mapping")
    return at.get(part)


class YamlEditor(Editor):
    """By ruamel.yaml, which keeps comments, order, quotes and the depth of lists as they are found."""

    def with_value(self, text: str, key: Key, value: Any) -> str:
        from ruamel.yaml.comments import CommentedMap

        yaml, root = self._read(text)
        root = CommentedMap() if root is None else root
        return self._written(yaml, root) if put(root, key, value, CommentedMap) else text

    def without(self, text: str, key: Key) -> str:
        yaml, root = self._read(text)
        return self._written(yaml, root) if root is not None and take(root, key) else text

    def _read(self, text: str) -> tuple[Any, Any]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        yaml = YAML(typ="rt")
        yaml.preserve_quotes = True
        yaml.width = 4096
        mapping, sequence, offset = _depths(text)
        yaml.indent(mapping=mapping, sequence=sequence, offset=offset)
        yaml.explicit_start = text.startswith("---")
        try:
            return yaml, yaml.load(text)
        except (YAMLError, ValueError) as error:
            raise KeyMistake(f"is not YAML: {str(error).splitlines()[0]}") from None

    def _written(self, yaml: Any, root: Any) -> str:
        out = io.StringIO()
        yaml.dump(root, out)
        return out.getvalue()


def _depths(text: str) -> tuple[int, int, int]:
    """Return how deep mappings and lists are set in, as the file has it."""
    mapping = re.search(
        r"^(?:[^\s#-][^\n]*):[ \t]*(?:#[^\n]*)?\n(?:[ \t]*#[^\n]*\n|\s*\n)*( +)[^\s#-]", text, re.MULTILINE
    )
    listed = re.search(
        r"^( *)[^\s#-][^\n]*:[ \t]*(?:#[^\n]*)?\n(?:[ \t]*#[^\n]*\n|\s*\n)*( *)-( +)", text, re.MULTILINE
    )
    depth = len(mapping[1]) if mapping else 2
    offset = len(listed[2]) - len(listed[1]) if listed else 0
    return depth, (offset + 1 + len(listed[3])) if listed else 2, max(0, offset)


class TomlEditor(Editor):
    """By tomlkit, which keeps everything that is not changed."""

    def with_value(self, text: str, key: Key, value: Any) -> str:
        import tomlkit

        root = self._read(text)
        if value is None:
            raise KeyMistake("TOML has no empty value")
        return str(tomlkit.dumps(root)) if put(root, key, value, tomlkit.table) else text

    def without(self, text: str, key: Key) -> str:
        import tomlkit

        root = self._read(text)
        return str(tomlkit.dumps(root)) if take(root, key) else text

    def _read(self, text: str) -> Any:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        try:
            return tomlkit.parse(text)
        except (TOMLKitError, ValueError) as error:
            raise KeyMistake(f"is not TOML: {error}") from None


class JsonEditor(Editor):
    """Replaces only the text of the innermost value that is there; all around it stays to the letter."""

    def with_value(self, text: str, key: Key, value: Any) -> str:
        root, spans = _json(text or "{}\n")
        text = text or "{}\n"
        if not put(root, key, value, dict):
            return text
        return self._replaced(text, spans, key, root)

    def without(self, text: str, key: Key) -> str:
        root, spans = _json(text or "{}\n")
        return self._replaced(text, spans, key[:-1], root) if take(root, key) else text

    def _replaced(self, text: str, spans: Mapping[Key, tuple[int, int]], key: Key, root: Any) -> str:
        """Write anew what is at the key, or at the nearest thing above it that was there."""
        while key and key not in spans:
            key = key[:-1]
        at = root
        for part in key:
            at = at[part]
        start, end = spans[key]
        line = text[text.rfind("\n", 0, start) + 1 : start]
        base = line[: len(line) - len(line.lstrip())]
        indent = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
        flat = "\n" not in text[start:end] and "\n" in text.strip() and isinstance(at, list)
        written = json.dumps(at, indent=None if flat else (indent[1] if indent else 2), ensure_ascii=False)
        if "\n" not in text.strip() and len(text.strip()) > 2:
            written = json.dumps(at, ensure_ascii=False)
        return text[:start] + written.replace("\n", f"\n{base}") + text[end:]


def _json(text: str) -> tuple[Any, dict[Key, tuple[int, int]]]:
    """Return the value, and where each value in it stands in the text. Raises: KeyMistake."""
    spans: dict[Key, tuple[int, int]] = {}
    try:
        root = json.loads(text)
        _scan(text, _skip(text, 0), (), spans)
    except (ValueError, RecursionError) as error:
        raise KeyMistake(f"is not JSON: {error}") from None
    return root, spans


def _scan(text: str, at: int, key: Key, spans: dict[Key, tuple[int, int]]) -> int:
    """Note where the value that begins here stands; return where it ends. The text is known to be JSON."""
    start = at
    if text[at] in "{[":
        closing = "}" if text[at] == "{" else "]"
        at = _skip(text, at + 1)
        number = 0
        while text[at] != closing:
            name: str | int = number
            if closing == "}":
                name, at = json.decoder.scanstring(text, at + 1)  # type: ignore[attr-defined]
                at = _skip(text, _skip(text, at) + 1)
            at = _skip(text, _scan(text, at, (*key, name), spans))
            number += 1
            if text[at] == ",":
                at = _skip(text, at + 1)
        at += 1
    else:
        _, at = json.JSONDecoder().raw_decode(text, at)
    spans[key] = (start, at)
    return at


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


class IniEditor(Editor):
    """Line by line: `name = value` below `[section]`; before the first section the key is a name alone."""

    def with_value(self, text: str, key: Key, value: Any) -> str:
        section, name = self._parts(key)
        if value is None or isinstance(value, dict | list) or "\n" in str(value):
            raise KeyMistake("an INI file holds only single lines")
        written = str(value).lower() if isinstance(value, bool) else str(value)
        lines = text.splitlines(keepends=True)
        start, end = self._section(lines, section)
        if start is None:
            if lines and not lines[-1].endswith("\n"):
                lines[-1] += "\n"
            if section:
                blank = ["\n"] if lines and lines[-1].strip() else []
                return "".join([*lines, *blank, f"[{section}]\n", f"{name} = {written}\n"])
            start, end = 0, 0
        for at in range(start, end):
            found = self._line(lines[at])
            if found is not None and found[0] == name:
                if found[2] == written:
                    return text
                lines[at] = f"{found[1]}{written}\n"
                return "".join(lines)
        while end > start and not lines[end - 1].strip():
            end -= 1
        if end and not lines[end - 1].endswith("\n"):
            lines[end - 1] += "\n"
        style = next((found for line in lines if (found := self._line(line)) is not None), None)
        sign = "=" if style is not None and style[1].rstrip() == style[1] else " = "
        lines.insert(end, f"{name}{sign}{written}\n")
        return "".join(lines)

    def without(self, text: str, key: Key) -> str:
        section, name = self._parts(key)
        lines = text.splitlines(keepends=True)
        start, end = self._section(lines, section)
        if start is None:
            return text
        kept = [
            line
            for at, line in enumerate(lines)
            if not (start <= at < end and (found := self._line(line)) is not None and found[0] == name)
        ]
        return "".join(kept)

    def _parts(self, key: Key) -> tuple[str, str]:
        if not all(isinstance(part, str) for part in key) or len(key) > 2:
            raise KeyMistake('the key of an INI file is section and name; quote what has dots: "a.b".c')
        return ("", str(key[0])) if len(key) == 1 else (str(key[0]), str(key[1]))

    def _section(self, lines: list[str], section: str) -> tuple[int | None, int]:
        """Return the lines of a section, without its heading; None where there is no such."""
        start: int | None = 0 if not section else None
        for at, line in enumerate(lines):
            heading = re.match(r"\s*\[([^\]]*)\]", line)
            if heading is None:
                continue
            if start is not None:
                return start, at
            if heading[1].strip() == section:
                start = at + 1
        return start, len(lines)

    def _line(self, line: str) -> tuple[str, str, str] | None:
        """Return name, all before the value, and value."""
        match = re.match(r"(\s*([^\s#;=:\[][^=:]*?)\s*[=:][ \t]*)(.*?)\s*$", line)
        return (match[2], match[1], match[3]) if match else None


EDITORS: Mapping[str, Editor] = {
    "yaml": YamlEditor(), "json": JsonEditor(), "toml": TomlEditor(), "ini": IniEditor()
}  # fmt: skip
