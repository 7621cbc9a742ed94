"""The engine as a part: the book of runs, and the worker of this process while there is anything to work on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dogwatch import __version__
from dogwatch.access.sealing import FileSealer, OldSealer, sealer_of_text
from dogwatch.config.part import Configuration
from dogwatch.config.section import Section
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.component import Registry, nearest
from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.metrics import Family
from dogwatch.core.values import Event
from dogwatch.engine.action import Action
from dogwatch.engine.book.approvals import IsIn
from dogwatch.engine.book.intents import Sealer
from dogwatch.engine.book.setting import Frozen
from dogwatch.engine.jobs import job_warnings
from dogwatch.engine.parameters import check_parameters
from dogwatch.engine.plan import JobPlan, plan
from dogwatch.engine.port import Runs
from dogwatch.engine.runs import Means, RunBook
from dogwatch.engine.scene import Services
from dogwatch.engine.scope import job_outputs, start_text
from dogwatch.engine.section import ENGINE, EngineOptions
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import RunFilter, RunState, StartRun
from dogwatch.engine.worker import READY, Worker, WorkerOptions, boottime_s, families, identity
from dogwatch.errors import DogwatchError, NotFound, TransientError
from dogwatch.store.database import Database

log = logging.getLogger(__name__)
OPEN = tuple(state for state in RunState if not state.ended)
COUNT_S = 10.0
_HOUSE_TURNS = 6
# Between two events of the bus that say that runs moved.
TELL_S = 0.25
_LONGEST_RETRY_S = 30.0


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine is given of the program. folder: for the key and the lock of programs, where there is one.

    services: what actions may ask for, by type. is_in: whether an actor has a role or is in a group. eager: work is
    waited for even where this configuration has no jobs. more: jobs that other sections make. frozen: what holds
    deployments.
    """

    database: Database
    clock: Clock
    bus: Bus
    actions: Registry[Action]
    jobs: Section[list[JobSpec]]
    folder: Path | None
    services: Mapping[type[Any], object]
    is_in: IsIn | None = None
    eager: bool = False
    more: Callable[[Configuration], Sequence[JobSpec]] = lambda _configuration: ()
    frozen: Frozen = lambda _job, _labels, _now_s: None


