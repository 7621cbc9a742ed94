"""Retention by age and size, roll-ups that outlive raw rows, and clocks that jump."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.core.clock import ManualClock
from dogwatch.core.values import Status, Transition
from dogwatch.store.limits import Keep, MaxSize, StoreLimits
from dogwatch.store.protocol import Failure, Ping, ResultRow, TargetState
from dogwatch.store.sqlite import SqliteStore, open_store

HOUR_S, DAY_S = 3600.0, 86_400.0
BORN_S = 1_800_000_000.0
KEEP = Keep(raw=2 * HOUR_S, five_minutes=6 * HOUR_S, hours=10 * DAY_S)
LIMITS = StoreLimits(keep=KEEP)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now_s=BORN_S)


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqliteStore]:
    made = await open_store(tmp_path / "dogwatch.db", clock, LIMITS)
    yield made
    await made.close()


async def rounds(store: SqliteStore, clock: ManualClock, count: int, *, every_s: float = 15.0) -> None:
    """Let a target be probed, and the store do its rounds as time passes."""
    for number in range(count):
        clock.advance(every_s)
        store.add_result(ResultRow("shop", clock.now_s(), number % 100 != 0, 1, 0.1 + number % 10 / 1000))
        store.add_samples("host", clock.now_s(), [("load", float(number))])
        if number % 100 == 99:
            await tidy(store)
    await tidy(store)


async def tidy(store: SqliteStore) -> None:
    """Have the store do what its timer does every ten seconds, until nothing is left to do."""
    store._round_at = -1e9
    store._timer.cancel()
    store._tick()
    await store.flush()
    for _ in range(2000):
        store._tidy = True
        store._housekeep()
        while store._tidying:  # noqa: ASYNC110 - the step ends in the writer's thread
            await asyncio.sleep(0)
        if not store._tidy:
            return
    raise AssertionError("housekeeping never ends")


def count(path: Path, query: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute(query).fetchone()[0] or 0)
    finally:
        connection.close()


async def test_raw_rows_expire_and_their_roll_ups_stay(store: SqliteStore, clock: ManualClock) -> None:
    total = 24 * 240
    await rounds(store, clock, total)
    now_s = clock.now_s() + 1  # a period ends before its last second
    raw = await store.results("shop", limit=100_000)
    assert 2 * 240 <= len(raw) <= 4 * 240
    day = await store.chart("shop", since_s=BORN_S, until_s=now_s, points=25)
    assert sum(point.count for point in day) == total
    assert sum(point.failures for point in day) == sum(1 for number in range(total) if number % 100 == 0)
    assert len(day) in (24, 25)
    assert day[3].quantiles_s == pytest.approx((0.104, 0.109, 0.109), rel=0.07)
    # 5-minute points are gone for the whole day, so that no finer chart of it can be had…
    fine = await store.chart("shop", since_s=BORN_S, until_s=now_s, points=1000)
    assert [point.count for point in fine] == [point.count for point in day]
    # …but of its last five hours.
    recent = await store.chart("shop", since_s=now_s - 5 * HOUR_S, until_s=now_s, points=1000)
    assert 59 <= len(recent) <= 62
    (load,) = await store.series("host", ["load"], since_s=BORN_S, until_s=now_s, points=25)
    assert len(load.points) in (24, 25)


async def test_hours_expire_too_and_the_file_shrinks(store: SqliteStore, clock: ManualClock, tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.db"
    for _ in range(12):
        for number in range(1000):
            store.add_failure(Failure(target=f"t{number % 40}", time_s=1.0, reason="r", message="m", body="x" * 10))
        await store.flush()
    await rounds(store, clock, 2000, every_s=600)
    assert count(path, "SELECT min(bucket_s) FROM result_1h") >= clock.now_s() - KEEP.hours - HOUR_S - 600
    large = count(path, "PRAGMA page_count")
    for number in range(3000):
        await store.commit_ping(Ping(target=f"p{number}", time_s=1.0, signal="log", body=os.urandom(2000).hex()))
    assert count(path, "PRAGMA page_count") > large + 1000
    store.set_limits(StoreLimits(keep=KEEP, max_size=MaxSize(pings=1024 * 1024)))
    await tidy(store)
    assert count(path, "PRAGMA page_count") < large + 800
    assert metric(store, 'table_bytes{table="pings"}') <= 1024 * 1024


def metric(store: SqliteStore, name: str) -> float:
    return {text: value for family in store.metrics() for text, value in family.series}[f"dogwatch_store_{name}"]


async def test_a_jump_to_2099_and_back_deletes_nothing(store: SqliteStore, clock: ManualClock) -> None:
    await rounds(store, clock, 200)
    jump_s = 72 * 365 * DAY_S
    clock.jump(jump_s)
    await rounds(store, clock, 100)  # 25 minutes with a wrong clock
    clock.jump(-jump_s)
    await rounds(store, clock, 100)
    found = await store.chart("shop", since_s=BORN_S, until_s=clock.now_s() + 1, points=10_000)
    assert sum(point.count for point in found) == 300
    assert len(await store.results("shop", limit=1000)) == 400
    assert (await store.results("shop", limit=1))[0].time_s == pytest.approx(clock.now_s())
    # After an hour the clock is believed again, and what is old goes.
    await rounds(store, clock, 1000)
    assert len(await store.results("shop", limit=10_000)) < 1000


async def test_a_restart_with_a_wrong_clock_deletes_nothing(tmp_path: Path, clock: ManualClock) -> None:
    store = await open_store(tmp_path / "dogwatch.db", clock, LIMITS)
    await rounds(store, clock, 300)
    await store.close()
    clock.jump(20 * 365 * DAY_S)
    store = await open_store(tmp_path / "dogwatch.db", clock, LIMITS)
    try:
        await tidy(store)
        assert len(await store.results("shop", limit=1000)) == 300
    finally:
        await store.close()


async def test_a_jump_back_breaks_no_bucket(store: SqliteStore, clock: ManualClock) -> None:
    await rounds(store, clock, 300)
    clock.jump(-30 * 60)
    await rounds(store, clock, 300)
    found = await store.chart("shop", since_s=BORN_S - HOUR_S, until_s=clock.now_s() + HOUR_S, points=6)
    assert sum(point.count for point in found) == 600
    assert sum(point.failures for point in found) == 6


async def test_time_in_which_dogwatch_did_not_run_is_unknown(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "dogwatch.db"
    start_s = clock.now_s()

    async def run(seconds: int) -> None:
        store = await open_store(path, clock, LIMITS)
        try:
            if not await store.transitions():
                up = Transition(target="shop", time_s=clock.now_s(), before=Status.PENDING, after=Status.UP)
                state = TargetState(target="shop", status=Status.UP, since_s=0.0, fingerprint="", decider=b"")
                await store.commit_transition(up, state)
            for _ in range(seconds):
                clock.advance(1)
                store.add_result(ResultRow("shop", clock.now_s(), True, 1, 0.1))
                await store.flush()
        finally:
            await store.close()

    await run(100)
    clock.advance(50)
    await run(30)
    clock.jump(1000)  # the machine slept: only the wall clock went on
    await run(20)
    store = await open_store(path, clock, LIMITS)
    try:
        (found,) = await store.availability(["shop"], since_s=start_s, until_s=clock.now_s())
    finally:
        await store.close()
    assert found.up_s == pytest.approx(150)
    assert found.unknown_s == pytest.approx(1050)
    assert found.ratio == 1.0


async def test_sleep_while_running_is_unknown(store: SqliteStore, clock: ManualClock) -> None:
    start_s = clock.now_s()
    up = Transition(target="shop", time_s=start_s, before=Status.PENDING, after=Status.UP)
    await store.commit_transition(
        up, TargetState(target="shop", status=Status.UP, since_s=0.0, fingerprint="", decider=b"")
    )
    clock.advance(10)
    store.add_result(ResultRow("shop", clock.now_s(), True, 1, 0.1))
    await store.flush()
    clock.jump(500)
    clock.advance(1)
    store.add_result(ResultRow("shop", clock.now_s(), True, 1, 0.1))
    await store.flush()
    clock.advance(10)
    (found,) = await store.availability(["shop"], since_s=start_s, until_s=clock.now_s())
    assert (found.up_s, found.unknown_s) == (pytest.approx(20), pytest.approx(501))


async def test_series_without_history_are_forgotten(store: SqliteStore, clock: ManualClock, tmp_path: Path) -> None:
    for number in range(300):
        store.add_samples("host", clock.now_s(), [(f'process_cpu{{pid="{number}"}}', 1.0)])
    await tidy(store)
    assert metric(store, "series") == 300
    for _ in range(300):  # 12.5 days, beyond the longest retention
        clock.advance(HOUR_S)
        store.add_samples("host", clock.now_s(), [("load", 1.0)])
        await tidy(store)
    assert metric(store, "series") == 1
    assert count(tmp_path / "dogwatch.db", "SELECT count(*) FROM series") == 1
    store.add_samples("host", clock.now_s(), [('process_cpu{pid="7"}', 2.0)])
    (found,) = await store.series(
        "host", ["process_cpu"], since_s=clock.now_s() - 60, until_s=clock.now_s() + 60, points=10
    )
    assert found.points[0][1] == 2.0


async def test_the_newest_transition_of_a_target_stays(store: SqliteStore, clock: ManualClock) -> None:
    async def change(target: str, before: Status, after: Status) -> None:
        one = Transition(target=target, time_s=clock.now_s(), before=before, after=after, reason="x" * 1000)
        state = TargetState(target=target, status=after, since_s=0.0, fingerprint="", decider=b"")
        await store.commit_transition(one, state)

    await change("steady", Status.PENDING, Status.UP)
    store.set_limits(StoreLimits(keep=KEEP, max_size=MaxSize(transitions=100_000)))
    for _ in range(150):
        clock.advance(10)
        await change("flapping", Status.UP, Status.DOWN)
        await change("flapping", Status.DOWN, Status.UP)
    await tidy(store)
    assert metric(store, 'table_bytes{table="transitions"}') <= 100_000
    assert len(await store.transitions("steady")) == 1
    assert len(await store.transitions("flapping", limit=1000)) < 100
    (found,) = await store.availability(["steady"], since_s=clock.now_s() - 100, until_s=clock.now_s())
    assert found.up_s == pytest.approx(100)


@settings(max_examples=8, deadline=None)
@given(
    targets=st.integers(1, 20),
    attempts=st.integers(100, 500),
    results=st.integers(20_000, 200_000),
    rolled=st.integers(2_000, 50_000),
    records=st.integers(5_000, 60_000),
)
def test_the_size_bound_of_every_table_holds(
    targets: int, attempts: int, results: int, rolled: int, records: int
) -> None:
    size = MaxSize(
        results=results, samples=results, results_5m=rolled, results_1h=rolled, samples_5m=rolled, samples_1h=rolled,
        transitions=records, failures=records, pings=records,
    )  # fmt: skip

    async def run(path: Path) -> None:
        clock = ManualClock(now_s=BORN_S)
        store = await open_store(path, clock, StoreLimits(max_size=size, buffer_rows=1_000_000))
        try:
            for attempt in range(attempts):
                clock.advance(60)
                for target in range(targets):
                    name = f"t{target}"
                    took_s = (attempt * 7919 + target) % 9973 / 1e4
                    store.add_result(ResultRow(name, clock.now_s(), True, 1, took_s, took_s / 3, took_s / 5))
                    store.add_samples("host", clock.now_s(), [(name, took_s)])
                if attempt % 20 == 0:
                    store.add_failure(Failure(target=f"f{attempt}", time_s=1.0, reason="r", message=f"{attempt}" * 99))
                    state = TargetState(target="t", status=Status.UP, since_s=0.0, fingerprint="", decider=b"")
                    change = Transition(target="t", time_s=clock.now_s(), before=Status.UP, after=Status.DOWN)
                    await store.commit_transition(change, state)
                    await store.commit_ping(Ping(target="p", time_s=1.0, signal="log", body=f"{attempt}" * 99))
                if attempt % 200 == 199:
                    await tidy(store)
            await tidy(store)
            held = {name: metric(store, f'table_bytes{{table="{name}"}}') for name in MaxSize.__struct_fields__}
            # The journal of rows that are not sealed yet comes on top of the blocks; it has its own bound.
            journal = {
                kind: count(path, f"SELECT total(length(data) + 64) FROM {kind}_journal")
                for kind in ("result", "sample")
            }
            for name, held_bytes in held.items():
                own = journal.get(name.removesuffix("s"), 0)
                assert held_bytes <= getattr(size, name) + own, name
            exact(path, store)
            # Blocks of one moment go together where a bound is smaller than one block of each target.
            newest = [row.time_s for n in range(targets) for row in await store.results(f"t{n}", limit=1)]
            assert max(newest) == clock.now_s(), "the newest was deleted before the oldest"
        finally:
            await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "dogwatch.db"))


def exact(path: Path, store: SqliteStore) -> None:
    """Compare the ledger with the tables themselves."""
    for name in ("results_5m", "results_1h", "samples_5m", "samples_1h"):
        table = name.replace("s_", "_")
        assert metric(store, f'table_rows{{table="{name}"}}') == count(path, f"SELECT count(*) FROM {table}")
    for name in ("transitions", "failures", "pings"):
        assert metric(store, f'table_rows{{table="{name}"}}') == count(path, f"SELECT count(*) FROM {name}")
    for kind in ("result", "sample"):
        row_bytes = 64 if kind == "result" else 48
        for what in ("count(*)", f"total(length(data)) + {row_bytes} * count(*)"):
            both = sum(count(path, f"SELECT {what} FROM {kind}_{part}") for part in ("journal", "block"))
            shown = "table_rows" if what == "count(*)" else "table_bytes"
            assert metric(store, f'{shown}{{table="{kind}s"}}') == both
