"""The `file` source."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.core.units import Seconds
from dogwatch.errors import UsageError
from dogwatch.logs.block import UNCOUNTED, Block, Position
from dogwatch.logs.multiline import Multiline
from dogwatch.logs.source import Intake, Source
from dogwatch.logs.tail.finding import Finder
from dogwatch.logs.tail.follow import Follow
from dogwatch.logs.tail.follower import Follower
from dogwatch.logs.tail.identity import Saved
from dogwatch.logs.tail.lines import Text
from dogwatch.logs.tail.notices import Notices
from dogwatch.logs.tail.stream import Piece

# From one look at files that grow to the next.
_BUSY_S = 0.11
_TOGETHER_BYTES = 64 * 1024
# Where the system tells of changes, so many times as rarely without being told.
_SELDOM = 10


class FileSource(Source, frozen=True, kw_only=True):
    """Follows files through rotation by rename, by copy-truncate and by re-creation.

    paths: files and patterns, `/var/log/app/*.log`, `**` for any depth. exclude: patterns of names or paths that are
    left out; compressed files always are, they are only read to finish what was rotated. start: of files that are
    there at the very first start, beginning or end; default end. encoding: of the files, as Python names it; default
    UTF-8, and what is not UTF-8 passes as it is. max_line: of a longer line this much is delivered, the rest is
    counted; default 256KiB. search: how often at most to look for new files; default 1s. poll: the longest time between
    looks at sizes; default 1s. Where the system tells of changes, both are done when it does, and otherwise ten times
    as rarely. quiet: a file that lost its name is read until
    nothing came for so long; then its last line is delivered even without a line end; default 5s. keep: a rotated file
    stays open for late lines so long; default 5m. multiline: which lines make one record.
    """

    kind: ClassVar[str] = "file"
    short: ClassVar[str] = "paths"

    paths: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    start: Literal["beginning", "end"] = "end"
    encoding: str = ""
    max_line: Annotated[int, Meta(ge=256, le=64 * 1024 * 1024, extra={"unit": "size"})] = 256 * 1024
    search: Seconds = 1.0
    poll: Seconds = 1.0
    quiet: Seconds = 5.0
    keep: Seconds = 300.0
    multiline: Multiline | None = None

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.paths:
            yield ("paths",), "names no files", "paths: [/var/log/app/*.log]"
        for at, path in enumerate(self.paths):
            if not path.startswith("/") or "\0" in path:
                yield ("paths", at), "is not an absolute path", ""
        if self.encoding:
            try:
                codecs.lookup(self.encoding)
                Text(self.encoding)
            except (LookupError, UsageError):
                yield ("encoding",), "is not an encoding whose lines can be told apart", "utf-8, latin-1, utf-16-le"
        if self.multiline is not None:
            yield from self.multiline.faults()
            if self.encoding:
                yield ("multiline",), "goes with UTF-8 alone", "leave out encoding"

    async def run(self, intake: Intake) -> None:
        follow = Follow(
            source=intake.source,
            lanes=intake.lanes,
            start=self.start,
            encoding=self.encoding,
            line_bytes=self.max_line,
            quiet_s=self.quiet,
            keep_s=self.keep,
            multiline=self.multiline,
            **({} if self.multiline is None else {"block_bytes": max(1024 * 1024, 2 * self.multiline.max_size)}),
        )
        finder = Finder(self.paths, self.exclude)
        follower = Follower(
            follow,
            finder,
            intake.saved(),
            horizon_s=intake.horizon_s(),
            generations=intake.generations(),
        )
        await _Running(self, follower, finder, intake).run()


class _Running:
    """The task of one file source: search, sweep, hand out, wait for a change.

    Where the system tells of changes, files are looked for when folders change and sizes are looked at when files do;
    without being told, only seldom: what changes elsewhere (a network, the target of a link) is found so.
    """

    def __init__(self, options: FileSource, follower: Follower, finder: Finder, intake: Intake) -> None:
        self._options = options
        self._finder = finder
        self._follower = follower
        self._intake = intake
        self._known: set[str] = set()
        self._tick_at_s = 0.0
        self._search_at_s = 0.0
        self._sweep_at_s = 0.0
        self._more = True
        self._moved = False
        self._told = asyncio.Event()
        self._notices: Notices | None = None
        self._shown: dict[str, int] = {}
        self._description: list[Saved] = []
        self._horizon_s = follower.horizon_s
        # New folders that a pattern may match are told by nobody.
        self._deep = any(glob.has_magic(os.path.dirname(path)) for path in options.paths)  # noqa: PTH120

    async def run(self) -> None:
        with contextlib.suppress(OSError):
            self._notices = Notices(self._told.set)
        self._description = list(self._intake.saved())
        self._intake.describe(lambda: self._description, lambda: self._horizon_s)
        try:
            while True:
                await self._round()
        finally:
            if self._notices is not None:
                self._notices.close()
            self._follower.close()

    def _describe(self) -> None:
        """Take down which streams there are, now that no thread changes them: a checkpoint may come at any time.

        How far they are read is the intake's to say.
        """
        source, follower = self._intake.source, self._follower
        self._description = [*(one.saved(source) for one in follower.streams.values()), *follower.parked()]
        self._horizon_s = follower.horizon_s

    async def _round(self) -> None:
        intake, follower = self._intake, self._follower
        clock = intake.clock
        now_s = clock.monotonic_s()
        tick = now_s >= self._tick_at_s
        search = tick and self._must_search(now_s)
        sweep = self._more or search or now_s >= self._sweep_at_s or self._is_told()
        if tick:
            self._tick_at_s = now_s + self._options.search
        pieces: list[Piece] = []
        if sweep or tick:
            # Before the look: what changes after it is told.
            self._told.clear()
            if self._notices is not None:
                self._notices.rearm()
            ready = intake.ready()
            wall_s = clock.now_s() if search else None
            pieces = await intake.thread(lambda: self._look(ready, now_s, wall_s, sweep=sweep, tick=tick))
        if search:
            self._search_at_s = now_s + self._options.search * (1 if self._notices is None or self._deep else _SELDOM)
            self._watch()
        if sweep:
            self._sweep_at_s = now_s + self._poll_s() * (1 if self._notices is None else _SELDOM)
        # What a search brought is read in the next turn, and has told nobody that it grew.
        self._more = bool(pieces) or follower.streams.keys() != self._known
        self._moved = self._moved or bool(pieces)
        first = self._horizon_s is None
        if follower.streams.keys() != self._known or search:
            self._register()
            self._describe()
        elif tick and self._moved:
            self._describe()
            self._moved = False
        if follower.must_save or first:
            # Before a record is delivered: its stream's name, and that everything from now on is to be read.
            follower.must_save = False
            self._describe()
            await intake.save()
        for some in _together(pieces):
            await intake.put_several([(self._block(piece), piece.after) for piece in some], some[0].lanes)
        self._count()
        if not pieces:
            await self._rest()
        elif not follower.behind:
            # Soon there will be more, and one larger block is cheaper than many small ones.
            await asyncio.sleep(max(_BUSY_S / 4, now_s + _BUSY_S - clock.monotonic_s()))

    def _must_search(self, now_s: float) -> bool:
        return self._notices is None or self._notices.take_changed() or now_s >= self._search_at_s

    def _is_told(self) -> bool:
        return self._told.is_set() or bool(self._options.multiline)

    def _poll_s(self) -> float:
        poll_s = self._options.poll
        if self._options.multiline is not None:
            poll_s = min(poll_s, max(0.05, self._options.multiline.timeout))
        return poll_s

    def _look(
        self, ready: frozenset[str], now_s: float, wall_s: float | None, *, sweep: bool, tick: bool
    ) -> list[Piece]:
        """Sweep first: a truncation is noticed by the sizes before a search could mistake its copy."""
        follower = self._follower
        pieces = follower.sweep(ready, now_s) if sweep else []
        if tick:
            # What this sweep brought was not handed on yet: nobody can have accepted it.
            fresh = {piece.stream for piece in pieces}
            follower.retire(now_s, lambda name: name not in fresh and self._intake.accepted(name))
        if wall_s is not None:
            follower.search(now_s, wall_s)
        return pieces

    def _register(self) -> None:
        for name, stream in self._follower.streams.items():
            if name not in self._known:
                self._known.add(name)
                for lane, reach in stream.lanes.items():
                    self._intake.begin(name, lane, Position(reach.offset, reach.tail.hex()))
        for name in self._follower.finished():
            self._known.discard(name)
            self._intake.forget(name)
        self._known &= self._follower.streams.keys()
        self._intake.note_generations(self._follower.generations)

    def _block(self, piece: Piece) -> Block:
        return Block(
            source=self._intake.source,
            stream=piece.stream,
            path=piece.path,
            begin=piece.begin,
            end=piece.after.offset,
            data=piece.data,
            count=piece.data.count(b"\n") if self._intake.wants_counts else UNCOUNTED,
            starts=piece.starts,
            joined=piece.joined,
        )

    def _count(self) -> None:
        for name, value in self._follower.counts.items():
            if value != self._shown.get(name, 0):
                self._intake.count(name, value - self._shown.get(name, 0))
                self._shown[name] = value

    async def _rest(self) -> None:
        """Wait for a change of a file, room in a lane, or the next look."""
        room = asyncio.ensure_future(self._intake.room())
        told = asyncio.ensure_future(self._told.wait())
        next_s = min(self._tick_at_s, self._sweep_at_s)
        limit_s = min(self._poll_s(), max(0.01, next_s - self._intake.clock.monotonic_s()))
        try:
            done, _waiting = await asyncio.wait([room, told], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            # A lane that has room again is read for, whether or not anything changed.
            self._more = self._more or room in done
        finally:
            room.cancel()
            told.cancel()

    def _watch(self) -> None:
        if self._notices is None:
            return
        try:
            self._notices.watch({Path(folder) for folder in self._finder.folders()})
        except OSError:
            # No more watches: looking at sizes every `poll` goes on.
            self._notices.close()
            self._notices = None


def _together(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Yield pieces in their order, small ones for the same lanes together: what one costs to hand out is not little."""
    some: list[Piece] = []
    size = 0
    for piece in pieces:
        if some and (piece.lanes != some[0].lanes or size + len(piece.data) > _TOGETHER_BYTES):
            yield some
            some, size = [], 0
        some.append(piece)
        size += len(piece.data)
    if some:
        yield some
