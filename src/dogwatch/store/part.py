"""The store as a part of the daemon: its limits can be reloaded, its path cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dogwatch.config.part import Configuration
from dogwatch.errors import ConfigError, Problem
from dogwatch.store.limits import STORE, StoreLimits


class Bounded(Protocol):
    def set_limits(self, limits: StoreLimits) -> None: ...

    async def close(self) -> None: ...


class _Change:
    """Other limits for a store that goes on."""

    def __init__(self, store: Bounded, limits: StoreLimits) -> None:
        self._store = store
        self._limits = limits

    async def start(self) -> None:
        pass

    def swap(self) -> None:
        self._store.set_limits(self._limits)

    async def finish(self) -> None:
        pass

    async def discard(self) -> None:
        pass


class StorePart:
    """path: of the file that is open."""

    name = "store"

    def __init__(self, store: Bounded, path: str | Path) -> None:
        self._store = store
        self._path = Path(path)

    def prepare(self, configuration: Configuration) -> _Change:
        """Raises: ConfigError where the path changed: history does not move by itself."""
        options = configuration.get(STORE)
        if Path(options.path).absolute() != self._path.absolute():
            problem = Problem(
                f"cannot change from {self._path} to {options.path} while running",
                "store.path",
                hint="restart",
                restart=True,
            )
            raise ConfigError([problem])
        return _Change(self._store, options.limits())

    async def stop(self) -> None:
        await self._store.close()
