"""The one place where parts are joined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from dogwatch import __version__
from dogwatch.access.options import ACCESS
from dogwatch.access.part import AccessPart
from dogwatch.access.service import Access
from dogwatch.config.part import Configuration, Part
from dogwatch.config.reload import Reloader
from dogwatch.config.show import Row, rows
from dogwatch.config.status import ReloadControl, ReloadRecord
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family, series
from dogwatch.diagnose.sample import Sample
from dogwatch.diagnose.self_watch import SelfWatch
from dogwatch.engine.part import EnginePart, Surroundings
from dogwatch.engine.plan import JobPlan
from dogwatch.engine.port import Runs
from dogwatch.engine.schedules.scheduler import Scheduler
from dogwatch.engine.schedules.service import Schedules
from dogwatch.engine.traces import TracesPart
from dogwatch.engine.values import StartRun
from dogwatch.errors import UsageError
from dogwatch.features import (
    ACTIONS,
    DOING,
    INCIDENTS,
    JOBS,
    PROBES_SECTION,
    RULES,
    SCHEDULES,
    state_tables,
)
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.shell import FleetShell
from dogwatch.fleet.sight import Sight
from dogwatch.hosts.hosts import Hosts, Spawn
from dogwatch.hosts.view import HostsView
from dogwatch.logs.part import LogsPart
from dogwatch.logs.reader import Logs
from dogwatch.notify.notify import Notify
from dogwatch.notify.section import NOTIFY
from dogwatch.notify.view import Outbox
from dogwatch.probes.blackbox import Blackbox
from dogwatch.probes.engine import Engine
from dogwatch.probes.env import close_env, new_env
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.probe import ProbeEnv
from dogwatch.probes.view import WatchView
from dogwatch.probes.watch import Watch
from dogwatch.reports.inspection import Sources
from dogwatch.reports.part import Reports, changes_in
from dogwatch.rules.backtest_desk import Backtests
from dogwatch.rules.links.links import Links
from dogwatch.rules.part import Incidents
from dogwatch.rules.planned.part import MaintenancePart
from dogwatch.rules.quorum.part import LocationsPart
from dogwatch.rules.remedy.acting import Acting
from dogwatch.rules.remedy.compile import approvers_of
from dogwatch.rules.remedy.doing import Doings
from dogwatch.rules.remedy.evidence import Keeper, Shell
from dogwatch.rules.remedy.keeping import EvidenceKeeper
from dogwatch.rules.surroundings import Around
from dogwatch.status.part import Around as StatusAround
from dogwatch.status.part import StatusPart
from dogwatch.store.database import Database
from dogwatch.store.limits import STORE
from dogwatch.store.part import StorePart
from dogwatch.store.protocol import Availability, Store
from dogwatch.store.sqlite import SqliteStore, open_store
from dogwatch.store.state import DATABASE, DatabaseOptions, DatabasePart, open_database, state_path
from dogwatch.webhooks.hooks import Hooks
from dogwatch.webhooks.view import HooksView


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that must be well for the daemon to be ready."""

    name: str
    ok: bool
    message: str = ""


class Services(msgspec.Struct, kw_only=True):
    """What web and the admin socket are given of the running program."""

    version: str
    clock: Clock
    bus: Bus
    store: Store
    watch: WatchView
    hosts: HostsView
    reload: ReloadControl
    metrics: Callable[[], Iterable[Family]]
    readiness: Callable[[], Sequence[Readiness]]
    # Findings of the self-watch (descriptors near their limit, steady growth), as plain mappings for JSON.
    findings: Callable[[], Sequence[dict[str, object]]]
    runs: Runs
    # What a start would do.
    plan: Callable[[StartRun], JobPlan]
    # `/probe` as blackbox_exporter answers it: (query, request headers in lower case) → (HTTP status, content type,
    # text). None where there is none.
    blackbox: Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[tuple[int, str, str]]] | None = None
    # Who may do what, and the audit trail. None only in tests of other things: then this machine may do everything.
    access: Access | None = None
    database: Database | None = None
    # Webhooks that come in, and messages that go out. None where this program has none.
    hooks: HooksView | None = None
    outbox: Outbox | None = None
    schedules: Schedules | None = None
    incidents: Incidents | None = None
    maintenance: MaintenancePart | None = None
    fleet: FleetPart | None = None
    status: StatusPart | None = None
    reports: Reports | None = None
    backtests: Backtests | None = None
    locations: LocationsPart | None = None
    # By which notices are acknowledged, and actions approved.
    links: Links | None = None
    # The configuration in force, value by value, secrets masked; to be called beside the loop. The newest look of the
    # self-watch at this process.
    settings: Callable[[], Sequence[Row]] | None = None
    sample: Callable[[], Sample | None] | None = None
    # The log store; None where this program has none.
    logs: Logs | None = None


