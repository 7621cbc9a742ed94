"""Keeps the garbage collector from walking what a configuration has built: at 5,000 targets that stops the loop for
150 ms each time."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

from dogwatch.config.part import Configuration

_M_ARENA_MAX = -8  # malloc.h
# Attempts leave next to nothing that only the collector finds; by default it looks after every 700 objects, which
# costs a microsecond for each attempt.
_THRESHOLDS = 10_000, 20, 20


class SettledHeap:
    """A part that comes last: once everything else is in force, what lives now is taken to live on."""

    name = "heap"

    def __init__(self) -> None:
        self._before = gc.get_threshold()
        # glibc has a heap for each thread, and keeps what they free. One is enough for threads that take turns.
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)

    def prepare(self, configuration: Configuration) -> SettledHeap:  # noqa: ARG002 the same whatever is configured
        return self

    async def start(self) -> None:
        """Nothing to start."""

    def swap(self) -> None:
        """Nothing to swap."""

    async def finish(self) -> None:
        # What was frozen for the configuration before is garbage by now: thaw, collect, freeze what is left.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)

    async def discard(self) -> None:
        """Nothing was done."""

    async def stop(self) -> None:
        gc.set_threshold(*self._before)
        gc.unfreeze()
