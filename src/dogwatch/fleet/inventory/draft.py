"""What one source says of hosts and groups, before it is merged. Every fact knows where it was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dogwatch.errors import Problem

# Groups that every inventory has: all hosts, and those in no other group.
ALL = "all"
UNGROUPED = "ungrouped"
MAX_NAME = 253


class Place(msgspec.Struct, frozen=True):
    """Where something was written. line: 0 where it has none (a program's answer)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Setting(msgspec.Struct, frozen=True):
    """A variable's value and where it came from."""

    value: Any
    place: Place


Settings = dict[str, Setting]


class DraftGroup(msgspec.Struct):
    """A group as one source has it. declared: it has a section of its own, it was not only mentioned."""

    name: str
    place: Place
    hosts: dict[str, Place] = {}
    children: dict[str, Place] = {}
    vars: Settings = {}
    file_vars: Settings = {}
    labels: Settings = {}
    declared: bool = True


class DraftHost(msgspec.Struct):
    name: str
    place: Place
    vars: Settings = {}
    file_vars: Settings = {}
    labels: Settings = {}


class Draft:
    """Collects what one source says, and every problem with it. name: of the source, for messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hosts: dict[str, DraftHost] = {}
        self.groups: dict[str, DraftGroup] = {}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, place: Place, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message, file=place.file, line=place.line, hint=hint))

    def warn(self, place: Place, message: str, hint: str = "") -> None:
        self.warnings.append(Problem(message, file=place.file, line=place.line, hint=hint))

    def host(self, name: str, place: Place) -> DraftHost | None:
        """Return the host, made where it is new; None (and a problem) where no host can have that name."""
        found = self.hosts.get(name)
        if found is None:
            fault = name_fault(name)
            if fault:
                self.problem(place, f"{shown(name)} cannot be the name of a host: {fault}")
                return None
            found = self.hosts[name] = DraftHost(name, place)
        return found

    def group(self, name: str, place: Place, *, declared: bool = True) -> DraftGroup:
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = DraftGroup(name, place, declared=declared)
            fault = name_fault(name)
            if fault:
                self.problem(place, f"{shown(name)} cannot be the name of a group: {fault}")
        elif declared and not found.declared:
            found.declared, found.place = True, place
        return found

    def set_vars(self, into: Settings, values: Mapping[Any, Any], place: Place) -> None:
        """Take over variables; their lines are those of the mapping where it knows them."""
        lines: Mapping[Any, int] = getattr(values, "lines", {})
        for name, value in values.items():
            into[str(name)] = Setting(value, Place(place.file, lines.get(name, place.line)))


def name_fault(name: str) -> str:
    """Return why a name can be neither a host's nor a group's, "" where it can.

    Names reach command lines (docker), terminals and expressions: what would be read as something else is refused.
    """
    if not name:
        return "it is empty"
    if len(name) > MAX_NAME:
        return f"it is longer than {MAX_NAME} characters"
    if any(char.isspace() or not char.isprintable() for char in name):
        return "it holds white space or a control character"
    if name in (".", ".."):
        return "it is the name of a folder"
    if name[0] in "-!@(&":
        return f"it begins with '{name[0]}'"
    if "[" in name or "]" in name:
        return "it holds a bracket; ranges are written [01-20], [1:9:2] or [a:c]"
    if any(char in name for char in ",/\\'\"`$;|<>(){}&="):
        return "it holds a character that means something to shells, paths or target expressions"
    return ""


def shown(name: str) -> str:
    """Return a name in quotes that a terminal can show."""
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name[:80])
    return f"'{text}'"