class App:
    """Everything of the running program but the web: built here, owned here, closed here."""

    def __init__(
        self,
        *,
        clock: Clock,
        bus: Bus,
        store: SqliteStore,
        env: ProbeEnv,
        store_path: str,
        spawn: Spawn,
        database: Database,
        database_options: DatabaseOptions,
        access: Access,
    ) -> None:
        self.clock = clock
        # How people reach the console, for messages; whoever serves it says so.
        self.address: Callable[[], str] = lambda: ""
        # How reloads ended, for reports; whoever reloads says so.
        self.reloads: Callable[[], Sequence[ReloadRecord]] = tuple
        self.bus = bus
        self.store = store
        self.env = env
        self.database = database
        self.access = access
        self.watch = Watch(env=env, store=store, bus=bus, clock=clock, section=PROBES_SECTION)
        self.hosts = Hosts(clock=clock, bus=bus, store=store, spawn=spawn)
        self.self_watch = SelfWatch(clock=clock, bus=bus)
        self.blackbox = Blackbox(env=env, registry=PROBES)
        self.notify = Notify(database, clock=clock, spawn=spawn, jobs=JOBS)
        self.fleet = FleetPart(
            database=database, plans=state_path(store_path).parent / "plans", beside=state_path(store_path).parent
        )
        # Probes of the kind `remote` look at hosts through it.
        env.extra["shell"] = shell = FleetShell(self.fleet)
        self.logs = LogsPart(state_path(store_path).parent / "logs")
        self.reports = Reports(lambda: self._sources())  # noqa: PLW0108 of parts that are built below
        self.maintenance = MaintenancePart(database, store, clock=clock, spawn=spawn)
        self.engine = EnginePart(
            Surroundings(
                database=database,
                clock=clock,
                bus=bus,
                actions=ACTIONS,
                jobs=JOBS,
                folder=state_path(store_path).parent,
                services={
                    Outbox: self.notify,
                    FleetPart: self.fleet,
                    Shell: shell,
                    Keeper: EvidenceKeeper(database),
                    Reports: self.reports,
                    Sight: Sight(self.watch.targets),
                },
                is_in=access.is_in,
                more=DOING.jobs,
                frozen=self.maintenance.holds,
            )
        )
        self.fleet.workers, self.fleet.sealer = self.engine.runs.workers, self.engine.runs.sealer
        self.traces = TracesPart(self.engine.runs, clock=clock, spawn=spawn)
        self.schedules = Scheduler(database, self.engine.runs, clock=clock, section=SCHEDULES, spawn=spawn)
        self.hooks = Hooks(
            database, self.engine.runs, clock=clock, spawn=spawn, jobs=JOBS, sealer=lambda: self.engine.sealer
        )
        self.maintenance.on_change(lambda calendar: self.schedules.freeze(calendar.frozen))
        self.maintenance.on_change(lambda _calendar: self.engine.refreeze())
        self.links = Links(
            database, self.notify.enqueue, self.engine.runs, lambda job: approvers_of(self.engine.jobs.get(job))
        )
        self.incidents = Incidents(
            Around(
                database=database,
                clock=clock,
                bus=bus,
                store=store,
                spawn=spawn,
                enqueue=self.links.enqueue,
                targets=self.watch.targets,
                rules=RULES,
                incidents=INCIDENTS,
                calendar=lambda: self.maintenance.calendar,
                remedy=Doings(DOING, Acting(database, self.engine.runs, address=self._at)),
                outside=True,
                # Of these several places decide together.
                shared=lambda: frozenset(one.target for one in self.locations.options.quorum),
            )
        )
        self.status = StatusPart(
            StatusAround(
                database=database,
                clock=clock,
                bus=bus,
                spawn=spawn,
                enqueue=self.notify.enqueue,
                targets=self.watch.targets,
                incidents=self.incidents,
                maintenance=self.maintenance,
                destinations=NOTIFY,
            )
        )
        self.locations = LocationsPart(database, clock=clock, spawn=spawn, targets=self.watch.targets)
        self.backtests = Backtests(self.incidents, clock)
        # In the order in which they start; they stop the other way round.
        self.parts: tuple[Part, ...] = (
            StorePart(store, store_path),
            DatabasePart(database_options),
            AccessPart(access, spawn, bus),
            self.notify,
            self.fleet,
            self.engine,
            self.traces,
            self.maintenance,
            self.schedules,
            self.hooks,
            self.self_watch,
            self.logs,
            self.hosts,
            self.blackbox,
            self.incidents,
            self.status,
            self.watch,
            self.locations,
        )
        self._register_gauges()

    def _at(self) -> str:
        return self.address()

    def _register_gauges(self) -> None:
        """Tell the self-watch of every queue there is."""
        self.self_watch.register("bus_dropped", lambda: self.bus.dropped)
        self.self_watch.register("live_subscribers", lambda: self.bus.subscribers)
        self.self_watch.register("probes_running", lambda: self.watch.running)
        self.self_watch.register("probes_waiting", lambda: self.watch.waiting)
        self.self_watch.register("runs_busy", lambda: self.engine.busy)

    def services(self, reload: Reloader) -> Services:
        """Return what web and admin socket work with."""
        self.reloads = reload.history
        return Services(
            version=__version__,
            clock=self.clock,
            bus=self.bus,
            store=self.store,
            watch=self.watch,
            hosts=self.hosts,
            reload=reload,
            metrics=lambda: self._metrics(reload),
            readiness=lambda: self._readiness(reload),
            findings=lambda: [msgspec.to_builtins(finding) for finding in self.self_watch.findings()],
            blackbox=self.blackbox.answer,
            runs=self.engine.runs,
            plan=self.engine.plan,
            access=self.access,
            database=self.database,
            schedules=Schedules(self.schedules, self.database, self.engine.runs),
            hooks=self.hooks,
            outbox=self.notify,
            incidents=self.incidents,
            maintenance=self.maintenance,
            fleet=self.fleet,
            status=self.status,
            reports=self.reports,
            backtests=self.backtests,
            links=self.links,
            locations=self.locations,
            settings=lambda: rows(reload.current) if reload.current is not None else (),
            sample=self.self_watch.newest,
            logs=self.logs.reader,
        )

    def _sources(self) -> Sources:
        """Return what the whole program's reports look at."""

        async def available(names: Sequence[str], since_s: float, until_s: float) -> Sequence[Availability]:
            labels = {view.name: view.labels for view in self.watch.targets()}
            targets = {name: labels.get(name, {}) for name in names}
            return await self.maintenance.availability(targets, since_s=since_s, until_s=until_s)

        return Sources(
            clock=self.clock,
            store=self.store,
            targets=self.watch.targets,
            hosts=self.hosts.hosts,
            available=available,
            incidents=self.incidents,
            windows=self.maintenance.windows,
            runs=self.engine.runs,
            outbox=self.notify,
            reloads=self.reloads,
            findings=lambda: [msgspec.to_builtins(finding) for finding in self.self_watch.findings()],
            changes=changes_in(self.database),
        )

    def _metrics(self, reload: Reloader) -> Iterable[Family]:
        yield Family("dogwatch_build_info", "gauge", "The running version.", [(_version_series(), 1.0)])
        yield from self.watch.metrics()
        yield from self.env.engine.metrics()
        yield from self.hosts.metrics()
        yield from self.store.metrics()
        yield from self.database.metrics()
        yield from self.access.metrics()
        yield from self.engine.metrics()
        yield from self.traces.metrics()
        yield from self.schedules.metrics()
        yield from self.notify.metrics()
        yield from self.hooks.metrics()
        yield from self.incidents.metrics()
        yield from self.locations.metrics()
        yield from self.fleet.metrics()
        yield from self.logs.metrics()
        yield from self.self_watch.metrics()
        yield from reload.families()
        yield Family(
            "dogwatch_events_dropped_total",
            "counter",
            "Live events lost by slow subscribers.",
            [("dogwatch_events_dropped_total", float(self.bus.dropped))],
        )

    def _readiness(self, reload: Reloader) -> Sequence[Readiness]:
        applied = reload.current is not None
        failing = reload.failing
        return (
            Readiness(
                name="configuration",
                ok=applied,
                message="the newest one has mistakes; the one before is in force" if failing else "",
            ),
            # Trouble with the disk does not make it unready: watching goes on, and nothing else would watch instead.
            Readiness(name="store", ok=True, message=self.store.trouble),
            Readiness(name="database", ok=True, message=self.database.trouble),
            Readiness(name="engine", ok=True, message=self.engine.trouble),
        )

    async def close(self) -> None:
        """Close what the parts shared, the store last."""
        await self.backtests.close()
        await close_env(self.env)
        await self.database.close()
        await self.store.close()


