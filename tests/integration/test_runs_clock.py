"""Runs on SQLite while the wall clock jumps, and after the process that had them is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.runs import book, finish, identity, job, park, start, step

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock
from dogwatch.engine.runs import RunBook
from dogwatch.engine.spec import RateLimit
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunState, StepState
from dogwatch.store.database import Database
from dogwatch.store.state_sqlite import open_sqlite

HOUR_S = 3600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    database = await open_sqlite(tmp_path / "state.db", (engine_tables(), access_tables()), clock)
    yield database
    await database.close()


async def _claimed(runs: RunBook) -> list[str]:
    return [one.run.run_id for one in await runs.claim("w1", 10)]


@pytest.mark.parametrize("jump_s", [10 * HOUR_S, -10 * HOUR_S])
async def test_nobody_is_lost_by_a_jump_of_the_clock(database: Database, clock: ManualClock, jump_s: float) -> None:
    runs = book(database, clock=clock)
    await runs.register(identity(ttl_s=3.0))
    await start(runs)
    (claimed,) = await runs.claim("w1", 1)
    assert await runs.reap() == 0
    clock.jump(jump_s)
    assert await runs.reap() == 0
    clock.advance(2.0)
    assert await runs.reap() == 0
    beat = await runs.heartbeat("w1", {claimed.run.run_id: claimed.fence})
    assert (beat.lost, beat.missing) == ([], [])
    clock.advance(2.0)
    assert await runs.reap() == 0
    clock.advance(3.0)
    assert await runs.reap() == 1


async def test_times_follow_the_clock_that_people_see(database: Database, clock: ManualClock) -> None:
    runs = book(database, clock=clock)
    await runs.register(identity())
    due = await start(runs, due_s=clock.now_s() + HOUR_S)
    await start(runs)
    (parked,) = await runs.claim("w1", 1)
    await park(runs, parked, step(state=StepState.WAITING, wake_s=clock.now_s() + 2 * HOUR_S))
    clock.jump(-5 * HOUR_S)
    assert await _claimed(runs) == []
    clock.jump(5 * HOUR_S)
    clock.advance(HOUR_S - 1)
    assert await _claimed(runs) == []
    clock.advance(1)
    # The deadline of the parked run comes before its step's time.
    assert set(await _claimed(runs)) == {due.run.run_id, parked.run.run_id}


async def test_a_rate_limit_survives_a_clock_that_was_ahead(database: Database, clock: ManualClock) -> None:
    runs = book(database, job(rate=RateLimit(max=2, per=60.0)), clock=clock)
    await runs.register(identity())
    for _ in range(5):
        await start(runs)
    clock.jump(30 * 24 * HOUR_S)
    held = {one.run.run_id: one.fence for one in await runs.claim("w1", 10)}
    assert len(held) == 2
    assert not await _claimed(runs)
    clock.jump(-30 * 24 * HOUR_S)
    await runs.reap()
    # The limit does not stay closed for a month.
    for _ in range(130):
        clock.advance(1.0)
        await runs.heartbeat("w1", held)
        await runs.reap()
        held |= {one.run.run_id: one.fence for one in await runs.claim("w1", 10)}
    assert len(held) == 5


async def test_a_second_later_is_within_the_window_and_a_minute_later_is_not(
    database: Database, clock: ManualClock
) -> None:
    runs = book(database, job(rate=RateLimit(max=2, per=60.0)), clock=clock)
    await runs.register(identity())
    for _ in range(4):
        await start(runs)
    assert len(await _claimed(runs)) == 2
    taken = []
    for second in range(1, 62):
        clock.advance(1.0)
        taken += [second] * len(await _claimed(runs))
    assert taken == [60, 60]


async def test_after_a_restart_the_runs_of_the_process_before_are_free_at_once(
    tmp_path: Path, clock: ManualClock
) -> None:
    path, tables = tmp_path / "other.db", (engine_tables(), access_tables())
    before = await open_sqlite(path, tables, clock)
    runs = book(before, clock=clock)
    await runs.register(identity("old"))
    await start(runs)
    (claimed,) = await runs.claim("old", 1)
    await before.close()
    after = await open_sqlite(path, tables, clock)
    runs = book(after, clock=clock)
    await runs.register(identity("new"))
    (again,) = await runs.claim("new", 1)
    assert again.run.run_id == claimed.run.run_id
    assert again.fence > claimed.fence
    await finish(runs, again)
    assert (await runs.show(again.run.run_id)).state is RunState.SUCCEEDED
    await after.close()


async def test_a_claim_whose_answer_was_lost_is_given_back(database: Database, clock: ManualClock) -> None:
    runs = book(database, clock=clock)
    await runs.register(identity(ttl_s=6.0))
    await start(runs)
    (lost,) = await runs.claim("w1", 1)
    # The answer may still be on its way.
    assert not (await runs.heartbeat("w1", {})).missing
    clock.advance(3.5)
    assert (await runs.heartbeat("w1", {})).missing == [lost.run.run_id]
    (again,) = await runs.claim("w1", 1)
    assert again.fence == lost.fence + 2
