"""A worker against a ledger in memory: claims, heartbeats, fencing of itself, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.engine_fakes import FakeLedger, PlainLanguage, step
from tests.runs import identity

from dogwatch.core.clock import ManualClock, SystemClock
from dogwatch.engine.action import Outcome, Scene
from dogwatch.engine.scene import Services
from dogwatch.engine.values import RunState, StepState
from dogwatch.engine.worker import DatabaseClock, Lease, Worker, WorkerOptions, families


class Hand:
    """CLOCK_BOOTTIME, moved by hand on top of the real one."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.skipped_s


class Place:
    def __init__(self) -> None:
        self.ledger, self.hand = FakeLedger(), Hand()
        self.renewed: list[float] = []
        self.failure: BaseException | None = None

    @contextlib.asynccontextmanager
    async def worker(self, **options: Any) -> AsyncIterator[Worker]:
        slots, ttl_s = options.pop("slots", 4), options.pop("ttl_s", 6.0)
        worker = Worker(
            identity("w1", slots=slots, ttl_s=ttl_s),
            self.ledger,
            self.ledger.listen,
            language=PlainLanguage(),
            services=Services(),
            clock=SystemClock(),
            options=WorkerOptions(**{"renew": self.renewed.append, "poll_s": 30.0} | options),
            boottime_s=self.hand,
        )
        task = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(60):
                await until(lambda: self.renewed or task.done())
                yield worker
                worker.stop()
                await task
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def place() -> Place:
    return Place()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.001)


