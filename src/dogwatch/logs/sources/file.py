"""The `file` source."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.config.inotify import Inotify
from dogwatch.core.units import Seconds
from dogwatch.errors import UsageError
from dogwatch.logs.block import Block, Position
from dogwatch.logs.multiline import Multiline
from dogwatch.logs.source import Intake, Source
from dogwatch.logs.tail.finding import Finder
from dogwatch.logs.tail.follower import Follow, Follower
from dogwatch.logs.tail.identity import Saved
from dogwatch.logs.tail.lines import Text
from dogwatch.logs.tail.stream import Piece

_BUSY_S = 0.1


class FileSource(Source, frozen=True, kw_only=True):
    """Follows files through rotation by rename, by copy-truncate and by re-creation.

    paths: files and patterns, `/var/log/app/*.log`, `**` for any depth. exclude: patterns of names or paths that are
    left out; compressed files always are, they are only read to finish what was rotated. start: of files that are
    there at the very first start, beginning or end; default end. encoding: of the files, as Python names it; default
    UTF-8, and what is not UTF-8 passes as it is. max_line: of a longer line this much is delivered, the rest is
    counted; default 256KiB. search: how often to look for new files; default 1s. poll: the longest time between looks
    at sizes where the system does not tell of changes; default 1s. quiet: a file that lost its name is read until
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
        follower = Follower(
            follow,
            Finder(self.paths, self.exclude),
            intake.saved(),
            horizon_s=intake.horizon_s(),
            generations=intake.generations(),
        )
        await _Running(self, follower, intake).run()


class _Running:
    """The task of one file source: search, sweep, hand out, wait for a change."""

    def __init__(self, options: FileSource, follower: Follower, intake: Intake) -> None:
        self._options = options
        self._follower = follower
        self._intake = intake
        self._known: set[str] = set()
        self._search_at_s = 0.0
        self._changed = asyncio.Event()
        self._inotify: Inotify | None = None
        self._shown: dict[str, int] = {}
        self._description: list[Saved] = []
        self._horizon_s = follower.horizon_s

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            self._inotify = Inotify()
        if self._inotify is not None:
            loop.add_reader(self._inotify.fd, self._wake)
        self._description = list(self._intake.saved())
        self._intake.describe(lambda: self._description, lambda: self._horizon_s)
        try:
            while True:
                await self._round()
        finally:
            if self._inotify is not None:
                loop.remove_reader(self._inotify.fd)
                self._inotify.close()
            self._follower.close()

    def _describe(self) -> None:
        """Take down which streams there are, now that no thread changes them: a checkpoint may come at any time."""
        source, follower = self._intake.source, self._follower
        self._description = [*(one.saved(source) for one in follower.streams.values()), *follower.parked()]
        self._horizon_s = follower.horizon_s

    async def _round(self) -> None:
        intake, follower = self._intake, self._follower
        clock = intake.clock
        now_s = clock.monotonic_s()
        ready = intake.ready()
        search = now_s >= self._search_at_s
        pieces = await intake.thread(lambda: self._look(ready, now_s, clock.now_s() if search else None))
        if search:
            self._search_at_s = now_s + self._options.search
            self._watch()
        first = self._horizon_s is None
        self._register()
        if pieces or search:
            self._describe()
        if follower.must_save or first:
            # Before a record is delivered: its stream's name, and that everything from now on is to be read.
            follower.must_save = False
            await intake.save()
        for piece in pieces:
            await intake.put(self._block(piece), piece.lanes, piece.after)
        self._count()
        if not pieces:
            await self._rest()
        elif sum(len(piece.data) for piece in pieces) < 256 * 1024:
            # Little came: soon there will be more, and one larger block is cheaper than many small ones.
            await asyncio.sleep(_BUSY_S)

    def _look(self, ready: frozenset[str], now_s: float, wall_s: float | None) -> list[Piece]:
        """Sweep first: a truncation is noticed by the sizes before a search could mistake its copy."""
        follower = self._follower
        pieces = follower.sweep(ready, now_s)
        if wall_s is not None:
            follower.retire(now_s, self._intake.accepted)
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
        self._intake.note_generations(self._follower.generations)

    def _block(self, piece: Piece) -> Block:
        return Block(
            source=self._intake.source,
            stream=piece.stream,
            path=piece.path,
            begin=piece.begin,
            end=piece.after.offset,
            data=piece.data,
            count=piece.data.count(b"\n"),
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
        self._changed.clear()
        room = asyncio.ensure_future(self._intake.room())
        changed = asyncio.ensure_future(self._changed.wait())
        poll_s = self._options.poll
        if self._options.multiline is not None:
            poll_s = min(poll_s, max(0.05, self._options.multiline.timeout))
        limit_s = min(poll_s, max(0.01, self._search_at_s - self._intake.clock.monotonic_s()))
        try:
            await asyncio.wait([room, changed], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()
            changed.cancel()

    def _wake(self) -> None:
        if self._inotify is not None:
            self._inotify.read()
            self._changed.set()

    def _watch(self) -> None:
        if self._inotify is None:
            return
        try:
            self._inotify.watch({Path(folder) for folder in self._follower.folders()})
        except OSError:
            # No more watches: looking at sizes every `poll` goes on.
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
