"""The `store` sink: the searchable store on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from dogwatch.core.deadline import finished, woken
from dogwatch.core.units import Bytes, Seconds
from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import json_lines
from dogwatch.logs.sink import Sink, Tools, Worker
from dogwatch.logs.store.keeping import Keep, Keeper, Steady
from dogwatch.logs.store.layout import sync, wal_path, wals
from dogwatch.logs.store.tidying import hold, tidy
from dogwatch.logs.store.wal import header

_log = logging.getLogger(__name__)
_KEEP_EVERY_S = 60.0


class StoreSink(Sink, frozen=True, kw_only=True):
    """Keeps records on this machine, for `dogwatch logs query` and the console; each exactly once.

    path: the folder; default `store` beside the agent's checkpoint. age: older records are deleted; 0s for never;
    default 14d. size: of all segments, the oldest go first; default 10GiB. seal: new records become a columnar segment
    once there is so much of them; default 4MiB. wait: or so long after the first; default 5m.
    """

    kind: ClassVar[str] = "store"
    short: ClassVar[str] = "path"

    path: str = ""
    age: Seconds = 14 * 86400.0
    size: Bytes = 10 * 1024 * 1024 * 1024
    seal: Bytes = 4 * 1024 * 1024
    wait: Seconds = 300.0

    def takes_json(self) -> bool:
        return True

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if self.path and (not self.path.startswith("/") or "\0" in self.path):
            yield ("path",), "is not an absolute path of a folder", ""
        if self.seal < 4096:
            yield ("seal",), "is at least 4KiB", ""

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:
        folder = Path(self.path) if self.path else tools.folder / "store"
        worker = _Store(self, folder, tools)
        await tools.thread(lambda: worker.recover(state))
        worker.start()
        return worker


class _Store:
    """Appends to the write-ahead file as the file sink does to its file: after a crash it is cut to the length that
    the checkpoint knows. A process beside it makes segments of finished files, for as long as there are some.
    """

    def __init__(self, options: StoreSink, folder: Path, tools: Tools) -> None:
        self._options = options
        self._folder = folder
        self._tools = tools
        self._keeper = Keeper(
            folder, Keep(age_s=options.age, size_bytes=options.size), Steady(time.time, time.monotonic)
        )
        self._fd = self._lock_fd = -1
        self._number = 0
        # What is before it may be sealed: the checkpoint speaks of it.
        self._sealable = 0
        self._length = 0
        self._begun_s = 0.0
        self._state = SinkState()
        self._known = False
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="log store")

    def recover(self, state: SinkState | None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._unlock()
            raise TransientError(f"another agent writes to {self._folder}; each needs a folder of its own") from None
        try:
            os.close(hold(self._folder))
        except BlockingIOError:
            self._unlock()
            raise TransientError(f"{self._folder} is still being tidied for an agent that is gone") from None
        for partial in self._folder.glob("wal-*.ndjson.new"):
            partial.unlink()
        found = wals(self._folder)
        last = max(found, default=0)
        if state is not None and state.path and Path(state.path).parent == self._folder:
            number = int(Path(state.path).stem[4:])
            for later in [one for one in found if one > number]:
                # It came after the last checkpoint: its records come again.
                found.pop(later).unlink()
            path = found.get(number)
            if path is not None:
                now = path.stat()
                if (now.st_dev, now.st_ino) == (state.device, state.inode) and now.st_size > state.length:
                    os.truncate(path, state.length)
            self._keeper.recover()
            last = max(number, last)
            self._open(number if path is not None else last + 1)
            self._known = path is not None
            self._sealable = self._number if self._known else 0
            return
        # Not ours to cut: another agent's, or one whose checkpoint is lost. What is there stays.
        self._keeper.recover()
        segments = [int(path.stem[4:12]) for path in self._folder.glob("seg-*.parquet") if path.stem[4:12].isdecimal()]
        self._open(max([last, *segments]) + 1)

    def _open(self, number: int) -> None:
        path = wal_path(self._folder, number)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        sync(self._folder)
        now = os.fstat(self._fd)
        self._number, self._length = number, now.st_size
        self._begun_s = time.monotonic()
        self._note(self._length)

    def _note(self, length: int) -> None:
        now = os.fstat(self._fd)
        self._length = length
        path = str(wal_path(self._folder, self._number))
        self._state = SinkState(path=path, device=now.st_dev, inode=now.st_ino, length=length)

    async def write(self, blocks: Sequence[Block]) -> None:
        full = self._length >= self._options.seal
        if full or (self._length and time.monotonic() - self._begun_s >= self._options.wait):
            await self._next()
        if not self._known:
            await self._know()
        self._note(await self._tools.thread(lambda: self._append(blocks)))

    async def _next(self) -> None:
        """Go on in a new file. The old one is sealed only when the checkpoint speaks of the new one."""
        await self._tools.commit(self._state)
        self._known = False
        await self._tools.thread(self._switch)
        await self._know()
        self._due.set()

    async def _know(self) -> None:
        await self._tools.commit(self._state)
        self._known, self._sealable = True, self._number

    def _switch(self) -> None:
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._open(self._number + 1)

    def _append(self, blocks: Sequence[Block]) -> int:
        start = at = self._length
        try:
            for part in (header(int(time.time() * 1e6)), *map(json_lines, blocks)):
                view = memoryview(part)
                while view:
                    written = os.pwrite(self._fd, view, at)
                    view, at = view[written:], at + written
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, start)
            raise TransientError(f"cannot write to {self._folder}: {error.strerror}") from None
        return at

    async def _keep(self) -> None:
        failing = ""
        while True:
            # Before the work: what becomes due meanwhile is done next.
            self._due.clear()
            number = self._sealable
            try:
                await self._work(number)
                failing = ""
            except (OSError, TransientError) as error:
                # A full disk: the write-ahead files stay, and are read as they are.
                if str(error) != failing:
                    _log.error("the log store cannot be tidied: %s", error)
                failing = str(error)
            await woken(self._due, _KEEP_EVERY_S)

    async def _work(self, number: int) -> None:
        await finished(asyncio.ensure_future(asyncio.to_thread(self._keeper.retain)))
        await tidy(self._folder, number)

    def state(self) -> SinkState | None:
        return self._state

    def sync(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
