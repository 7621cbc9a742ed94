"""Concurrency keys, locks, rate limits, priorities and placement, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.contract.conftest import Open
from tests.runs import ALICE, book, finish, identity, job, park, start, step

from dogwatch.access.tables import access_tables
from dogwatch.engine.ledger import Advance, Claimed, Fenced
from dogwatch.engine.runs import RunBook
from dogwatch.engine.spec import Concurrency, RateLimit
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunFilter, RunState, StepState
from dogwatch.errors import Conflict
from dogwatch.store.database import Database, Tx


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(engine_tables(), access_tables())


async def _order(runs: RunBook, slots: int = 1) -> list[str]:
    """Claim and end one after another until nothing is left; return their reasons, which tests use as names."""
    order = []
    while claimed := await runs.claim("w1", slots):
        for one in claimed:
            order.append(one.run.parameters["n"])
            await finish(runs, one)
    return order


async def test_higher_priority_goes_first_then_the_older(database: Database) -> None:
    runs = book(database)
    await runs.register(identity())
    for n, priority in ((1, 0), (2, 5), (3, 0), (4, 5), (5, -1)):
        await start(runs, parameters={"n": n}, priority=priority)
    assert await _order(runs) == [2, 4, 1, 3, 5]


async def test_a_worker_takes_only_what_it_has_the_labels_for(database: Database) -> None:
    runs = book(
        database,
        job("any"),
        job("gpu", worker={"gpu": "yes"}),
        job("both", worker={"gpu": "yes", "zone": "a"}),
    )
    await runs.register(identity("plain"))
    await runs.register(identity("gpu", labels={"gpu": "yes", "zone": "b"}))
    await runs.register(identity("full", labels={"gpu": "yes", "zone": "a", "more": "x"}))
    for name in ("both", "gpu", "any"):
        await start(runs, name)
    assert [one.run.job for one in await runs.claim("plain", 10)] == ["any"]
    assert [one.run.job for one in await runs.claim("gpu", 10)] == ["gpu"]
    assert [one.run.job for one in await runs.claim("full", 10)] == ["both"]


async def test_queue_runs_one_after_another_with_the_same_key(database: Database) -> None:
    runs = book(database, job(concurrency=Concurrency(key="{{ params.env }}")))
    await runs.register(identity())
    for n, env in ((1, "a"), (2, "a"), (3, "b"), (4, "a")):
        await start(runs, parameters={"n": n, "env": env})
    first = await runs.claim("w1", 10)
    assert [one.run.parameters["n"] for one in first] == [1, 3]
    waiting = (await runs.find(RunFilter(states=(RunState.QUEUED,)))).items
    assert {run.waiting_for for run in waiting} == {"its turn in build/a"}
    await finish(runs, first[0])
    (second,) = await runs.claim("w1", 10)
    assert second.run.parameters["n"] == 2
    await finish(runs, second, RunState.FAILED)
    assert await _order(runs) == [4]
    # Nothing is left of keys that nobody uses.
    await finish(runs, first[1])
    assert await database.read(lambda tx: tx.rows("SELECT name FROM gates")) == []


async def test_a_parked_run_keeps_its_gates(database: Database) -> None:
    runs = book(database, job(locks=["db-1"]), job("other", locks=["db-1", "db-2"]))
    await runs.register(identity())
    await start(runs)
    (first,) = await runs.claim("w1", 10)
    await start(runs, "other")
    await park(runs, first, step(state=StepState.WAITING))
    assert not await runs.claim("w1", 10)
    (waiting,) = (await runs.find(RunFilter(job="other"))).items
    assert waiting.waiting_for == "lock db-1"
    await runs.cancel(first.run.run_id, ALICE)
    (again,) = await runs.claim("w1", 10)
    await finish(runs, again, RunState.CANCELLED)
    assert [one.run.job for one in await runs.claim("w1", 10)] == ["other"]


async def test_forbid_refuses_and_replace_cancels(database: Database) -> None:
    runs = book(
        database,
        job("strict", concurrency=Concurrency(policy="forbid")),
        job("newest", concurrency=Concurrency(policy="replace")),
    )
    await runs.register(identity())
    first = await start(runs, "strict")
    with pytest.raises(Conflict, match=first.run.run_id):
        await start(runs, "strict")
    await runs.cancel(first.run.run_id, ALICE)
    await start(runs, "strict")
    assert [one.run.job for one in await runs.claim("w1", 1)] == ["strict"]

    running = await start(runs, "newest")
    (claimed,) = await runs.claim("w1", 1)
    queued = await start(runs, "newest")
    newest = await start(runs, "newest")
    assert (await runs.show(queued.run.run_id)).state is RunState.CANCELLED
    assert not await runs.claim("w1", 5)
    order = (await runs.heartbeat("w1", {claimed.run.run_id: claimed.fence})).orders[running.run.run_id]
    assert order.cancel == "replaced by a newer run"
    await finish(runs, claimed, RunState.CANCELLED)
    assert [one.run.run_id for one in await runs.claim("w1", 5)] == [newest.run.run_id]


async def test_forbid_holds_in_a_race(database: Database) -> None:
    runs = book(database, job(concurrency=Concurrency(policy="forbid", limit=2)))
    results = await asyncio.gather(*(start(runs) for _ in range(30)), return_exceptions=True)
    assert sum(not isinstance(result, Exception) for result in results) == 2
    assert {type(result) for result in results if isinstance(result, Exception)} == {Conflict}


async def test_a_key_starts_one_run_also_in_a_race(database: Database) -> None:
    runs, others = book(database), book(database)
    results = await asyncio.gather(*(start((runs, others)[n % 2], key="delivery-7") for n in range(60)))
    assert len({result.run.run_id for result in results}) == 1
    assert sum(result.created for result in results) == 1
    again = await start(runs, key="delivery-7", parameters={"other": 1})
    assert not again.created
    assert again.run.parameters == {}
    events = await database.read(lambda tx: tx.one("SELECT count(*) FROM audit_events"))
    assert events == (1,)


async def test_a_rate_limit_holds_for_every_window(database: Database) -> None:
    runs = book(database, job(rate=RateLimit(max=3, per=0.5)))
    await runs.register(identity("w1"))
    await runs.register(identity("w2"))
    for n in range(10):
        await start(runs, parameters={"n": n})
    started: list[float] = []
    deadline = time.monotonic() + 20
    while len(started) < 10 and time.monotonic() < deadline:
        for claimed in await asyncio.gather(runs.claim("w1", 10), runs.claim("w2", 10)):
            for one in claimed:
                started.append(one.run.started_s or 0.0)
                await finish(runs, one)
        await asyncio.sleep(0.02)
    started.sort()
    assert len(started) == 10
    gaps = [later - earlier for earlier, later in zip(started, started[3:], strict=False)]
    assert min(gaps) >= 0.5 - 1e-6
    assert started[-1] - started[0] < 4.0


async def test_capacity_is_never_exceeded_and_nobody_is_forgotten(database: Database) -> None:
    """Many workers, three locks, random jobs: at most one holder of each at a time, and all end."""
    jobs = [
        job("a", locks=["x", "y"]),
        job("b", locks=["y", "z"]),
        job("c", locks=["z", "x"]),
        job("d", locks=["x"], concurrency=Concurrency(limit=2)),
    ]
    runs = [book(database, *jobs), book(database, *jobs)]
    for n in range(4):
        await runs[0].register(identity(f"w{n}"))
    holding: dict[str, str] = {}
    ended: list[str] = []

    async def carry_out(one: Claimed) -> None:
        for lock in one.definition.locks:
            assert lock not in holding, (one.run.job, holding)
            holding[lock] = one.run.run_id
        await asyncio.sleep(0)
        for lock in one.definition.locks:
            del holding[lock]
        ended.append(one.run.run_id)
        await finish(runs[len(ended) % 2], one)

    async def work(n: int) -> None:
        deadline = time.monotonic() + 60
        while len(ended) < 120 and time.monotonic() < deadline:
            for one in await runs[n % 2].claim(f"w{n}", 3):
                await carry_out(one)

    for n in range(120):
        await start(runs[0], "abcd"[n % 4])
    await asyncio.gather(*(work(n) for n in range(4)))
    assert len(set(ended)) == 120
    assert await database.read(lambda tx: tx.rows("SELECT name FROM gates")) == []
    assert await database.read(lambda tx: tx.rows("SELECT gate FROM run_gates")) == []


async def test_who_cannot_use_a_gate_that_opened_lets_the_next_one_pass(database: Database) -> None:
    runs = book(database, job("x", locks=["x"]), job("y", locks=["y"]), job("both", locks=["x", "y"]))
    await runs.register(identity())
    await start(runs, "x")
    await start(runs, "y")
    holds_x, holds_y = await runs.claim("w1", 5)
    both, waits = await start(runs, "both"), await start(runs, "x")
    assert not await runs.claim("w1", 5)
    await finish(runs, holds_x)
    assert [one.run.run_id for one in await runs.claim("w1", 5)] == [waits.run.run_id]
    assert (await runs.show(both.run.run_id)).waiting_for == "lock y"
    await finish(runs, holds_y)
    assert (await runs.show(both.run.run_id)).waiting_for == ""
    assert not await runs.claim("w1", 5)
    assert (await runs.show(both.run.run_id)).waiting_for == "lock x"


async def test_a_forgotten_waiter_is_found_by_the_reaper(database: Database) -> None:
    runs = book(database, job(locks=["x"]))
    await runs.register(identity())
    await start(runs)
    await start(runs)
    (first,) = await runs.claim("w1", 5)
    await finish(runs, first)
    # As if the one that made room had passed it by, since another transaction had its row.
    await database.write(
        lambda tx: tx.run("UPDATE runs SET ready = 0, blocked_on = :gate WHERE ended_s IS NULL", gate="lock:x")
    )
    assert not await runs.claim("w1", 5)
    await runs.reap()
    assert len(await runs.claim("w1", 5)) == 1


async def test_a_run_that_waits_for_what_its_parent_holds_is_refused(database: Database) -> None:
    runs = book(database, job(locks=["db-1"]), job("child", locks=["db-1"]), job("free"))
    await runs.register(identity())
    await start(runs)
    (parent,) = await runs.claim("w1", 1)
    with pytest.raises(Conflict, match="wait for ever for lock db-1"):
        await start(runs, "child", parent=(parent.run.run_id, "one"))
    between = await start(runs, "free", parent=(parent.run.run_id, "one"))
    with pytest.raises(Conflict, match="wait for ever"):
        await start(runs, "child", parent=(between.run.run_id, "one"))


async def test_claims_stay_fast_in_front_of_a_long_queue(database: Database) -> None:
    runs = book(database, job(), job("turn", concurrency=Concurrency()))
    await runs.register(identity())
    await start(runs)
    await start(runs, "turn", priority=1)
    total = 100_000

    def fill(tx: Tx) -> None:
        # As many more of each, as plain copies of what is there.
        for name, table in (("build", "runs"), ("turn", "runs")):
            columns = [str(row[0]) for row in _columns(tx, database.kind, table)]
            copied = ", ".join(
                {"run_id": "run_id || '-' || n.x", "start_key": "NULL"}.get(column, column) for column in columns
            )
            tx.run(
                f"INSERT INTO runs ({', '.join(columns)}) WITH RECURSIVE n (x) AS "
                f"(SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < :count) SELECT {copied} FROM runs, n "
                "WHERE job = :job",
                count=total // 2,
                job=name,
            )
        tx.run(
            "INSERT INTO run_gates (gate, run_id, capacity) SELECT 'job:' || 'turn', run_id, 1 FROM runs "
            "WHERE job = 'turn' AND run_id LIKE '%-%'"
        )

    await database.write(fill)
    if database.kind == "postgresql":
        await database.write(lambda tx: tx.run("ANALYZE runs"))
    times, turns, taken = [], 0, 0
    for _ in range(20):
        before = time.perf_counter()
        claimed = await runs.claim("w1", 50)
        times.append(time.perf_counter() - before)
        taken += len(claimed)
        turns += sum(one.run.job == "turn" for one in claimed)
    assert taken >= 15 * 50
    assert turns == 1
    # The first few take those out that are blocked; the others find 50 in about 0.02 s.
    assert sorted(times)[10] < 0.3


def _columns(tx: Tx, kind: str, table: str) -> list[tuple[object, ...]]:
    if kind == "sqlite":
        return tx.rows(f"SELECT name FROM pragma_table_info('{table}')")
    return tx.rows(
        f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}' AND table_schema = 'dogwatch'"
    )


async def test_everybody_at_once(database: Database) -> None:
    """Starts, claims, ends, waits, signals, pauses and cancels of many at the same time: nothing stays behind."""
    jobs = [
        job("plain"),
        job("x", locks=["x"]),
        job("xy", locks=["x", "y"], concurrency=Concurrency(limit=3)),
        job("newest", concurrency=Concurrency(policy="replace")),
        job("rated", rate=RateLimit(max=20, per=0.2)),
    ]
    books = [book(database, *jobs) for _ in range(3)]
    for n, runs in enumerate(books):
        await runs.register(identity(f"w{n}", ttl_s=60.0))
    chance = random.Random(3)
    ids: list[str] = []
    refused: list[Exception] = []
    stop = asyncio.Event()

    async def attempt(work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except (Conflict, Fenced) as error:
            refused.append(error)
            return None

    async def starts(runs: RunBook) -> None:
        for _ in range(60):
            parent = (chance.choice(ids), "one") if ids and chance.random() < 0.3 else None
            name = chance.choice(jobs).name
            started = await attempt(start(runs, name, parent=parent, priority=chance.randrange(3)))
            if started is not None:
                ids.append(started.run.run_id)

    async def serves(runs: RunBook, worker: str) -> None:
        while not stop.is_set():
            claimed = await runs.claim(worker, 4)
            await asyncio.gather(*(attempt(carry_out(runs, one)) for one in claimed))
            await asyncio.sleep(0.005)

    async def carry_out(runs: RunBook, one: Claimed) -> None:
        row = step(attempt=one.fence)
        await runs.advance(Advance(run_id=one.run.run_id, fence=one.fence, steps=[row]))
        if one.fence < 3 and not one.order.cancel and chance.random() < 0.4:
            return await park(runs, one, step(state=StepState.WAITING))
        return await finish(runs, one, chance.choice([RunState.SUCCEEDED, RunState.FAILED]))

    async def meddles(runs: RunBook) -> None:
        while not stop.is_set():
            await asyncio.sleep(0.003)
            if ids:
                run_id = chance.choice(ids)
                verb = chance.randrange(4)
                await attempt(
                    runs.cancel(run_id, ALICE) if verb == 0
                    else runs.pause(run_id, ALICE) if verb == 1
                    else runs.resume(run_id, ALICE) if verb == 2
                    else runs.signal(run_id, "one", {"go": True})
                )  # fmt: skip

    serving = [asyncio.create_task(serves(runs, f"w{n}")) for n, runs in enumerate(books)]
    meddling = [asyncio.create_task(meddles(runs)) for runs in books[:2]]
    await asyncio.gather(*(starts(runs) for runs in books))
    for task in meddling:
        task.cancel()
    await asyncio.gather(*meddling, return_exceptions=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = (await books[0].find(RunFilter(states=tuple(one for one in RunState if not one.ended), limit=500))).items
        if not left:
            break
        await books[0].reap()
        for run in left:
            if run.state is RunState.PAUSED:
                await attempt(books[0].resume(run.run_id, ALICE))
            await books[0].signal(run.run_id, "one", {"go": True})
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*serving)
    assert not left
    assert len(ids) > 100
    assert await database.read(lambda tx: tx.rows("SELECT name, used FROM gates WHERE used <> 0")) == []
    assert await database.read(lambda tx: tx.rows("SELECT gate, run_id FROM run_gates")) == []
    if database.kind == "postgresql":
        counted = await database.read(
            lambda tx: tx.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        )
        assert counted is not None
        assert int(counted[0] or 0) <= 1
