"""Ansible's INI inventories, as Ansible itself reads them."""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from typing import Any

from dogwatch.core.component import nearest
from dogwatch.fleet.inventory.draft import ALL, UNGROUPED, Draft, DraftGroup, Place, Setting, Settings, shown
from dogwatch.fleet.inventory.ranges import expand, has_range

_SECTION = re.compile(r"\[(?P<name>[^:\]\s]+)(?::(?P<kind>\w+))?\]\s*(?:#.*)?")
_NAME = re.compile(r"(?P<name>[^#\s]+)\s*(?:#.*)?")
_PORT = re.compile(r"(?P<host>(?:[^:\[\]]|\[[^\[\]]*\])+):(?P<port>\d{1,5})")
_BRACKETED = re.compile(r"\[(?P<host>[^\[\]]*:[^\[\]]*:[^\[\]]*)\](?::(?P<port>\d{1,5}))?")
_KINDS = ("hosts", "children", "vars")
# Most lines, and most values: what the general way makes of them is known beforehand, at a tenth of its time.
_PLAIN_WORDS = re.compile(r"[ !$-&(-\[\]-~\t]*")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_ADDRESS = re.compile(r"[0-9]+\.[0-9]+\.[0-9.]+")


def read_ini(file: str, text: str, draft: Draft) -> None:
    """Put what an INI inventory says into the draft, its mistakes with their lines."""
    _Reader(file, draft).read(text)


def parse_value(text: str) -> Any:
    """Return what a value means: a Python literal (`80`, `True`, `['a']`, `"text"`), else the text itself."""
    if not text or not (
        text[0].isdigit() or text[0] in "+-.'\"[({" or text[:2] in _PREFIXED or text.split("#")[0].strip() in _WORDS
    ):
        return text
    if _NUMBER.fullmatch(text):
        return int(text)
    if _ADDRESS.fullmatch(text):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a value is no mistake of ours
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text
    if isinstance(value, tuple | set):
        value = list(value)
    return value if isinstance(value, str | int | float | bool | list | dict | type(None)) else text


_WORDS = frozenset({"True", "False", "None"})
_PREFIXED = frozenset(letter + quote for letter in "uUrR" for quote in "'\"")


def split_port(pattern: str) -> tuple[str, int | None]:
    """Return the name and the port of `host`, `host:22`, `[2001:db8::1]:22` or `2001:db8::1`."""
    match = _BRACKETED.fullmatch(pattern)
    if match and not re.fullmatch(r"\w*:\w+(:\d+)?", match["host"]):
        return match["host"], int(match["port"]) if match["port"] else None
    match = _PORT.fullmatch(pattern)
    if match:
        return match["host"], int(match["port"])
    return pattern, None


class _Reader:
    def __init__(self, file: str, draft: Draft) -> None:
        self.file = file
        self.draft = draft
        self._group: DraftGroup | None = None
        self._kind = "hosts"
        self._mentioned: list[tuple[str, str, Place]] = []

    def read(self, text: str) -> None:
        for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            line = raw.strip()
            if not line or line[0] in "#;":
                continue
            place = Place(self.file, number)
            if line[0] == "[" and (section := _SECTION.fullmatch(line)) and not self._is_host(line):
                self._section(section["name"], section["kind"] or "hosts", place)
            elif line[0] == "[" and not self._is_host(line):
                self.draft.problem(
                    place, f"{shown(line)} is not a section", "write [group], [group:vars] or [group:children]"
                )
                self._kind = "skipped"
            elif self._kind == "hosts":
                self._host(line, place)
            elif self._kind == "vars":
                self._var(line, place)
            elif self._kind == "children":
                self._child(line, place)
        self._unknown_groups()

    @staticmethod
    def _is_host(line: str) -> bool:
        """Return whether a line that begins with a bracket names a host: `[2001:db8::1]:22`, `[a:c].example`."""
        first = line.split(None, 1)[0]
        if _BRACKETED.fullmatch(first) and not _SECTION.fullmatch(first):
            return True
        return bool(re.match(r"\[[^\[\]]+\][^\s#]", first)) and has_range(first[: first.index("]") + 1])

    def _section(self, name: str, kind: str, place: Place) -> None:
        if kind not in _KINDS:
            self.draft.problem(place, f"unknown kind of section '{kind}'", nearest(kind, list(_KINDS)))
            self._kind = "skipped"
            return
        self._kind = kind
        # `vars` alone declares nothing: a typo would make an empty group.
        declared = kind != "vars" or name in (ALL, UNGROUPED)
        if not declared:
            self._mentioned.append((name, "vars", place))
        self._group = self.draft.group(name, place, declared=declared)

    def _host(self, line: str, place: Place) -> None:
        try:
            words = line.split() if _PLAIN_WORDS.fullmatch(line) else shlex.split(line, comments=True)
        except ValueError as error:
            self.draft.problem(place, f"cannot be read: {str(error).lower()}")
            return
        if not words:
            return
        settings = self._settings(words[1:], place)
        name, port = split_port(words[0])
        if port is not None:
            settings.setdefault("ansible_port", Setting(port, place))
        try:
            names = expand(name) if has_range(name) else [name]
        except ValueError as error:
            self.draft.problem(place, f"{shown(name)}: {error}")
            return
        for one in names:
            host = self.draft.host(one, place)
            if host is not None:
                host.vars.update(settings)
                if self._group is not None:
                    self._group.hosts.setdefault(one, place)

    def _settings(self, words: list[str], place: Place) -> Settings:
        settings: Settings = {}
        for word in words:
            name, sign, value = word.partition("=")
            if not sign or not name:
                self.draft.problem(
                    place, f"expected key=value, found {shown(word)}", "one host a line; quote values that hold spaces"
                )
                continue
            settings[name] = Setting(parse_value(value), place)
        return settings

    def _var(self, line: str, place: Place) -> None:
        name, sign, value = (part.strip() for part in line.partition("="))
        if not sign or not name:
            self.draft.problem(place, f"expected key=value, found {shown(line)}")
            return
        if self._group is not None:
            self._group.vars[name] = Setting(parse_value(value), place)

    def _child(self, line: str, place: Place) -> None:
        match = _NAME.fullmatch(line)
        if match is None:
            self.draft.problem(place, f"expected the name of a group, found {shown(line)}")
            return
        self._mentioned.append((match["name"], "children", place))
        self.draft.group(match["name"], place, declared=False)
        if self._group is not None:
            self._group.children.setdefault(match["name"], place)

    def _unknown_groups(self) -> None:
        known = [ALL, UNGROUPED, *(group.name for group in self.draft.groups.values() if group.declared)]
        for name, kind, place in self._mentioned:
            if not self.draft.groups[name].declared and name not in (ALL, UNGROUPED):
                what = (
                    f"[{name}:vars] is of a group that is not there"
                    if kind == "vars"
                    else f"there is no group '{name}'"
                )
                self.draft.problem(place, what, nearest(name, known))