def _version_series() -> str:
    return series("dogwatch_build_info", {"version": __version__})


async def open_app(configuration: Configuration, *, clock: Clock, spawn: Spawn) -> App:
    """Open the store and the probe engine, restore what is remembered, join the parts. Nothing runs yet.

    spawn: starts the named tasks that the parts need, so that a supervisor may own them.

    Raises: DogwatchError when the store cannot be opened.
    """
    options = configuration.get(STORE)
    store = await open_store(options.path, clock, options.limits())
    engine = Engine()
    database: Database | None = None
    try:
        database_options = configuration.get(DATABASE)
        database = await open_database(database_options, options.path, state_tables(), clock)
        access = Access(database, state_path(options.path).parent, clock, configuration.get(ACCESS))
        await access.open()
        engine.open()
        return App(
            clock=clock,
            bus=Bus(),
            store=store,
            env=new_env(engine, {"clock": clock}),
            store_path=options.path,
            spawn=spawn,
            database=database,
            database_options=database_options,
            access=access,
        )
    except BaseException:
        engine.close()
        if database is not None:
            await database.close()
        await store.close()
        raise


class WorkerProgram:
    """A process that only carries out runs: the engine, and what its actions need."""

    def __init__(
        self, *, configuration: Configuration, database: Database, folder: Path, clock: Clock, bus: Bus, spawn: Spawn
    ) -> None:
        self.database = database
        # Messages are sent by the daemons; here they are only put in.
        notify = Notify(database, clock=clock, spawn=spawn, sends=False)
        fleet = FleetPart(database=database)
        # Whoever claims a deployment knows of freezes.
        self.maintenance = MaintenancePart(database, None, clock=clock, spawn=spawn)
        self.engine = EnginePart(
            Surroundings(
                database=database,
                clock=clock,
                bus=bus,
                actions=ACTIONS,
                jobs=JOBS,
                folder=folder,
                services={Outbox: notify, Keeper: EvidenceKeeper(database), FleetPart: fleet},
                eager=True,
                more=DOING.jobs,
                frozen=self.maintenance.holds,
            )
        )
        self.maintenance.on_change(lambda _calendar: self.engine.refreeze())
        base = DatabasePart(configuration.get(DATABASE))
        self.parts: tuple[Part, ...] = (base, notify, fleet, self.maintenance, self.engine)
        fleet.workers, fleet.sealer = self.engine.runs.workers, self.engine.runs.sealer

    async def stop(self) -> None:
        for part in reversed(self.parts):
            await part.stop()

    async def close(self) -> None:
        await self.database.close()


async def open_worker(
    configuration: Configuration, *, folder: Path, clock: Clock, bus: Bus, spawn: Spawn
) -> WorkerProgram:
    """Open the database that workers share, and join what a worker needs.

    Raises: UsageError where the state is in a file; DogwatchError where the database cannot be opened.
    """
    options = configuration.get(DATABASE)
    if not options.url:
        raise UsageError(
            "workers share a PostgreSQL, but this configuration keeps its state in a file",
            hint="set database.url, and take the state along: dogwatch database move",
        )
    database = await open_database(options, folder / "none", state_tables(), clock)
    return WorkerProgram(
        configuration=configuration, database=database, folder=folder, clock=clock, bus=bus, spawn=spawn
    )