class Hold:
    """An action that runs until it is let go, and says how it ended."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.began = 0
        self.cancelled = 0

    async def __call__(self, scene: Scene) -> Outcome:
        self.began += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Outcome()


async def test_a_notice_starts_a_run_long_before_the_poll(place: Place) -> None:
    async with place.worker():
        run = place.ledger.add(step("a"))
        await run.ended.wait()
        assert run.run.state is RunState.SUCCEEDED


async def test_a_run_whose_notice_was_lost_is_found_by_the_poll(place: Place) -> None:
    async with place.worker(poll_s=0.05):
        place.ledger.listeners["runs"].clear()
        run = place.ledger.add(step("a"))
        place.ledger.listeners["runs"].append(lambda: None)
        await run.ended.wait()
        place.ledger.listeners["runs"].clear()
        place.ledger.listeners["runs"] = _Any()


async def test_an_outage_is_said_once_and_its_end_too(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "dogwatch.engine.worker"):
        async with place.worker(ttl_s=0.3, alone=True):
            place.ledger.trouble = 5
            await until(lambda: "all is well again" in caplog.text)
    told = [record.levelname for record in caplog.records]
    assert told == ["WARNING", "INFO"]


class _Any(list[Any]):
    """A list from which everything can be removed."""

    def remove(self, value: Any) -> None:
        return None


async def test_never_more_runs_than_slots_and_the_next_follows_at_once(place: Place) -> None:
    holds = [Hold() for _ in range(5)]
    async with place.worker(slots=2) as worker:
        runs = [place.ledger.add(step("a", hold)) for hold in holds]
        await until(lambda: worker.busy == 2)
        assert [hold.began for hold in holds] == [1, 1, 0, 0, 0]
        holds[1].go.set()
        await until(lambda: holds[2].began)
        for hold in holds:
            hold.go.set()
        await asyncio.gather(*(run.ended.wait() for run in runs))


async def test_an_order_reaches_a_run_by_a_heartbeat_at_once(place: Place) -> None:
    hold = Hold()
    async with place.worker():
        run = place.ledger.add(step("a", hold))
        await until(lambda: hold.began)
        place.ledger.order(run, cancel="by user:ann")
        await run.ended.wait()
        assert (run.run.state, hold.cancelled) == (RunState.CANCELLED, 1)


async def test_what_another_worker_has_is_dropped(place: Place) -> None:
    hold = Hold()
    async with place.worker() as worker:
        run = place.ledger.add(step("a", hold))
        await until(lambda: hold.began)
        run.fence += 1
        place.ledger.tell("worker:w1")
        await until(lambda: not worker.busy)
        assert hold.cancelled == 1
        assert run.steps["a"].state is StepState.RUNNING


async def test_a_worker_that_was_declared_lost_drops_all_and_comes_back(place: Place) -> None:
    hold = Hold()
    async with place.worker(slots=4):
        run = place.ledger.add(step("a", hold))
        await until(lambda: hold.began)
        place.ledger.lose("w1")
        place.ledger.tell("worker:w1")
        await until(lambda: hold.began == 2)
        assert hold.cancelled == 1
        assert 0.0 in place.renewed, "what started programs ended them, too"
        hold.go.set()
        await run.ended.wait()
        assert run.steps["a"].attempt == 1


async def test_a_lease_that_ran_out_ends_everything_before_the_database_is_asked(place: Place) -> None:
    hold = Hold()
    async with place.worker() as worker:
        run = place.ledger.add(step("a", hold))
        await until(lambda: hold.began)
        # As after SIGSTOP and SIGCONT, or a machine that slept.
        place.hand.skipped_s += 7.0
        heartbeats = place.ledger.calls.count("heartbeat")
        place.ledger.hang = asyncio.Event()
        place.ledger.tell("worker:w1")
        await until(lambda: hold.cancelled)
        await until(lambda: not worker.busy)
        assert place.ledger.calls.count("heartbeat") <= heartbeats + 1
        assert run.steps["a"].state is StepState.RUNNING
        place.ledger.hang.set()
        place.ledger.take_from("w1")
        place.ledger.tell("runs")
        await until(lambda: hold.began == 2)
        hold.go.set()
        await run.ended.wait()


async def test_a_database_that_does_not_answer_ends_everything_in_time(place: Place) -> None:
    hold = Hold()
    async with place.worker(ttl_s=2.4) as worker:
        place.ledger.add(step("a", hold))
        await until(lambda: hold.began)
        place.ledger.hang = asyncio.Event()
        started = asyncio.get_running_loop().time()
        await until(lambda: not worker.busy)
        assert asyncio.get_running_loop().time() - started < 2.4
        assert hold.cancelled == 1
        place.ledger.hang.set()


async def test_alone_on_its_database_it_keeps_its_runs_through_any_trouble(place: Place) -> None:
    hold = Hold()
    async with place.worker(alone=True):
        run = place.ledger.add(step("a", hold))
        await until(lambda: hold.began)
        place.hand.skipped_s += 1000.0
        place.ledger.trouble = 3
        place.ledger.tell("worker:w1")
        await until(lambda: not place.ledger.trouble)
        hold.go.set()
        await run.ended.wait()
        assert (hold.began, hold.cancelled) == (1, 0)


async def test_trouble_shorter_than_the_lease_repeats_nothing(place: Place) -> None:
    hold = Hold()
    async with place.worker():
        run = place.ledger.add(step("a", hold), step("b"))
        await until(lambda: hold.began)
        place.ledger.trouble = 5
        hold.go.set()
        place.ledger.tell("worker:w1")
        await run.ended.wait()
        assert (run.run.state, hold.began, hold.cancelled) == (RunState.SUCCEEDED, 1, 0)


async def test_drained_it_takes_no_new_run(place: Place) -> None:
    hold = Hold()
    async with place.worker(poll_s=0.01) as worker:
        first = place.ledger.add(step("a", hold))
        await until(lambda: hold.began)
        place.ledger.workers["w1"] = "draining"
        place.ledger.tell("worker:w1")
        await until(lambda: worker.draining)
        second = place.ledger.add(step("a"))
        hold.go.set()
        await first.ended.wait()
        claims = place.ledger.calls.count("claim")
        await asyncio.sleep(0.1)
        assert place.ledger.calls.count("claim") == claims
        place.ledger.workers["w1"] = "active"
        place.ledger.tell("worker:w1")
        await second.ended.wait()


async def test_a_stop_waits_for_steps_and_gives_the_rest_back(place: Place) -> None:
    quick, slow = Hold(), Hold()
    async with place.worker(grace_s=0.2) as worker:
        one = place.ledger.add(step("a", quick), step("b"))
        two = place.ledger.add(step("a", slow))
        await until(lambda: quick.began and slow.began)
        worker.stop()
        await asyncio.sleep(0.01)
        quick.go.set()
    assert one.steps["a"].state is StepState.SUCCEEDED
    assert "b" not in one.steps
    assert (slow.cancelled, two.steps["a"].cut) == (1, True)
    assert [run.worker for run in (one, two)] == ["", ""]
    assert place.ledger.workers == {}


async def test_it_registers_once_the_database_is_there_and_can_be_stopped_before(place: Place) -> None:
    place.ledger.trouble = 2
    async with place.worker():
        assert place.ledger.calls[:3] == ["register"] * 3
    other = Place()
    other.ledger.trouble = 10**6
    other.renewed.append(1.0)
    async with other.worker() as worker:
        worker.stop()
    assert "claim" not in other.ledger.calls


async def test_an_idle_worker_asks_the_database_a_few_times_a_second(place: Place) -> None:
    async with place.worker(poll_s=1.0):
        await asyncio.sleep(0.1)
        place.ledger.calls.clear()
        await asyncio.sleep(1.0)
        assert len(place.ledger.calls) <= 6


def test_a_lease_counts_from_before_the_heartbeat_and_ends_before_its_time() -> None:
    now = 100.0
    lease = Lease(6.0, alone=False, now_s=lambda: now)
    assert not lease.holds()
    now = 101.0
    assert lease.renewed(100.0) == 4.0
    now = 104.9
    assert lease.holds()
    now = 105.0
    assert not lease.holds()
    assert not Lease(6.0, alone=True, now_s=lambda: now).holds(), "it has to register first"


async def test_metrics_say_what_it_has(place: Place) -> None:
    hold = Hold()
    async with place.worker() as worker:
        run = place.ledger.add(step("a", hold))
        await until(lambda: hold.began)
        values = dict(pair for family in families(worker) for pair in family.series)
        assert (values["dogwatch_worker_slots"], values["dogwatch_worker_busy"]) == (4.0, 1.0)
        run.fence += 1
        place.ledger.tell("worker:w1")
        await until(lambda: not worker.busy)
        values = dict(pair for family in families(worker) for pair in family.series)
        assert values["dogwatch_worker_dropped_total"] == 1.0
    assert all(value == 0.0 for family in families(None) for _, value in family.series)


def test_the_databases_clock_rules_where_it_differs_by_more_than_can_be_told() -> None:
    own = ManualClock(now_s=1000.0)
    clock = DatabaseClock(own)
    clock.told(1000.01, took_s=0.05)
    assert clock.now_s() == 1000.0
    clock.told(1030.0, took_s=0.5)
    assert clock.now_s() == 1030.25
    clock.told(990.0, took_s=0.0)
    assert clock.now_s() == 990.0
    own.advance(1.0)
    assert (clock.now_s(), clock.monotonic_s()) == (991.0, own.monotonic_s())
