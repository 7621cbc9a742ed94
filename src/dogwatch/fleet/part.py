"""The inventory of the running program: what its configuration says, read when it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from dogwatch.config.part import Configuration
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.inventory.load import Origin, load_inventory, no_origin
from dogwatch.fleet.section import FLEET, Fleet


class FleetPart:
    """Holds the `fleet:` section in force; the service behind the action kind `ssh`.

    base: the folder that relative paths of sources are relative to, where the configuration does not say its own.
    plans: the folder that plans of steps are kept in; None where this program has none.
    """

    name = "fleet"

    def __init__(self, base: Path | None = None, *, plans: Path | None = None) -> None:
        self._base = base
        self.plans = plans
        self._fleet = Fleet()
        self._origin: Origin = no_origin

    async def inventory(self) -> Inventory:
        """Read the sources now: hosts come and go without a reload. Raises: ConfigError with every problem."""
        fleet, origin = self._fleet, self._origin
        # Files, programs and addresses: not for the loop's thread.
        return await asyncio.to_thread(load_inventory, fleet, origin, base=self._base)

    def prepare(self, configuration: Configuration) -> _Prepared:
        fleet = configuration.get(FLEET)
        origin: Origin = getattr(configuration, "origin", no_origin)

        def swap() -> None:
            self._fleet, self._origin = fleet, origin

        return _Prepared(swap)

    async def stop(self) -> None:
        """It owns nothing that runs."""


class _Prepared:
    def __init__(self, swap: Callable[[], None]) -> None:
        self.swap = swap

    async def start(self) -> None:
        """Sources are read when they are needed: one that is away must not keep a configuration from loading."""

    async def finish(self) -> None: ...

    async def discard(self) -> None: ...
