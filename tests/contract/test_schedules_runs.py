"""Schedules over the real book of runs, on both databases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.contract.conftest import Open
from tests.runs import book, finish, identity, job
from tests.schedules import OPERATOR, TimedDatabase, new_scheduler, put, until

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock
from dogwatch.engine.schedules import records
from dogwatch.engine.schedules.scheduler import Scheduler
from dogwatch.engine.schedules.service import Schedules
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.engine.schedules.tables import schedule_tables
from dogwatch.engine.spec import Concurrency
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunFilter

TABLES = (access_tables(), engine_tables(), schedule_tables())
T0 = 1_800_000_000.0


class World:
    def __init__(self, database: Any, other: Any) -> None:
        self.clock = ManualClock(now_s=T0)
        self.database, self.other = TimedDatabase(database, self.clock), TimedDatabase(other, self.clock)
        self.schedulers: list[Scheduler] = []

    async def scheduler(self, runs: Any, specs: list[ScheduleSpec], database: Any = None) -> Scheduler:
        made = new_scheduler(database or self.database, runs, self.clock)
        self.schedulers.append(made)
        await put(made, specs)

        async def planned() -> bool:
            return all(entry.record is not None for entry in made.entries.values())

        await until(planned)
        return made

    def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for one in self.schedulers:
            one._wake.set()


@pytest.fixture
async def world(open_database: Open) -> AsyncIterator[World]:
    database = await open_database(*TABLES)
    other = await open_database(*TABLES) if database.kind == "postgresql" else database
    made = World(database, other)
    try:
        yield made
    finally:
        for scheduler in made.schedulers:
            await scheduler.stop()


async def test_a_fire_is_a_run_of_the_book(world: World) -> None:
    runs = book(world.database, job("build", concurrency=Concurrency(policy="forbid")))
    scheduler = await world.scheduler(runs, [ScheduleSpec(name="nightly", job="build", cron="* * * * *")])

    async def decided(count: int) -> list[records.FireRow]:
        rows = await world.database.read(lambda tx: records.find_fires(tx, "nightly", limit=10))
        return rows if len(rows) == count else []

    world.pass_s(60.01)
    [first] = await until(lambda: decided(1))
    run = await runs.show(first.run_id)
    assert (run.job, run.key, str(run.actor)) == ("build", f"schedule/nightly/{first.fire}", "schedule:nightly")
    assert run.trigger.kind == "schedule"
    # The first is not over: the job's own rule refuses the second, and nothing of it stays.
    world.pass_s(60)
    second = (await until(lambda: decided(2)))[0]
    assert (second.state, second.run_id) == ("refused", "")
    assert "build is running already" in second.reason
    assert len((await runs.find(RunFilter())).items) == 1
    await runs.register(identity())
    [claimed] = await runs.claim("w1", 1)
    await finish(runs, claimed)
    world.pass_s(60)
    assert (await until(lambda: decided(3)))[0].state == "started"
    service = Schedules(scheduler, world.database, runs)  # type: ignore[arg-type]
    view = await service.show("nightly")
    assert (view.last_run_state, view.fired, view.refused) == ("queued", 2, 1)
    events = await world.database.read(lambda tx: tx.rows("SELECT body FROM audit_events"))
    assert sum('"name":"nightly"' in str(row[0]) for row in events) == 2


async def test_two_schedulers_over_the_book_neither_double_nor_block(world: World) -> None:
    specs = [ScheduleSpec(name=f"s{number:03}", job="build", cron="* * * * *", misfire="all") for number in range(150)]
    for database in (world.database, world.other):
        await world.scheduler(book(database, job("build")), specs, database)
    runs = book(world.database, job("build"))
    begun_s = time.monotonic()
    for minute in range(1, 4):
        world.pass_s(60)

        async def all_there(wanted: int = 150 * minute) -> bool:
            rows = await world.database.read(lambda tx: tx.rows("SELECT count(*) FROM schedule_fires"))
            return bool(rows[0][0] >= wanted)

        await until(all_there, 30)
    took_s = time.monotonic() - begun_s
    rows = await world.database.read(lambda tx: tx.rows("SELECT start_key FROM runs"))
    keys = [row[0] for row in rows]
    assert len(keys) == len(set(keys)) == 450
    states = await world.database.read(lambda tx: tx.rows("SELECT DISTINCT state FROM schedule_fires"))
    assert states == [("started",)]
    # Deadlocks would show: the server looks for them once a second.
    assert took_s < 15
    found = await runs.find(RunFilter(trigger="schedule", limit=1))
    assert found.items[0].job == "build"


async def test_a_person_and_a_fire_use_the_same_engine(world: World) -> None:
    runs = book(world.database, job("build"))
    scheduler = await world.scheduler(runs, [ScheduleSpec(name="nightly", job="build", cron="0 0 1 1 *")])
    service = Schedules(scheduler, world.database, runs)  # type: ignore[arg-type]
    first, second = await asyncio.gather(*(service.run("nightly", OPERATOR, key="k") for _ in range(2)))
    assert first.run.run_id == second.run.run_id
    assert sorted([first.created, second.created]) == [False, True]
