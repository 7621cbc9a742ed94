"""What tests of schedules share: starts that write to a table of their own, a database whose clock a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dogwatch.access.actor import Actor
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import Clock
from dogwatch.engine.port import Starter
from dogwatch.engine.schedules.scheduler import Limits, Scheduler
from dogwatch.engine.schedules.section import SCHEDULES
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.engine.schedules.tables import schedule_tables
from dogwatch.engine.values import Run, RunState, Started, StartRun, Trigger
from dogwatch.errors import Conflict, NotFound, TransientError, UsageError
from dogwatch.store.database import Database, Tables, Tx

STARTED = Tables(
    name="started",
    steps=((1, "CREATE TABLE started (key TEXT, job TEXT NOT NULL, at_s DOUBLE PRECISION NOT NULL);"),),
)
TABLES = (schedule_tables(), access_tables(), STARTED)
OPERATOR = Actor(kind="user", name="ada", address="127.0.0.1")


class FakeRuns:
    """Starts runs by writing rows, without a unique key: a fire that ran twice is seen twice.

    The jobs `forbidden` and `broken` do not start: in the transaction, after it has written; and before it.
    """

    def __init__(self) -> None:
        self.requests: list[StartRun] = []
        # So many starts fail before one succeeds.
        self.fail = 0
        self._runs: dict[str, Run] = {}

    def starter(self, request: StartRun) -> Starter:
        if request.job == "broken":
            raise UsageError("parameter 'target' must be given")
        self.requests.append(request)

        def start(tx: Tx) -> Started:
            known = tx.one("SELECT at_s FROM started WHERE key = :key", key=request.key)
            if known is None or request.trigger.data.get("manual") is None:
                tx.run(
                    "INSERT INTO started (key, job, at_s) VALUES (:key, :job, :at_s)",
                    key=request.key,
                    job=request.job,
                    at_s=tx.now_s,
                )
            if request.job == "forbidden":
                raise Conflict("a run of 'forbidden' is not over")
            if self.fail > 0:
                self.fail -= 1
                raise TransientError("the disk is full")
            run = Run(
                run_id=f"run-{request.key}",
                job=request.job,
                state=RunState.QUEUED,
                actor=request.actor,
                trigger=Trigger(),
                created_s=tx.now_s,
            )
            self._runs[run.run_id] = run
            return Started(run=run, created=known is None)

        return start

    async def show(self, run_id: str) -> Run:
        if run_id not in self._runs:
            raise NotFound(f"no run '{run_id}'")
        return self._runs[run_id]


class _TimedTx:
    def __init__(self, tx: Tx, now_s: float) -> None:
        self._tx, self.now_s = tx, now_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)


class TimedDatabase:
    """A database whose clock is the test's."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self.kind = database.kind
        self.down = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, work: Callable[[Tx], Any], *, free: bool = False) -> Any:
        if self.down:
            raise TransientError("the database is away")
        timed = lambda tx: work(_TimedTx(tx, self._clock.now_s()))  # type: ignore[arg-type]  # noqa: E731
        return await self._database.write(timed, free=free)

    async def read(self, work: Callable[[Tx], Any]) -> Any:
        if self.down:
            raise TransientError("the database is away")
        return await self._database.read(lambda tx: work(_TimedTx(tx, self._clock.now_s())))  # type: ignore[arg-type]


class Written:
    """A configuration of schedules only."""

    def __init__(self, specs: Sequence[ScheduleSpec]) -> None:
        self._specs = list(specs)

    def get(self, section: Any) -> Any:
        assert section is SCHEDULES
        return self._specs


async def put(scheduler: Scheduler, specs: Sequence[ScheduleSpec]) -> None:
    """Load a configuration, as a reload does."""
    change = scheduler.prepare(Written(specs))  # type: ignore[arg-type]
    await change.start()
    change.swap()
    await change.finish()


async def until(true: Callable[[], Awaitable[Any]], within_s: float = 10.0) -> Any:
    """Wait until something is, and return it."""
    async with asyncio.timeout(within_s):
        while not (found := await true()):  # noqa: ASYNC110 - what is waited for is in a database
            await asyncio.sleep(0.005)
        return found


def started(tx: Tx) -> list[str]:
    return [str(row[0]) for row in tx.rows("SELECT key FROM started ORDER BY key")]


def new_scheduler(database: Any, runs: Any, clock: Clock, **limits: Any) -> Scheduler:
    return Scheduler(database, runs, clock=clock, limits=Limits(**limits) if limits else None)