class EnginePart:
    """Implements config.part.Part. `runs` is the port for everybody else. `sealer`: of what must lie on disk and not
    be read there, by the options in force; None where there is no key.
    """

    name = "engine"

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.jobs: dict[str, JobSpec] = {}
        self.options = EngineOptions()
        self.sealer = self._sealer_of(self.options)
        self.runs = RunBook(around.database, self._means(self.options))
        self.trouble = ""
        self._worker: Worker | None = None
        self._work: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted = asyncio.Event()
        self._moved = asyncio.Event()
        self._thawed = asyncio.Event()
        self._deaf: Callable[[], None] | None = None
        self._stopping = self._draining = False
        # However long engine.grace is, whoever stops the program waits no longer than this.
        self.most_grace_s = float("inf")

    # -- Part --------------------------------------------------------------------------------------------------------

    def prepare(self, configuration: Configuration) -> _Change:
        around = self._around
        jobs = {job.name: job for job in (*around.more(configuration), *configuration.get(around.jobs))}
        return _Change(self, jobs, configuration.get(ENGINE))

    def put_in_force(self, jobs: dict[str, JobSpec], options: EngineOptions) -> None:
        """Use these from now on. With other options another worker follows, once this one's runs have let go."""
        self.jobs = jobs
        for text in job_warnings(tuple(jobs.values())):
            log.warning("%s", text)
        if options != self.options:
            self.options = options
            self.sealer = self._sealer_of(options)
            self.runs.use(self._means(options))
            self._retire()
        if self._deaf is None:
            self._begin()
        if jobs or self._around.eager:
            self._wanted.set()

    async def stop(self) -> None:
        await self.finish()
        if self._deaf is not None:
            self._deaf()
            self._deaf = None
        await cancel_and_wait(self._tasks)
        self._tasks = []

    async def finish(self) -> None:
        """Take no new run, let what runs end within the grace, and give the rest back."""
        self._stopping = True
        self._retire()
        if self._work is not None:
            await asyncio.wait([self._work])

    def drain(self, *, on: bool) -> int:
        """Take no new run, or take runs again. Return how many this process still has."""
        self._draining = on
        if self._worker is not None:
            self._worker.drain(on)
        return self.busy

    def plan(self, request: StartRun) -> JobPlan:
        """Return what a start would do. Raises: NotFound, UsageError."""
        job = self.jobs.get(request.job)
        if job is None:
            raise NotFound(f"no job is called '{request.job}'", hint=nearest(request.job, list(self.jobs)))
        return plan(job, request.parameters, jobs=self.jobs, actor=request.actor, trigger=request.trigger)

    # -- the worker --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._deaf = self._around.database.listen(READY, self._noticed)
        self._tasks = [
            asyncio.get_running_loop().create_task(work, name=f"engine {name}")
            for name, work in (
                ("keeper", self._keep()),
                ("teller", self._tell()),
                ("house", self._keep_house()),
                ("thaws", self._thaw()),
            )
        ]

    def _noticed(self) -> None:
        self._wanted.set()
        self._moved.set()

    def _retire(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        elif self._work is not None:
            self._work.cancel()  # it has not begun

    async def _keep(self) -> None:
        """Have a worker as soon as there is work for one; a daemon without jobs costs nothing."""
        await self._look_for_old_runs()
        while True:
            await self._wanted.wait()
            if self._stopping or not self.options.work:
                self._wanted.clear()
                continue
            self._work = asyncio.get_running_loop().create_task(self._serve(self.options), name="engine worker")
            await asyncio.wait([self._work])

    async def _look_for_old_runs(self) -> None:
        while True:
            try:
                if (await self.runs.find(RunFilter(states=OPEN, limit=1))).items:
                    self._wanted.set()
                return
            except TransientError as error:
                self._say(str(error))
                await asyncio.sleep(1.0)

    async def _serve(self, options: EngineOptions) -> None:
        """Work until stopped; a worker that fails is made anew, after a while."""
        attempt = 0
        while not self._stopping:
            try:
                await self._serve_once(options)
                return
            except Exception as error:
                attempt += 1
                if isinstance(error, DogwatchError):
                    log.error("the worker of runs failed: %s", error)
                else:
                    log.exception("the worker of runs failed")
                self._say(str(error) or type(error).__name__)
            self._worker = None
            await asyncio.sleep(random.uniform(0.5, min(_LONGEST_RETRY_S, 2.0**attempt)))  # noqa: S311

    async def _serve_once(self, options: EngineOptions) -> None:
        # What carries out steps is loaded by the first worker.
        from dogwatch.engine.http_client import HttpClient
        from dogwatch.engine.language import CelLanguage
        from dogwatch.engine.launch.launcher import Launcher

        around = self._around
        alone = around.database.kind == "sqlite"
        # Alone, it waits until nothing is left of an earlier worker. With others the lease ends that, and a machine may
        # have several workers.
        lock = around.folder / "programs.lock" if alone and around.folder is not None else None
        launcher = Launcher(lock, ttl_s=None if alone else options.ttl)
        await launcher.open()
        client = HttpClient(user_agent=f"dogwatch/{__version__}")
        given: dict[type[Any], object] = {Runs: self.runs, Launcher: launcher, HttpClient: client, **around.services}
        try:
            self._worker = worker = Worker(
                identity(slots=options.slots, ttl_s=options.ttl, labels=options.labels, version=__version__),
                self.runs,
                around.database.listen,
                language=CelLanguage(),
                services=Services(given=given),
                clock=around.clock,
                options=WorkerOptions(
                    poll_s=options.poll,
                    grace_s=min(options.grace, self.most_grace_s),
                    alone=alone,
                    # Programs live as long as the lease does.
                    renew=(
                        (lambda _left_s: None)
                        if alone
                        else lambda left_s: launcher.renew(boottime_s() + left_s - options.ttl)
                    ),
                ),
            )
            self._say("")
            if self._draining:
                worker.drain()
            await worker.run()
        finally:
            await launcher.close()
            await client.close()

    def _say(self, trouble: str) -> None:
        self.trouble = trouble

    @property
    def busy(self) -> int:
        """How many runs this process has."""
        return 0 if self._worker is None else self._worker.busy

    def refreeze(self) -> None:
        """Freezes are others now: what is held is looked at again."""
        self._thawed.set()

    async def _thaw(self) -> None:
        while True:
            await self._thawed.wait()
            self._thawed.clear()
            try:
                await self.runs.thaw()
            except TransientError as error:
                log.warning("deployments that are held could not be looked at again: %s", error)
                self._thawed.set()
                await asyncio.sleep(1.0)

    # -- what else must be done --------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Tell live views that runs moved, not more often than they can show it."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            self._around.bus.publish(Event(topic="run", time_s=self._around.clock.now_s(), data={}))
            await asyncio.sleep(TELL_S)

    async def _keep_house(self) -> None:
        """Count what waits, for the metrics; now and then remove what is old."""
        turn = 0
        while True:
            # Processes on one database take turns by chance.
            await asyncio.sleep(COUNT_S * random.uniform(0.8, 1.2))  # noqa: S311
            if not self._wanted.is_set():
                continue
            turn += 1
            try:
                await self.runs.refresh()
                if turn % _HOUSE_TURNS == 0:
                    await self.runs.retain()
            except TransientError as error:
                log.warning("runs could not be counted, or old ones not be removed: %s", error)

    def _means(self, options: EngineOptions) -> Means:
        around = self._around
        means = Means(
            jobs=lambda: self.jobs,
            actions=around.actions,
            clock=around.clock,
            check=check_parameters,
            render=start_text,
            frozen=around.frozen,
            sealer=self.sealer,
            outputs=job_outputs,
            output_bytes=options.output,
            keeping=options.keeping,
        )
        return means if around.is_in is None else msgspec.structs.replace(means, is_in=around.is_in)

    def _sealer_of(self, options: EngineOptions) -> Sealer | None:
        newest = sealer_of_text(options.key) if options.key else None
        folder = self._around.folder
        if folder is None:
            return newest
        own = FileSealer(folder / "state.key")
        if newest is None and self._around.database.kind == "sqlite":
            return own
        # A key of this machine's own would be of no use to workers on others; but what it sealed before stays open.
        return OldSealer(newest, own) if own.exists() else newest

    def metrics(self) -> Iterable[Family]:
        yield from self.runs.metrics()
        yield from families(self._worker)


class _Change:
    """Other jobs and options, not yet in force."""

    def __init__(self, part: EnginePart, jobs: dict[str, JobSpec], options: EngineOptions) -> None:
        self._part, self._jobs, self._options = part, jobs, options

    async def start(self) -> None:
        pass

    def swap(self) -> None:
        self._part.put_in_force(self._jobs, self._options)

    async def finish(self) -> None:
        """Nothing to wait for: the worker that is replaced ends with its runs, which may take their grace."""

    async def discard(self) -> None:
        pass
