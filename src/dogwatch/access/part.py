"""Access as a part of the daemon: its options can be reloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from dogwatch.access.options import ACCESS, AccessOptions
from dogwatch.access.service import Access
from dogwatch.config.part import Configuration
from dogwatch.core.bus import Bus

Spawn = Callable[[str, Coroutine[None, None, None]], asyncio.Task[None]]


class AccessPart:
    """spawn: starts the task that keeps the audit trail, with the first configuration. bus: tells of reloads."""

    name = "access"

    def __init__(self, access: Access, spawn: Spawn, bus: Bus) -> None:
        self._access = access
        self._spawn = spawn
        self._bus = bus
        self._task: asyncio.Task[None] | None = None

    def prepare(self, configuration: Configuration) -> _Change:
        return _Change(self, configuration.get(ACCESS))

    def put_in_force(self, options: AccessOptions) -> None:
        self._access.use(options)
        if self._task is None:
            self._task = self._spawn("access", self._access.run(self._bus))

    async def stop(self) -> None:
        """Write down what was used, and end the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._access.flush()
        await self._access.keeper.close()


class _Change:
    def __init__(self, part: AccessPart, options: AccessOptions) -> None:
        self._part = part
        self._options = options

    async def start(self) -> None:
        pass

    def swap(self) -> None:
        self._part.put_in_force(self._options)

    async def finish(self) -> None:
        pass

    async def discard(self) -> None:
        pass
