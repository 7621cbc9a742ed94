"""YAML (and so JSON) to plain values whose mappings remember the line of each key.

Works on libyaml's events: its composer recurses in C, and a deep document would overflow the stack. Ansible's tags are
known: `!unsafe` is text, and what `!vault` seals is not readable here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

from dogwatch.errors import Problem

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEPTH = 100
_NODES = 2_000_000
_TAG = "tag:yaml.org,2002:"


class Lined(dict[Any, Any]):
    """A mapping that knows its own line and that of each of its keys."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[Any, int] = {}


class Sealed:
    """Stands for a value that Ansible Vault keeps: there is one, and nobody here can read it."""

    def __repr__(self) -> str:
        return "(sealed by Ansible Vault)"

    __str__ = __repr__


SEALED = Sealed()
_Collection: TypeAlias = "Lined | list[Any]"


class _Stop(Exception):
    """The rest of the document is not worth reading."""


def read_yaml(file: str, text: str) -> tuple[Any, list[Problem]]:
    """Return the document's value (None where there is none) and what is wrong with the text."""
    reader = _Reader(file)
    try:
        reader.read(text)
    except _Stop:
        return None, reader.problems
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        reader.problems.append(Problem(f"is not YAML: {error.problem or error.context}", file=file, line=line))
        return None, reader.problems
    except yaml.YAMLError as error:
        reader.problems.append(Problem(f"is not YAML: {str(error).splitlines()[0]}", file=file, line=1))
        return None, reader.problems
    return reader.root, reader.problems


class _Scalars(SafeConstructor, Resolver):
    """PyYAML's own rules of what a plain scalar means (YAML 1.1, as Ansible reads it)."""

    def __init__(self) -> None:
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def value(self, text: str, tag: str | None, plain: bool) -> Any:
        if tag is None:
            if not plain:
                return text
            tag = self.resolve(  # type: ignore[no-untyped-call]
                yaml.ScalarNode, text, (True, False)
            )
        node = yaml.ScalarNode(tag, text)
        if tag == f"{_TAG}int":
            return self.construct_yaml_int(node)
        if tag == f"{_TAG}float":
            return self.construct_yaml_float(node)
        if tag == f"{_TAG}bool":
            return self.construct_yaml_bool(node)
        if tag == f"{_TAG}null":
            return None
        return text


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.root: Any = None
        self._scalars = _Scalars()
        self._stack: list[tuple[_Collection, str | None]] = []
        self._keys: list[Any] = []
        self._anchors: dict[str, Any] = {}
        self._count = 0
        self._documents = 0

    def read(self, text: str) -> None:
        loader = _Loader(text)
        try:
            while (event := loader.get_event()) is not None and not isinstance(event, yaml.StreamEndEvent):
                self._event(event)
        finally:
            loader.dispose()

    def _event(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fault(line, "a second document begins here; one file holds one")
                raise _Stop
        elif isinstance(event, yaml.ScalarEvent):
            self._put(self._scalar(event, line), line, event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                self._fault(line, f"there is no anchor '{event.anchor}' before this")
                raise _Stop
            self._put(self._anchors[event.anchor], line, None)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            new: _Collection = Lined(line) if isinstance(event, yaml.MappingStartEvent) else []
            self._put(new, line, event.anchor)
            self._stack.append((new, event.anchor))
            self._keys.append(_NO_KEY)
            if len(self._stack) > _DEPTH:
                self._fault(line, f"more than {_DEPTH} levels deep")
                raise _Stop
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._stack.pop()
            self._keys.pop()

    def _scalar(self, event: Any, line: int) -> Any:
        if event.tag == "!vault":
            return SEALED
        tag = None if event.tag in (None, "!", "!unsafe") else event.tag
        plain = event.implicit[0] and event.tag != "!unsafe"
        try:
            return self._scalars.value(event.value, tag, plain)
        except (ValueError, KeyError, ConstructorError, OverflowError):
            self._fault(line, f"'{event.value[:60]}' is not a {str(tag).removeprefix(_TAG)}")
            return None

    def _put(self, value: Any, line: int, anchor: str | None) -> None:
        self._count += 1
        if self._count > _NODES:
            self._fault(line, f"more than {_NODES} values")
            raise _Stop
        if anchor:
            self._anchors[anchor] = value
        if not self._stack:
            self.root = value
            return
        into = self._stack[-1][0]
        if isinstance(into, list):
            into.append(value)
            return
        key = self._keys[-1]
        if key is _NO_KEY:
            if isinstance(value, dict | list):
                self._fault(line, "a key must be text")
                raise _Stop
            self._keys[-1] = (value, line)
            return
        self._keys[-1] = _NO_KEY
        name, at = key
        if name == "<<":
            self._merge(into, value, at)
            return
        if name in into.lines:
            self._fault(at, f"'{name}' is written twice, first on line {into.lines[name]}")
        into[name] = value
        into.lines[name] = at

    def _merge(self, into: Lined, value: Any, line: int) -> None:
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict):
                self._fault(line, "'<<' takes in mappings only")
                continue
            for name, item in source.items():
                into.setdefault(name, item)

    def _fault(self, line: int, message: str) -> None:
        self.problems.append(Problem(message, file=self.file, line=line))


_NO_KEY = object()
