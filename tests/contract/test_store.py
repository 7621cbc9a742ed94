"""What every store does, whatever it keeps history on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dogwatch.core.clock import ManualClock
from dogwatch.core.values import Status, Transition
from dogwatch.store.limits import StoreLimits
from dogwatch.store.memory import MemoryStore
from dogwatch.store.protocol import Failure, Ping, ResultRow, Store, TargetState, TransitionFilter
from dogwatch.store.sqlite import open_store

HOUR_S = 3600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now_s=1_800_000_000.0)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    limits = StoreLimits(failures_per_target=3, pings_per_target=3)
    made: Store = (
        MemoryStore(clock, limits)
        if request.param == "memory"
        else await open_store(tmp_path / "dogwatch.db", clock, limits)
    )
    yield made
    await made.close()


def result(clock: ManualClock, target: str = "shop", *, success: bool = True, duration_s: float = 0.1) -> ResultRow:
    status = Status.UP if success else Status.DOWN
    reason = "" if success else "timeout"
    return ResultRow(target, clock.now_s(), success, status, duration_s, 0.001, 0.002, 0.003, 0.004, 0.005, reason)


def state(target: str, status: Status = Status.UP) -> TargetState:
    return TargetState(target=target, status=status, since_s=1.0, fingerprint="f", decider=b'{"v":1}')


async def change(store: Store, clock: ManualClock, before: Status, after: Status, target: str = "shop") -> Transition:
    transition = Transition(target=target, time_s=clock.now_s(), before=before, after=after, reason="as told")
    await store.commit_transition(transition, state(target, after))
    return transition


async def test_a_result_is_seen_at_once(store: Store, clock: ManualClock) -> None:
    row = result(clock)
    store.add_result(row)
    assert list(await store.results("shop", limit=10)) == [row]
    assert await store.results("other", limit=10) == []


async def test_times_are_kept_to_the_millisecond_and_durations_to_the_microsecond(store: Store) -> None:
    store.add_result(ResultRow("shop", 1_800_000_000.12345, True, 1, 0.123456789, -1.0, 99_999.0))
    (row,) = await store.results("shop", limit=1)
    assert row.time_s == pytest.approx(1_800_000_000.123, abs=1e-6)
    assert row.duration_s == pytest.approx(0.123457, abs=1e-9)
    assert row.resolve_s == 0.0
    assert row.connect_s == pytest.approx(4294.967295)


async def test_results_are_newest_first_and_paged(store: Store, clock: ManualClock) -> None:
    rows = []
    for _ in range(700):
        clock.advance(15)
        rows.append(result(clock))
        store.add_result(rows[-1])
    newest = await store.results("shop", limit=600)
    assert list(newest) == rows[:-601:-1]
    rest = await store.results("shop", limit=600, before_s=newest[-1].time_s)
    assert list(rest) == rows[99::-1]


async def test_recent_of_many_targets_is_oldest_first(store: Store, clock: ManualClock) -> None:
    for number in range(300):
        clock.advance(15)
        store.add_result(result(clock, "a", duration_s=number / 1000))
        if number % 2:
            store.add_result(result(clock, "b", duration_s=number / 1000))
    found = await store.recent(["a", "b", "nobody"], limit=60)
    assert [row.duration_s for row in found["a"]] == [number / 1000 for number in range(240, 300)]
    assert [row.duration_s for row in found["b"]] == [number / 1000 for number in range(181, 300, 2)]
    assert list(found["nobody"]) == []


@pytest.mark.parametrize("points", [1, 12, 60, 300, 5000])
async def test_a_chart_counts_every_result_once(store: Store, clock: ManualClock, points: int) -> None:
    start_s = clock.now_s()
    for number in range(1000):
        store.add_result(result(clock, success=number % 10 != 0, duration_s=0.001 * (number % 7 + 1)))
        clock.advance(15)
        if number % 100 == 99:
            await store.flush()
    found = await store.chart("shop", since_s=start_s, until_s=clock.now_s(), points=points)
    assert 0 < len(found) <= points
    assert [point.time_s for point in found] == sorted({point.time_s for point in found})
    assert sum(point.count for point in found) == 1000
    assert sum(point.failures for point in found) == 100
    good = [point for point in found if point.mean_s is not None]
    assert sum((point.mean_s or 0) * (point.count - point.failures) for point in good) == pytest.approx(
        sum(0.001 * (number % 7 + 1) for number in range(1000) if number % 10), rel=1e-9
    )
    assert min(point.min_s or 9 for point in good) == 0.001
    assert max(point.max_s or 0 for point in good) == 0.007
    assert all(point.phases_s == pytest.approx((0.001, 0.002, 0.003, 0.004, 0.005)) for point in good)


async def test_a_point_shows_the_worst_status_and_percentiles(store: Store, clock: ManualClock) -> None:
    start_s = clock.now_s()
    for number in range(100):
        store.add_result(result(clock, success=number != 50, duration_s=(number + 1) / 100))
    (point,) = await store.chart("shop", since_s=start_s, until_s=start_s + 60, points=1)
    assert point.status == Status.DOWN
    assert point.quantiles_s == pytest.approx((0.5, 0.95, 0.99), rel=0.07)


async def test_a_whole_period_is_one_point(store: Store, clock: ManualClock) -> None:
    start_s = clock.now_s()
    for number in range(1000):
        store.add_result(result(clock, success=number % 10 != 0, duration_s=(number % 100 + 1) / 100))
        clock.advance(15)
        if number % 300 == 99:
            await store.flush()
    point = await store.overall("shop", since_s=start_s, until_s=clock.now_s())
    assert point is not None
    assert (point.count, point.failures) == (1000, 100)
    assert point.quantiles_s == pytest.approx((0.5, 0.95, 0.99), rel=0.07)
    assert (point.min_s, point.max_s) == (0.02, 1.0)
    # Only what is in the period.
    part = await store.overall("shop", since_s=start_s, until_s=start_s + 100 * 15)
    assert part is not None
    assert 90 <= part.count <= 120
    assert await store.overall("nobody", since_s=start_s, until_s=clock.now_s()) is None
    assert await store.overall("shop", since_s=10, until_s=20) is None
    assert await store.overall("shop", since_s=20, until_s=20) is None


async def test_a_point_without_success_has_no_durations(store: Store, clock: ManualClock) -> None:
    store.add_result(result(clock, success=False))
    (point,) = await store.chart("shop", since_s=clock.now_s() - 60, until_s=clock.now_s() + 60, points=300)
    assert (point.count, point.failures) == (1, 1)
    assert (point.mean_s, point.min_s, point.max_s, point.phases_s, point.quantiles_s) == (None,) * 5


async def test_a_chart_of_nothing_is_empty(store: Store, clock: ManualClock) -> None:
    assert await store.chart("nobody", since_s=0, until_s=clock.now_s(), points=10) == []
    store.add_result(result(clock))
    assert await store.chart("shop", since_s=0, until_s=10, points=10) == []
    assert await store.chart("shop", since_s=10, until_s=10, points=10) == []


async def test_rows_that_come_late_or_twice_are_kept(store: Store, clock: ManualClock) -> None:
    start_s = clock.now_s()
    store.add_result(result(clock, duration_s=0.1))
    clock.jump(-7200)
    store.add_result(result(clock, duration_s=0.2))
    store.add_result(result(clock, duration_s=0.3))
    clock.jump(7200)
    store.add_result(result(clock, duration_s=0.4))
    assert [row.duration_s for row in await store.results("shop", limit=9)] == [0.4, 0.3, 0.2, 0.1]
    found = await store.chart("shop", since_s=start_s - HOUR_S * 3, until_s=start_s + 60, points=1000)
    assert [point.count for point in found] == [2, 2]


async def test_samples_of_every_label_set(store: Store, clock: ManualClock) -> None:
    start_s = clock.now_s()
    for number in range(40):
        store.add_samples(
            "web-1",
            clock.now_s(),
            [
                ("node_load1", float(number)),
                ('node_fs_free_bytes{mountpoint="/"}', 1e12 + number),
                ('node_fs_free_bytes{mountpoint="/var"}', 7.5),
                ("node_cpu_seconds_total", number * 10.0),
                ("node_load15", 1.0),
                ("nothing", float("nan")),
            ],
        )
        clock.advance(15)
    names = ["node_load1", "node_fs_free_bytes", "node_cpu_seconds_total", "nothing"]
    found = {
        one.series: list(one.points)
        for one in await store.series("web-1", names, since_s=start_s, until_s=start_s + 600, points=2)
    }
    assert found == {
        "node_load1": [(start_s, 9.5), (start_s + 300, 29.5)],
        'node_fs_free_bytes{mountpoint="/"}': [(start_s, 1e12 + 9.5), (start_s + 300, 1e12 + 29.5)],
        'node_fs_free_bytes{mountpoint="/var"}': [(start_s, 7.5), (start_s + 300, 7.5)],
        "node_cpu_seconds_total": [(start_s, 190.0), (start_s + 300, 390.0)],
    }
    assert await store.series("web-2", names, since_s=0, until_s=clock.now_s(), points=2) == []


async def test_the_newest_state_of_a_target(store: Store, clock: ManualClock) -> None:
    store.add_state(state("shop", Status.UP))
    store.add_state(state("shop", Status.DEGRADED))
    await store.flush()
    assert await store.states() == {"shop": state("shop", Status.DEGRADED)}
    await change(store, clock, Status.DEGRADED, Status.DOWN)
    assert await store.states() == {"shop": state("shop", Status.DOWN)}


async def test_transitions_are_newest_first(store: Store, clock: ManualClock) -> None:
    made = [await change(store, clock, Status.PENDING, Status.UP)]
    clock.advance(60)
    made.append(await change(store, clock, Status.PENDING, Status.UP, "other"))
    clock.advance(60)
    made.append(await change(store, clock, Status.UP, Status.DOWN))
    assert list(await store.transitions()) == made[::-1]
    assert list(await store.transitions("shop")) == [made[2], made[0]]
    assert list(await store.transitions(limit=1)) == [made[2]]
    assert list(await store.transitions(since_s=made[1].time_s)) == [made[2], made[1]]


async def test_transitions_are_found_a_page_at_a_time(store: Store, clock: ManualClock) -> None:
    made = []
    for number in range(7):
        made.append(
            await change(store, clock, Status.UP, (Status.DOWN, Status.DEGRADED)[number % 2], f"größe-{number % 3}")
        )
        clock.advance(60)
    newest = made[::-1]

    async def found(limit: int, **wanted: Any) -> tuple[list[Transition], int | None]:
        """Walk through all pages; everything is found once, whatever is added meanwhile."""
        items: list[Transition] = []
        before: int | None = None
        totals: list[int | None] = []
        while True:
            page = await store.find_transitions(TransitionFilter(**wanted), limit=limit, before=before)
            assert len(page.items) <= limit
            items += page.items
            totals.append(page.total)
            if page.before is None:
                # It is counted once, for the first page.
                assert set(totals[1:]) <= {None}
                return items, totals[0]
            before = page.before

    for limit in (1, 2, 7, 100):
        assert await found(limit) == (newest, 7)
    assert await found(2, targets=["größe-1"]) == ([one for one in newest if one.target == "größe-1"], 2)
    assert await found(2, targets=[]) == ([], 0)
    assert await found(2, after=[Status.DEGRADED]) == ([one for one in newest if one.after == Status.DEGRADED], 3)
    assert await found(3, words=["größe", "-2"]) == ([one for one in newest if one.target == "größe-2"], None)
    assert await found(3, words=["%"]) == ([], None)
    assert await found(2, since_s=made[2].time_s, until_s=made[5].time_s) == (made[2:5][::-1], 3)
    first = await store.find_transitions(TransitionFilter(), limit=3)
    await change(store, clock, Status.UP, Status.DOWN, "later")
    rest = await store.find_transitions(TransitionFilter(), limit=10, before=first.before)
    assert [*first.items, *rest.items] == newest


async def test_transitions_at_once_are_all_kept(store: Store, clock: ManualClock) -> None:
    await asyncio.gather(*(change(store, clock, Status.UP, Status.DOWN, f"t{number}") for number in range(50)))
    assert {one.target for one in await store.transitions(limit=100)} == {f"t{number}" for number in range(50)}


async def test_the_newest_failures_with_their_evidence(store: Store, clock: ManualClock) -> None:
    made = [
        Failure(
            target="shop",
            time_s=clock.now_s() + number,
            reason="status",
            message=f"answered 50{number}",
            headers=(("content-type", "text/html"),),
            body="<h1>wörld \U0001f415</h1>" * number,
        )
        for number in range(5)
    ]
    for failure in made:
        store.add_failure(failure)
    await store.flush()
    assert list(await store.failures("shop", limit=10)) == made[:1:-1]
    assert list(await store.failures("shop", limit=1)) == [made[4]]
    assert list(await store.failures("other", limit=1)) == []


async def test_the_newest_pings(store: Store, clock: ManualClock) -> None:
    made = [
        Ping(
            target="backup",
            time_s=clock.now_s() + number,
            signal="exit",
            exit_status=number,
            body="ok",
            rid=f"run-{number}",
        )
        for number in range(5)
    ]
    for ping in made:
        await store.commit_ping(ping)
    assert list(await store.pings("backup", limit=10)) == made[:1:-1]


async def test_documents(store: Store) -> None:
    assert await store.document("pauses") is None
    await store.put_document("pauses", b"one")
    await store.put_document("pauses", b"two\0")
    assert await store.document("pauses") == b"two\0"


async def test_availability_leaves_out_what_counts_for_neither_side(store: Store, clock: ManualClock) -> None:
    start_s = clock.now_s()
    await change(store, clock, Status.PENDING, Status.UP)
    for after, before in (
        (Status.DOWN, Status.UP),
        (Status.DEGRADED, Status.DOWN),
        (Status.MAINTENANCE, Status.DEGRADED),
        (Status.PAUSED, Status.MAINTENANCE),
        (Status.DOWN, Status.PAUSED),
        (Status.UP, Status.DOWN),
    ):
        clock.advance(2)
        await change(store, clock, before, after)
    clock.advance(2)
    found, none = await store.availability(["shop", "nobody"], since_s=start_s - 10, until_s=clock.now_s() + 6)
    spent = (found.up_s, found.degraded_s, found.down_s, found.maintenance_s, found.paused_s, found.unknown_s)
    assert spent == (4, 2, 4, 2, 2, 16)
    assert found.ratio == pytest.approx(0.6)
    assert found.incidents == 2
    assert (none.target, none.unknown_s, none.ratio) == ("nobody", 30, None)


async def test_text_that_cannot_be_encoded_is_replaced(store: Store, clock: ManualClock) -> None:
    store.add_failure(Failure(target="shop", time_s=1.0, reason="x", message="bad \udcff byte", body="\udcff"))
    store.add_result(ResultRow("shop", clock.now_s(), False, 3, 0.1, reason="\udcff"))
    await store.flush()
    assert len(await store.failures("shop", limit=5)) == 1
    assert len(await store.results("shop", limit=5)) == 1
    assert store.trouble == ""


async def test_close_twice(store: Store, clock: ManualClock) -> None:
    store.add_result(result(clock))
    await store.close()
    await store.close()
