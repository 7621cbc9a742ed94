"""Workers and their runs, over SQLite and PostgreSQL: claim, advance, park, fences, lost workers."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.conftest import Open
from tests.runs import ALICE, book, finish, identity, job, park, start, step

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock
from dogwatch.engine.ledger import Advance, Fenced
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import Chunk, RunState, StepState
from dogwatch.errors import Conflict, NotFound
from dogwatch.store.database import Database


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(engine_tables(), access_tables())


async def test_a_run_is_started_claimed_and_ended(database: Database) -> None:
    runs = book(database)
    await runs.register(identity())
    started = await start(runs, parameters={"env": "prod"}, labels={"team": "shop"})
    assert started.created
    assert started.run.state is RunState.QUEUED
    (claimed,) = await runs.claim("w1", 10)
    assert claimed.run.run_id == started.run.run_id
    assert claimed.run.state is RunState.RUNNING
    assert claimed.definition == job()
    assert claimed.run.deadline_s == pytest.approx(claimed.run.started_s + 3600)
    assert not await runs.claim("w1", 10)
    row = step(state=StepState.SUCCEEDED, outputs={"x": [1, {"y": None}]}, started_s=1.0, ended_s=2.0)
    await finish(runs, claimed, RunState.SUCCEEDED, row)
    run = await runs.wait(started.run.run_id)
    assert (run.state, run.worker, run.parameters) == (RunState.SUCCEEDED, "", {"env": "prod"})
    (shown,) = await runs.steps(run.run_id[:12])
    assert (shown.name, shown.state, shown.outputs) == ("one", StepState.SUCCEEDED, {"x": [1, {"y": None}]})


async def test_an_older_fence_writes_nothing(database: Database) -> None:
    runs = book(database)
    await runs.register(identity("w1"))
    await runs.register(identity("w2"))
    await start(runs)
    (first,) = await runs.claim("w1", 1)
    await runs.leave("w1")
    (second,) = await runs.claim("w2", 1)
    assert second.fence > first.fence
    for change in (
        Advance(run_id=first.run.run_id, fence=first.fence, steps=[step()], reason="mine"),
        Advance(run_id=first.run.run_id, fence=first.fence, state=RunState.FAILED),
        Advance(run_id=first.run.run_id, fence=first.fence, release=True),
    ):
        with pytest.raises(Fenced):
            await runs.advance(change)
    chunk = Chunk(run_id=first.run.run_id, step="one", attempt=1, sequence=1, time_s=1.0, stream="stdout", text="x")
    with pytest.raises(Fenced):
        await runs.append(first.run.run_id, first.fence, [chunk])
    assert (await runs.show(first.run.run_id)).reason == ""
    assert not await runs.output(first.run.run_id)
    with pytest.raises(Fenced):
        await runs.heartbeat("w1", {first.run.run_id: first.fence})


async def test_released_runs_belong_to_nobody(database: Database) -> None:
    runs = book(database)
    await runs.register(identity())
    await start(runs)
    (claimed,) = await runs.claim("w1", 1)
    await park(runs, claimed, step(state=StepState.WAITING, wake_s=4e9))
    with pytest.raises(Fenced):
        await finish(runs, claimed)
    assert not await runs.claim("w1", 1)


async def test_a_parked_run_wakes_at_its_time_and_by_a_signal(database: Database) -> None:
    runs = book(database)
    await runs.register(identity())
    await start(runs)
    (claimed,) = await runs.claim("w1", 1)
    now_s = await database.read(lambda tx: tx.now_s)
    await park(runs, claimed, step(state=StepState.WAITING, wake_s=now_s + 600), waiting_for="a moment")
    assert (await runs.show(claimed.run.run_id)).waiting_for == "a moment"
    assert not await runs.claim("w1", 1)
    # As if the moment had passed.
    await database.write(lambda tx: tx.run("UPDATE runs SET wake_s = wake_s - 600 WHERE wake_s IS NOT NULL"))
    (again,) = await runs.claim("w1", 1)
    assert again.fence > claimed.fence
    await park(runs, again, step(state=StepState.WAITING, memory={"x": 1}))
    assert not await runs.claim("w1", 1)
    await runs.signal(claimed.run.run_id, "one", {"said": "go"})
    (woken,) = await runs.claim("w1", 1)
    assert woken.steps[0].signal == ({"said": "go"},)
    assert woken.steps[0].memory == {"x": 1}
    # It is taken by a step that does not wait any more.
    order = await runs.advance(Advance(run_id=woken.run.run_id, fence=woken.fence, steps=[step()]))
    assert not order.signals
    await park(runs, woken, step(state=StepState.WAITING))
    assert not await runs.claim("w1", 1)


async def test_a_signal_to_a_held_run_comes_with_the_next_answer(database: Database) -> None:
    runs = book(database)
    await runs.register(identity())
    await start(runs)
    (claimed,) = await runs.claim("w1", 1)
    run_id = claimed.run.run_id
    waiting = step("two", StepState.WAITING)
    await runs.advance(Advance(run_id=run_id, fence=claimed.fence, steps=[step(), waiting]))
    told = asyncio.Event()
    stop = database.listen("worker:w1", told.set)
    await runs.signal(run_id, "two", 7)
    await asyncio.wait_for(told.wait(), 60)
    stop()
    assert (await runs.heartbeat("w1", {run_id: claimed.fence})).orders[run_id].signals == {"two": 7}
    # What is written of the step meanwhile does not lose it.
    assert (await runs.advance(Advance(run_id=run_id, fence=claimed.fence, steps=[waiting]))).signals == {"two": 7}
    # Released without having taken it: it is claimed again at once.
    await park(runs, claimed)
    (again,) = await runs.claim("w1", 1)
    assert {row.name: row.signal for row in again.steps} == {"one": None, "two": (7,)}


async def test_a_worker_without_heartbeat_loses_its_runs(database: Database) -> None:
    clock = ManualClock()
    runs = book(database, clock=clock)
    await runs.register(identity("w1", ttl_s=3.0))
    await runs.register(identity("w2", ttl_s=3.0))
    await start(runs)
    (claimed,) = await runs.claim("w1", 1)
    await runs.advance(
        Advance(
            run_id=claimed.run.run_id,
            fence=claimed.fence,
            steps=[step("a"), step("b", StepState.SUCCEEDED), step("c", StepState.WAITING)],
        )
    )
    for _ in range(3):
        assert await runs.reap() == 0
        await runs.heartbeat("w2", {})
        clock.advance(1.0)
    assert await runs.reap() == 1
    assert {worker.worker_id: worker.state for worker in await runs.workers()} == {"w1": "lost", "w2": "active"}
    (again,) = await runs.claim("w2", 1)
    assert again.fence > claimed.fence + 1
    assert {row.name: row.cut for row in again.steps} == {"a": True, "b": False, "c": False}
    with pytest.raises(Fenced):
        await runs.heartbeat("w1", {claimed.run.run_id: claimed.fence})
    with pytest.raises(Fenced):
        await finish(runs, claimed)
    await runs.register(identity("w1"))
    assert (await runs.heartbeat("w1", {claimed.run.run_id: claimed.fence})).lost == [claimed.run.run_id]


async def test_cancelling_a_run_that_has_not_begun_ends_it(database: Database) -> None:
    runs = book(database)
    started = await start(runs)
    run = await runs.cancel(started.run.run_id, ALICE, reason="not now")
    assert (run.state, run.reason) == (RunState.CANCELLED, "not now")
    with pytest.raises(Conflict, match="it is cancelled"):
        await runs.cancel(run.run_id, ALICE)
    await runs.register(identity())
    assert not await runs.claim("w1", 1)
    with pytest.raises(NotFound):
        await runs.cancel("0" * 18, ALICE)


async def test_cancelling_a_run_that_waits_lets_it_be_claimed_for_its_cleanup(database: Database) -> None:
    runs = book(database)
    await runs.register(identity())
    await start(runs)
    (claimed,) = await runs.claim("w1", 1)
    await park(runs, claimed, step(state=StepState.WAITING))
    assert (await runs.cancel(claimed.run.run_id, ALICE, reason="stop")).state is RunState.RUNNING
    (again,) = await runs.claim("w1", 1)
    assert again.order.cancel == "stop"
    await finish(runs, again, RunState.CANCELLED)
    assert (await runs.wait(again.run.run_id)).state is RunState.CANCELLED


async def test_what_no_worker_can_take_says_so_until_one_can(database: Database) -> None:
    runs = book(database, job("far", worker={"zone": "eu", "disk": "fast"}), job("near"))
    await runs.register(identity("w1", labels={"zone": "eu"}))
    far = (await start(runs, "far")).run.run_id
    near = (await start(runs, "near")).run.run_id
    await runs.refresh()
    assert (await runs.show(far)).waiting_for == "a worker with disk=fast, zone=eu"
    assert (await runs.show(near)).waiting_for == ""
    await runs.register(identity("w2", labels={"zone": "eu", "disk": "fast"}, slots=1))
    await runs.refresh()
    assert (await runs.show(far)).waiting_for == ""
    await runs.leave("w2")
    await runs.refresh()
    assert (await runs.show(far)).waiting_for == "a worker with disk=fast, zone=eu"
    await runs.register(identity("w3", labels={"zone": "eu", "disk": "fast"}))
    (claimed,) = [one for one in await runs.claim("w3", 10) if one.run.run_id == far]
    assert claimed.run.waiting_for == ""
    await finish(runs, claimed, RunState.SUCCEEDED)
    assert (await runs.wait(far)).waiting_for == ""
