"""What a program writes, read on the event loop: at a bounded pace, and only as fast as somebody takes it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from dogwatch.engine.launch.command import Output

_CHUNK = 64 * 1024
# A program that only writes would keep the loop busy for nothing: 80 MiB/s of each stream are read and no more.
_WINDOW_S = 0.05
_WINDOW_BYTES = 4 * 1024 * 1024
# What a pipe can still hold when the last of its writers is gone; more comes from a writer that is not ours to end.
_REST_BYTES = 2 * 1024 * 1024


class Stream:
    """A pipe. Give `write_end` away and close it; call `close` on every path.

    failed: called once where the output callback raises; `error` is what it raised, and nothing more is read.
    """

    def __init__(self, name: str, output: Output, failed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._output = output
        self._failed = failed
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._busy: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._window = (0.0, 0)
        self.error: Exception | None = None
        self._loop.add_reader(self._read_end, self._ready)

    def _ready(self) -> None:
        try:
            data = os.read(self._read_end, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._close_read_end()
            return
        self._hand(data)
        if self._busy is None and self._read_end >= 0:
            self._pace(len(data))

    def _hand(self, data: bytes) -> None:
        try:
            taking = self._output(self._name, data)
        except Exception as error:  # noqa: BLE001 it is the caller's: it is raised where the caller waits
            self._fail(error)
            return
        if taking is not None:
            self._loop.remove_reader(self._read_end)
            self._busy = asyncio.ensure_future(taking)
            self._busy.add_done_callback(self._taken)

    def _taken(self, task: asyncio.Future[None]) -> None:
        self._busy = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)
        elif self._read_end >= 0:
            self._loop.add_reader(self._read_end, self._ready)

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._close_read_end()
        self._failed()

    def _pace(self, size: int) -> None:
        began_s, read = self._window
        now_s = self._loop.time()
        if now_s - began_s >= _WINDOW_S:
            began_s, read = now_s, 0
        self._window = began_s, read + size
        if read + size >= _WINDOW_BYTES:
            self._loop.remove_reader(self._read_end)
            self._timer = self._loop.call_later(max(0.0, began_s + _WINDOW_S - now_s), self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        if self._read_end >= 0:
            self._loop.add_reader(self._read_end, self._ready)

    def close_write_end(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    async def drain(self) -> None:
        """Read what is there, once nobody of ours writes any more. A stranger may hold the pipe open for ever."""
        left = _REST_BYTES
        while left > 0:
            if self._busy is not None:
                await asyncio.wait({self._busy})
                await asyncio.sleep(0)  # its callback, _taken, comes first
                continue
            if self._read_end < 0:
                return
            try:
                data = os.read(self._read_end, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            left -= len(data)
            self._hand(data)

    def close(self) -> None:
        self.close_write_end()
        self._close_read_end()
        if self._busy is not None:
            self._busy.cancel()

    def _close_read_end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._read_end >= 0:
            self._loop.remove_reader(self._read_end)
            os.close(self._read_end)
            self._read_end = -1
