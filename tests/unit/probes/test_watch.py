"""The watch on a manual clock: schedule, states, records, retries, restarts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.unit.probes.watch_world import _first, answer, hang, statuses
from watch_fakes import CANCELLED, LAUNCHED, SCRIPTS, FakeProbe, World, bad, good, spec

from dogwatch.core.values import Status
from dogwatch.probes.probe import Attempt, Done
from dogwatch.probes.spec import Retries, Startup
from dogwatch.rules.thresholds import Window
from dogwatch.store.protocol import TargetState


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.watch.stop()


async def test_a_target_is_asked_at_its_fixed_rate_and_recorded(world: World) -> None:
    await world.configure(spec("a", every=10.0))
    await world.go(100)
    assert len(world.store.rows) == 10
    gaps = [round(b.time_s - a.time_s, 3) for a, b in itertools.pairwise(world.store.rows)]
    first, *others = gaps
    assert set(others) == {10.0}
    assert 5.0 <= first < 20.0
    row = world.store.rows[-1]
    assert (row.target, row.success, row.status, row.duration_s, row.transfer_s) == ("a", True, 1, 0.01, 0.004)
    view = world.watch.target("a")
    assert (view.status, view.last_success, view.address, view.kind) == ("up", True, "fake://a", "fake")
    assert view.next_s is not None
    assert 0 < view.next_s <= 10


async def test_attempts_come_soon_then_are_spread_over_the_interval_and_the_same_after_a_restart() -> None:
    seconds = []
    for _ in range(2):
        world = World()
        await world.configure(*(spec(f"t{n}", every=10.0) for n in range(200)))
        await world.go(2.1)
        assert len(set(LAUNCHED)) == 200
        await world.go(30)
        times: dict[str, int] = {}
        for step in range(100):
            before = len(LAUNCHED)
            await world.go(0.1)
            times.update(dict.fromkeys(LAUNCHED[before:], step))
        seconds.append(times)
        await world.watch.stop()
        LAUNCHED.clear()
    assert seconds[0] == seconds[1]
    counts = [sum(step // 10 == second for step in seconds[0].values()) for second in range(10)]
    assert sum(counts) == 200
    assert max(counts) < 45


async def test_a_target_never_overlaps_itself_and_what_is_skipped_is_counted(world: World) -> None:
    waiting = hang("slow")
    await world.configure(spec("slow", every=1.0, timeout=1.0), spec("quick", every=1.0, timeout=1.0))
    await world.go(4.5)
    assert len(waiting) == 1
    assert world.watch.all["slow"].skipped >= 3
    assert len([row for row in world.store.rows if row.target == "quick"]) >= 4
    waiting[0](good())
    await world.go(1)
    assert len(waiting) == 2


async def test_an_attempt_that_never_ends_is_given_up(world: World) -> None:
    hang("dead")
    await world.configure(spec("dead", every=1.0, timeout=1.0))
    await world.go(9)
    assert world.store.rows[0].reason == "timeout"
    assert CANCELLED[0] == "dead"
    assert LAUNCHED.count("dead") == 2


async def test_more_than_the_bound_waits_and_is_counted() -> None:
    world = World(concurrency=2)
    held = [hang(f"h{n}") for n in range(4)]
    await world.configure(*(spec(f"h{n}", every=60.0, timeout=5.0) for n in range(4)))
    await world.go(31)
    assert world.watch.running == 2
    assert world.watch.waiting == 2
    assert world.watch.queued_total == 2
    for waiting in held:
        for done in list(waiting):
            done(good())
    assert world.watch.waiting == 0
    assert sum(map(len, held)) == 4
    await world.watch.stop()
    assert world.watch.running == 0


async def test_a_stall_is_not_caught_up_with_in_a_burst(world: World) -> None:
    await world.configure(*(spec(f"t{n}", every=10.0) for n in range(100)))
    await world.go(40)
    before = len(LAUNCHED)
    world.clock.advance(3600)
    world.watch.turn()
    assert len(LAUNCHED) - before <= 3
    before = len(LAUNCHED)
    await world.go(10)
    assert 95 <= len(LAUNCHED) - before <= 105
    assert world.watch.schedule.stalls == 1
    assert 3590 < world.watch.schedule.stalled_s < 3610


async def test_lateness_is_measured(world: World) -> None:
    await world.configure(spec("a", every=10.0))
    world.clock.advance(10 * 0.5)
    await world.go(5.0, step_s=0.8)
    assert world.watch.lateness.count >= 1
    assert 0 <= world.watch.target("a").lateness_s <= 5


async def test_jitter_moves_single_attempts_and_not_the_grid(world: World) -> None:
    await world.configure(spec("a", every=10.0, jitter=4.0))
    await world.go(1000)
    times = [row.time_s for row in world.store.rows[1:]]
    assert len(times) in (98, 99, 100)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert min(gaps) < 9.5
    assert max(gaps) > 10.5
    assert abs((times[-1] - times[0]) - 10 * (len(times) - 1)) <= 4.2


async def test_going_down_and_up_is_committed_before_it_is_told(world: World) -> None:
    told: list[str] = []
    answer("a", bad())
    await world.configure(spec("a", every=1.0, timeout=1.0))
    with world.bus.subscribe("transition", "result") as events:
        await world.go(1.9)
        assert statuses(world, "a") == []
        await world.go(2)
        assert statuses(world, "a") == ["down"]
        assert "3 failures in a row: no luck: refused" in world.store.kept_transitions[0].reason
        world.store.before_commit = lambda: asyncio.sleep(0, told.append(str(events._events[-1].topic)))
        SCRIPTS.clear()
        await world.go(3)
        assert statuses(world, "a") == ["down", "up"]
        assert told == ["result"]
        seen = [event async for event in _first(events, len(events._events))]
    assert [event.data.after.word for event in seen if event.topic == "transition"] == ["down", "up"]
    results = [event.data for event in seen if event.topic == "result"]
    assert results[0].message == "no luck: refused"
    assert results[-1].status == "up"


async def test_nobody_listening_means_no_events_are_built(world: World) -> None:
    await world.configure(spec("a", every=1.0, timeout=1.0))
    await world.go(5)
    assert world.bus.published == len(world.store.kept_transitions) == 1


async def test_an_unmet_expectation_fails_with_what_was_seen_and_evidence(world: World) -> None:
    check = FakeProbe(expect='status == 201 && body.contains("ok") && duration_s < 1', degraded_if="status > 1")
    await world.configure(spec("a", every=1.0, timeout=1.0, check=check, keep_body=1000))
    await world.go(2)
    failure = world.store.kept_failures[0]
    assert failure.reason == "expectation"
    assert failure.message == "status == 201 was false: status is 200"
    assert failure.headers == (("server", "fake"),)
    assert failure.truncated
    assert len(failure.body) == 1000
    assert world.watch.all["a"].attempt.wants == {"status", "body"}


async def test_a_slow_success_is_degraded(world: World) -> None:
    check = FakeProbe(degraded_if="duration_s > 0.5 || phases.transfer > 1")
    answer("a", good(0.7))
    await world.configure(spec("a", every=1.0, timeout=1.0, check=check, degraded_after=2))
    await world.go(4)
    SCRIPTS.clear()
    await world.go(4)
    assert statuses(world, "a") == ["up", "degraded", "up"]


async def test_a_degraded_condition_that_fails_is_shown_and_does_no_harm(world: World) -> None:
    await world.configure(spec("a", every=1.0, timeout=1.0, check=FakeProbe(degraded_if="json.nope > 1")))
    await world.go(2)
    view = world.watch.target("a")
    assert (view.status, view.last_success) == ("up", True)
    assert "json has no value" in view.last_message


async def test_windows_and_startup_grace_reach_the_decider(world: World) -> None:
    answer("a", bad())
    await world.configure(
        spec("a", every=1.0, timeout=1.0, window=Window(failures=2, of=5), startup=Startup(grace=5.0)),
    )
    await world.go(5)
    assert statuses(world, "a") == []
    await world.go(5)
    assert statuses(world, "a") == ["down"]


async def test_retries_stay_inside_one_attempt(world: World) -> None:
    tries: list[int] = []

    def script(_attempt: Attempt, done: Done) -> None:
        tries.append(1)
        done(bad() if len(tries) < 3 else good())

    SCRIPTS["a"] = script
    await world.configure(spec("a", every=60.0, retries=Retries(attempts=2, base=0.0)))
    world.watch.schedule.remove(world.watch.all["a"])
    running = asyncio.ensure_future(world.watch.run_now("a"))
    result = await running
    assert result.success
    assert len(tries) == 3
    assert len(world.store.rows) == 1
    assert not world.store.kept_failures


async def test_a_retry_that_could_not_end_before_the_next_attempt_is_not_made(world: World) -> None:
    answer("a", bad())
    await world.configure(spec("a", every=10.0, timeout=10.0, retries=Retries(attempts=5, base=0.0)))
    world.watch.all["a"].settle_s = None
    await world.go(20)
    await asyncio.sleep(0)
    assert LAUNCHED.count("a") == len(world.store.rows) == 2


async def test_a_kind_that_raises_is_a_local_failure(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def script(_attempt: Attempt, _done: Done) -> None:
        raise ZeroDivisionError("oops")

    SCRIPTS["a"] = script
    await world.configure(spec("a", every=1.0, timeout=1.0))
    await world.go(1)
    assert world.store.rows[0].reason == "local"
    assert "could not be started" in caplog.text


async def test_a_broken_store_does_not_stop_the_watch(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.store.broken = True
    await world.configure(spec("a", every=1.0, timeout=1.0))
    await world.go(5)
    assert len(world.store.rows) == 5
    assert world.watch.target("a").status == "up"
    assert "could not be kept" in caplog.text


async def test_states_are_written_seldom_and_at_the_end() -> None:
    world = World()
    flip = [0]

    def script(_attempt: Attempt, done: Done) -> None:
        flip[0] += 1
        done(bad() if flip[0] % 2 else good())

    SCRIPTS["a"] = script
    await world.configure(spec("a", every=1.0, timeout=1.0))
    await world.go(60)
    assert world.store.state_writes <= 8
    await world.watch.stop()
    assert world.store.kept_states["a"] == world.watch.all["a"].stored()
    assert world.store.flushed == 1


async def test_a_restart_neither_forgets_a_down_target_nor_tells_it_again() -> None:
    world = World()
    answer("a", bad())
    await world.configure(spec("a", every=1.0, timeout=1.0))
    await world.go(5)
    await world.watch.stop()
    since_s = world.watch.target("a").since_s
    again = World(store=world.store)
    answer("a", bad())
    await again.configure(spec("a", every=1.0, timeout=1.0))
    assert again.watch.target("a").status == "down"
    assert again.watch.target("a").since_s == since_s
    await again.go(5)
    assert statuses(again, "a") == ["down"]
    SCRIPTS.clear()
    await again.go(3)
    assert statuses(again, "a") == ["down", "up"]
    await again.watch.stop()


async def test_state_of_another_specification_is_not_taken_over_but_a_pause_by_hand_is() -> None:
    world = World()
    await world.configure(spec("a"), spec("b"), spec("c", paused=True))
    await world.go(31)
    await world.watch.pause("b")
    await world.watch.stop()
    again = World(store=world.store)
    await again.configure(spec("a", url="fake://other"), spec("b", url="fake://other"), spec("c"))
    assert [view.status for view in again.watch.targets()] == ["pending", "paused", "pending"]
    await again.watch.stop()


async def test_a_state_of_an_unknown_version_starts_anew(world: World) -> None:
    await world.configure(spec("a"))
    stored = world.watch.all["a"].stored()
    world.store.kept_states["b"] = TargetState(
        target="b", status=Status.DOWN, since_s=1.0, fingerprint=stored.fingerprint, decider=b'{"v":99}'
    )
    await world.configure(spec("a"), spec("b"))
    assert world.watch.target("b").status == "pending"
