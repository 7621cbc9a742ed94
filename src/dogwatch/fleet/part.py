"""The fleet of the running program: its inventory, read when it is needed, its kept connections, its book of runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from dogwatch.config.part import Configuration
from dogwatch.core.component import nearest
from dogwatch.core.metrics import Family
from dogwatch.engine.book.intents import Sealer
from dogwatch.engine.values import Worker
from dogwatch.errors import NotFound, PermanentError
from dogwatch.fleet.book.book import FleetBook
from dogwatch.fleet.book.desk import PlanDesk
from dogwatch.fleet.book.shared import SharedBook
from dogwatch.fleet.book.shelf import FileShelf
from dogwatch.fleet.inventory.agents import Agent
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.inventory.load import Origin, load_inventory, no_origin
from dogwatch.fleet.pool import Pool
from dogwatch.fleet.section import FLEET, Fleet
from dogwatch.store.database import Database


class FleetPart:
    """Holds the `fleet:` section in force; the service behind the action kind `ssh`.

    base: the folder that relative paths of sources are relative to, where the configuration does not say its own.
    database: where runs are written down; None: nowhere. plans: the folder that plans of steps are kept in; None where
    this program has none. beside: the data folder where command lines keep their runs, which are told, too.
    """

    name = "fleet"

    def __init__(
        self,
        base: Path | None = None,
        *,
        database: Database | None = None,
        plans: Path | None = None,
        beside: Path | None = None,
    ) -> None:
        self._base = base
        self.plans = plans
        self.book: FleetBook | None = None
        if database is not None:
            self.book = FleetBook(database, audited=False) if beside is None else SharedBook(database, beside)
        self.desk = None if database is None else PlanDesk(database, self._sealer_now)
        self.shelf = None if database is None else FileShelf(database)
        # The registry of workers, for the source `agents`; whoever joins the parts sets it.
        self.workers: Callable[[], Awaitable[Sequence[Worker]]] | None = None
        # What plans are kept with; whoever joins the parts sets it.
        self.sealer: Callable[[], Sealer | None] = lambda: None
        self._pools: dict[tuple[float, bool], Pool] = {}
        self._fleet = Fleet()
        self._origin: Origin = no_origin

    def _sealer_now(self) -> Sealer | None:
        return self.sealer()

    async def inventory(self) -> Inventory:
        """Read the sources now: hosts come and go without a reload. Raises: ConfigError with every problem."""
        fleet, origin = self._fleet, self._origin
        agents = await self._agents() if any(source.kind == "agents" for source in fleet.sources) else None
        # Files, programs and addresses: not for the loop's thread.
        return await asyncio.to_thread(load_inventory, fleet, origin, base=self._base, agents=agents)

    async def _agents(self) -> list[Agent] | None:
        """Return what workers tell of their machines. Raises: TransientError while the database cannot be used."""
        if self.workers is None:
            return None
        return [
            Agent(host=one.host, state=one.state, labels=one.labels, heartbeat_s=one.heartbeat_s, version=one.version)
            for one in await self.workers()
        ]

    @property
    def playbooks(self) -> dict[str, Path]:
        """Return the playbooks that the configuration names, each with its file."""
        found = {}
        for name, path in self._fleet.playbooks.items():
            file, _, line = self._origin(("fleet", "playbooks", name)).rpartition(":")
            base = Path(file).parent if file and line.isdigit() else self._base or Path()
            found[name] = base / Path(path).expanduser()
        return found

    def playbook(self, name: str) -> Path:
        """Raises: NotFound."""
        found = self.playbooks
        if name not in found:
            raise NotFound(
                f"the configuration names no playbook '{name[:60]}'",
                hint=nearest(name, list(found)) or "fleet: {playbooks: {site: /srv/ops/site.yaml}}",
            )
        return found[name]

    def prepare(self, configuration: Configuration) -> _Prepared:
        fleet = configuration.get(FLEET)
        origin: Origin = getattr(configuration, "origin", no_origin)

        def swap() -> None:
            self._fleet, self._origin = fleet, origin

        return _Prepared(swap)

    def pool(self, *, connect_timeout_s: float, accept_new: bool = False) -> Pool:
        """Return the connections that all steps share; there is one for each way to open them.

        Raises: PermanentError where SSH is not installed.
        """
        key = (connect_timeout_s, accept_new)
        if key not in self._pools:
            try:
                from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
            except ImportError:
                raise PermanentError("SSH is not installed here", hint="pip install 'dogwatch[fleet]'") from None
            options = SshOptions(connect_timeout_s=connect_timeout_s, accept_new=accept_new)
            self._pools[key] = Pool(SshDialer(options))
        return self._pools[key]

    def metrics(self) -> Iterable[Family]:
        pools = self._pools.values()
        numbers = (
            ("opened_total", "counter", "Connections to hosts that were opened.", sum(one.opened for one in pools)),
            ("reused_total", "counter", "Commands that took a kept connection.", sum(one.reused for one in pools)),
            ("idle", "gauge", "Connections to hosts that are kept unused.", sum(one.idle for one in pools)),
        )
        for name, kind, text, value in numbers:
            full = f"dogwatch_fleet_connections_{name}"
            yield Family(full, kind, text, [(full, float(value))])

    async def stop(self) -> None:
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.close()


class _Prepared:
    def __init__(self, swap: Callable[[], None]) -> None:
        self.swap = swap

    async def start(self) -> None:
        """Sources are read when they are needed: one that is away must not keep a configuration from loading."""

    async def finish(self) -> None: ...

    async def discard(self) -> None: ...
