"""What an apply has done so far, beside its plan on this machine: enough to go on after a crash at any instant."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from dogwatch.errors import Conflict

# What a host ends with on which nothing was done.
_UNTOUCHED = {"moved", "locked", "unchanged", "not started"}


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened. what: begun (the apply), host (it was begun there), ended (there), over (the apply)."""

    what: str
    apply_id: str = ""
    plan: str = ""
    at_s: float = 0.0
    by: str = ""
    host: str = ""
    state: str = ""
    message: str = ""


class Notes(Protocol):
    """Takes what an apply does, as it does it."""

    def add(self, line: Line, *, sync: bool = False) -> None: ...


class NoNotes:
    """For an apply whose hosts are written down elsewhere."""

    def add(self, line: Line, *, sync: bool = False) -> None: ...


class Journal:
    """The journal file of a plan. Its last apply is the one that counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def lines(self, *, touched: bool = False) -> list[Line]:
        """Return the lines of the last apply; one that was not written whole counts for nothing.

        touched: of the last one that may have changed something; one that was refused everywhere has not.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        applies: list[list[Line]] = []
        for raw in data.split(b"\n"):
            try:
                line = msgspec.json.decode(raw, type=Line)
            except msgspec.DecodeError:
                continue
            if line.what == "begun":
                applies.append([])
            if applies:
                applies[-1].append(line)
        for lines in reversed(applies):
            if not touched or not set(states(lines).values()) <= _UNTOUCHED:
                return lines
        return applies[-1] if applies else []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the journal for oneself. Raises: Conflict where another apply of this plan runs on this machine."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"this plan is being applied right now ({self.path} is held)") from None
            yield
        finally:
            os.close(self._file)
            self._file = -1

    def add(self, line: Line, *, sync: bool = False) -> None:
        """Write a line down. It survives the end of this process; with sync that of the machine, too."""
        os.write(self._file, b"\n" + msgspec.json.encode(line) + b"\n")
        if sync:
            os.fsync(self._file)


def states(lines: list[Line]) -> dict[str, str]:
    """Return how far each host came: begun, or what it ended with."""
    found: dict[str, str] = {}
    for line in lines:
        if line.what == "host":
            found[line.host] = "begun"
        elif line.what == "ended":
            found[line.host] = line.state
    return found


def unfinished(lines: list[Line]) -> bool:
    return bool(lines) and not any(line.what == "over" for line in lines)
