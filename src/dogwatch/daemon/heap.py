"""Keeps the garbage collector from walking what a configuration has built: at 5,000 targets that stops the loop for
150 ms each time."""

from __future__ import annotations

import gc

from dogwatch.config.part import Configuration


class SettledHeap:
    """A part that comes last: once everything else is in force, what lives now is taken to live on."""

    name = "heap"

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

    async def discard(self) -> None:
        """Nothing was done."""

    async def stop(self) -> None:
        gc.unfreeze()
