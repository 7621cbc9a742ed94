"""The ticker: on the grid, never twice, never made up for, gone with its owner."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.clock import ManualClock
from dogwatch.core.ticker import Tick, Ticker, next_number


class World:
    """A clock that a sleep moves; `late` seconds are added to each sleep in turn."""

    def __init__(self, late: list[float] | None = None) -> None:
        self.clock = ManualClock()
        self.late = list(late or [])

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds + (self.late.pop(0) if self.late else 0.0))


async def ticks(ticker: Ticker, world: World, bodies: list[float]) -> list[Tick]:
    seen = []
    rest = list(bodies)
    async for tick in ticker:
        seen.append(tick)
        if not rest:
            break
        world.clock.advance(rest.pop(0))
    return seen


async def test_it_stays_on_the_grid_whatever_the_body_takes() -> None:
    world = World()
    ticker = Ticker(10.0, clock=world.clock, sleep=world.sleep)
    seen = await ticks(ticker, world, [3.0, 9.9, 10.0, 0.0, 35.0, 1.0])
    assert [tick.due_s - 1000 for tick in seen] == [0, 10, 20, 30, 40, 80, 90]
    assert [tick.skipped for tick in seen] == [0, 0, 0, 0, 0, 3, 0]
    assert ticker.skipped == 3


async def test_the_first_tick_can_wait() -> None:
    world = World()
    ticker = Ticker(10.0, first_s=4.0, clock=world.clock, sleep=world.sleep)
    world.clock.advance(100.0)  # between making and iterating: no tick is missed before anyone listens
    seen = await ticks(ticker, world, [1.0])
    assert [tick.due_s - 1100 for tick in seen] == [4, 14]


async def test_lateness_of_the_loop_does_not_add_up() -> None:
    world = World(late=[0.3, 0.4, 0.2])
    seen = await ticks(Ticker(1.0, first_s=1.0, clock=world.clock, sleep=world.sleep), world, [0.0] * 3)
    assert [round(tick.due_s - 1000, 6) for tick in seen] == [1, 2, 3, 4]
    assert [round(tick.late_s, 6) for tick in seen] == [0.3, 0.4, 0.2, 0.0]


async def test_a_sleep_that_wakes_early_sleeps_again() -> None:
    world = World(late=[-0.25])
    seen = await ticks(Ticker(1.0, first_s=1.0, clock=world.clock, sleep=world.sleep), world, [])
    assert seen[0].late_s == 0


def test_an_interval_must_be_positive() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Ticker(0.0)


async def test_it_ends_with_its_owner() -> None:
    seen = 0

    async def own() -> None:
        nonlocal seen
        async for _ in Ticker(0.001):
            seen += 1

    task = asyncio.create_task(own())
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    assert seen >= 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


@given(
    interval_s=st.floats(0.001, 3600),
    bodies=st.lists(st.floats(0, 10_000), max_size=40),
    late=st.lists(st.floats(0, 100), max_size=40),
)
async def test_no_drift_no_double_and_every_point_accounted_for(
    interval_s: float, bodies: list[float], late: list[float]
) -> None:
    world = World(late)
    ticker = Ticker(interval_s, clock=world.clock, sleep=world.sleep)
    seen = await ticks(ticker, world, bodies)
    numbers = [tick.number for tick in seen]
    assert numbers == sorted(set(numbers))
    assert all(tick.due_s == 1000.0 + tick.number * interval_s for tick in seen)
    assert all(tick.late_s >= 0 for tick in seen)
    assert numbers[-1] + 1 == len(numbers) + ticker.skipped


@given(
    start_s=st.floats(0, 1e6),
    interval_s=st.floats(0.001, 1e4),
    last=st.integers(-1, 10**6),
    passed_s=st.floats(0, 1e6),
)
def test_the_next_point_is_after_the_last_and_not_in_the_past(
    start_s: float, interval_s: float, last: int, passed_s: float
) -> None:
    now_s = start_s + passed_s
    number = next_number(start_s=start_s, interval_s=interval_s, last=last, now_s=now_s)
    assert number > last
    assert number == last + 1 or start_s + number * interval_s >= now_s
    # …and the nearest such one.
    assert number == last + 1 or start_s + (number - 1) * interval_s < now_s
