"""The `journald` source: the systemd journal, by journalctl."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import IO, Any, ClassVar, Literal

import msgspec

from dogwatch.core.retry import backoff
from dogwatch.errors import TransientError, reason_of
from dogwatch.logs.block import Block, Position
from dogwatch.logs.gathering import BLOCK_BYTES, WAIT_S
from dogwatch.logs.programs import program
from dogwatch.logs.source import Intake, Source

_log = logging.getLogger(__name__)
_CURSOR = re.compile(r"s=([0-9a-f]+);i=([0-9a-f]+)")
_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_MATCH = re.compile(r"[A-Z_][A-Z0-9_]*=.*")
# Fields may have hundreds of megabytes: an entry that is longer is left out, and counted.
_ENTRY_BYTES = 16 * 1024 * 1024
_DECODER = msgspec.json.Decoder(dict[str, Any])
_ENCODER = msgspec.json.Encoder()
_NAMES = {
    "_HOSTNAME": "host",
    "_SYSTEMD_UNIT": "unit",
    "_SYSTEMD_USER_UNIT": "user_unit",
    "SYSLOG_IDENTIFIER": "app",
    "_PID": "pid",
    "_TRANSPORT": "transport",
    "CONTAINER_NAME": "container",
}


_FIELDS = ("MESSAGE", "PRIORITY", "_SOURCE_REALTIME_TIMESTAMP", *_NAMES)


class JournaldSource(Source, frozen=True, kw_only=True):
    """Reads the systemd journal, each entry as a JSON line: message, timestamp, level, host, unit, app, pid, transport;
    `do: [json]` makes columns of them. The checkpoint holds the journal's own cursor, so that nothing is lost while the
    agent is down and the journal keeps it; ids come of its sequence numbers.

    units: of these units alone. matches: of these fields alone, `_COMM=sshd`. priority: this level and worse. start: at
    the very first start, beginning or end; default end. all: every field, under its own name too. directory: journal
    files that are read in place of the system's. command: how journalctl is called.
    """

    kind: ClassVar[str] = "journald"

    units: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()
    priority: Literal["", "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"] = ""
    start: Literal["beginning", "end"] = "end"
    all: bool = False
    directory: str = ""
    command: tuple[str, ...] = ("journalctl",)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        for at, one in enumerate(self.matches):
            if not _MATCH.fullmatch(one):
                yield ("matches", at), "is not FIELD=value", "_COMM=sshd"
        if self.directory and not self.directory.startswith("/"):
            yield ("directory",), "is not an absolute path", ""
        if not self.command:
            yield ("command",), "names no program", "command: [journalctl]"

    async def run(self, intake: Intake) -> None:
        # Each lane reads for itself: a sink that is behind must not hold up the others.
        async with asyncio.TaskGroup() as group:
            for lane in intake.lanes:
                group.create_task(_Lane(self, intake, lane).run(), name=f"journal for {lane}")


class _Lane:
    def __init__(self, options: JournaldSource, intake: Intake, lane: str) -> None:
        self._options = options
        self._intake = intake
        self._lane = lane
        self._cursor = intake.cursors().get(lane, Position()).token
        # Set where reading goes on: the first entry is the last one that was read, or the journal has deleted it.
        self._last: tuple[str, int] | None = None

    async def run(self) -> None:
        attempt = 0
        while True:
            began_s = self._intake.clock.monotonic_s()
            try:
                if not self._cursor and self._options.start == "end":
                    await self._begin_at_end()
                problem = await self._follow()
            except (TransientError, OSError) as error:
                # A full disk or too few descriptors pass, too.
                problem = reason_of(error)
            attempt = 1 if self._intake.clock.monotonic_s() - began_s > 60 else attempt + 1
            self._intake.trouble(problem)
            await asyncio.sleep(backoff(attempt, base_s=1.0, cap_s=30.0, random=random.random))

    def _command(self, *more: str) -> list[str]:
        options = self._options
        command = [*options.command, "--output=json", "--all", "--quiet", "--no-pager", *more]
        command += [f"--unit={one}" for one in options.units]
        if options.priority:
            command.append(f"--priority={options.priority}")
        if options.directory:
            command.append(f"--directory={options.directory}")
        if not options.all:
            command.append(f"--output-fields={','.join(_FIELDS)}")
        return [*command, *options.matches]

    async def _begin_at_end(self) -> None:
        """Take down where the end is now, before anything new comes."""
        with tempfile.TemporaryFile() as complaints:
            async with program(self._command("--lines=1"), stderr=complaints) as process:
                assert process.stdout is not None
                line = await process.stdout.readline()
                code = await process.wait()
            if code:
                raise TransientError(self._ended(code, complaints))
        if line:
            self._cursor = str(_DECODER.decode(line).get("__CURSOR", ""))
            self._intake.begin("", self._lane, Position(0, self._cursor))
            await self._intake.save()

    async def _follow(self) -> str:
        # Not --after-cursor: where the journal has deleted that entry, it leaves out the one that follows.
        where = [f"--cursor={self._cursor}"] if self._cursor else []
        self._last = _place(self._cursor)
        with tempfile.TemporaryFile() as complaints:
            code = await self._followed(self._command("--follow", "--lines=all", *where), complaints)
            return self._ended(code, complaints)

    def _ended(self, code: int, complaints: IO[bytes]) -> str:
        """Say how journalctl ended, with what it said last."""
        complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - 300))
        said = complaints.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"{self._options.command[0]} ended with {code}" + (f": {said}" if said else "")

    async def _followed(self, command: list[str], complaints: IO[bytes]) -> int:
        async with program(command, stderr=complaints) as process:
            reader = process.stdout
            assert reader is not None
            self._intake.trouble("")
            rest, too_long = b"", False
            while data := await self._read(reader):
                if too_long:
                    _end, newline, data = data.partition(b"\n")
                    if not newline:
                        continue
                    too_long = False
                rest += data
                end = rest.rfind(b"\n") + 1 if b"\n" in data else 0
                if end:
                    await self._hand_on(rest[:end].split(b"\n")[:-1])
                    rest = rest[end:]
                elif len(rest) > _ENTRY_BYTES:
                    rest, too_long = b"", True
                    self._intake.count("too_long")
            return await process.wait()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """Read what is there; a moment after the first, so that a block is more than one entry."""
        while self._lane not in self._intake.ready():
            await self._intake.room()
        data = await reader.read(BLOCK_BYTES)
        if data and len(data) < BLOCK_BYTES:
            await asyncio.sleep(WAIT_S)
        return data

    async def _hand_on(self, lines: list[bytes]) -> None:
        found = await self._intake.thread(lambda: list(filter(None, map(self._entry, lines))))
        at = self._known(found[0]) if found and self._last is not None else 0
        while at < len(found):
            # Sequence numbers count within one journal: ids are made of both.
            journal = found[at][0]
            stop = next((n for n in range(at, len(found)) if found[n][0] != journal), len(found))
            group = found[at:stop]
            block = Block(
                source=self._intake.source,
                stream=f"journal.{journal}",
                path="journal",
                begin=group[0][1],
                end=group[-1][1] + 1,
                data=b"".join(one[2] + b"\n" for one in group),
                count=len(group),
                starts=tuple(one[1] for one in group),
            )
            self._cursor = group[-1][3]
            await self._intake.put(block, (self._lane,), Position(group[-1][1], self._cursor))
            at = stop

    def _known(self, first: tuple[str, int, bytes, str]) -> int:
        """Return how many entries are left out where reading goes on: the one that was read last, if it is there."""
        last, self._last = self._last, None
        if first[:2] == last:
            return 1
        self._intake.count("vanished")
        _log.warning(
            "log source %s: the entry that was read last is gone; what the journal deleted with it is lost",
            self._intake.source,
        )
        return 0

    def _entry(self, line: bytes) -> tuple[str, int, bytes, str] | None:
        """Return journal, sequence number, the line that goes on, and the cursor."""
        try:
            entry = _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._intake.count("unread")
            return None
        cursor = str(entry.get("__CURSOR", ""))
        place = _place(cursor)
        if place is None:
            self._intake.count("unread")
            return None
        return *place, _ENCODER.encode(_named(entry, every=self._options.all)), cursor


def _place(cursor: str) -> tuple[str, int] | None:
    """Return the journal that a cursor is of, and the number of its entry."""
    found = _CURSOR.match(cursor)
    return (found[1], int(found[2], 16)) if found else None


def _named(entry: Mapping[str, Any], *, every: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"message": _text(entry.get("MESSAGE"))}
    stamp = entry.get("_SOURCE_REALTIME_TIMESTAMP") or entry.get("__REALTIME_TIMESTAMP")
    if isinstance(stamp, str) and stamp.isdigit():
        at = datetime.fromtimestamp(int(stamp) // 1_000_000, UTC).replace(microsecond=int(stamp) % 1_000_000)
        found["timestamp"] = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    priority = entry.get("PRIORITY")
    if isinstance(priority, str) and priority.isdigit() and int(priority) < len(_LEVELS):
        found["level"] = _LEVELS[int(priority)]
    for name, ours in _NAMES.items():
        if name in entry:
            found[ours] = _text(entry[name])
    if every:
        found |= {name: _text(value) for name, value in entry.items() if not name.startswith("__")}
    return found


def _text(value: object) -> str:
    """Return a field's text: what is not printable comes as numbers, what comes twice as a list."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        if all(isinstance(one, int) and 0 <= one < 256 for one in value):
            return bytes(value).decode("utf-8", "replace")
        return "\n".join(map(_text, value))
    return "" if value is None else str(value)
