"""The token bucket: never more than promised, never less, and fair."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.bucket import RateLimiter, TokenBucket
from dogwatch.core.clock import ManualClock

rates = st.floats(0.01, 10_000)
bursts = st.floats(1, 1000)
steps = st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 1)), min_size=1, max_size=50)


@given(rate=rates, burst=bursts, steps=steps)
def test_no_window_gives_more_than_burst_and_rate_allow(rate: float, burst: float, steps) -> None:
    bucket = TokenBucket(rate_per_s=rate, burst=burst)
    now_s = 1000.0
    given_at: list[tuple[float, float]] = []
    for pause_s, share in steps:
        now_s += pause_s
        amount = share * burst
        if bucket.take(now_s, amount) == 0:
            given_at.append((now_s, amount))
        assert 0 <= bucket.available(now_s) <= burst
    for index, (start_s, _) in enumerate(given_at):
        total = 0.0
        for at_s, amount in given_at[index:]:
            total += amount
            assert total <= (burst + rate * (at_s - start_s)) * (1 + 1e-9) + rate * 1e-9


@given(rate=rates, burst=bursts, steps=steps)
def test_waiting_as_long_as_told_is_enough_and_needed(rate: float, burst: float, steps) -> None:
    bucket = TokenBucket(rate_per_s=rate, burst=burst)
    now_s = 1000.0
    for pause_s, share in steps:
        now_s += pause_s
        amount = share * burst
        wait_s = bucket.take(now_s, amount)
        if wait_s > 1e-6:
            assert bucket.take(now_s + wait_s * 0.5, amount) > 0
            # A sum of floats may fall one step short: the second wait is then nearly nothing.
            again_s = bucket.take(now_s + wait_s, amount)
            assert again_s <= 1e-9
            now_s += wait_s + again_s


def test_it_starts_full_and_fills_up() -> None:
    bucket = TokenBucket(rate_per_s=2, burst=4)
    assert bucket.take(0.0, 4) == 0
    assert bucket.available(0.0) == 0
    assert bucket.take(0.0) == 0.5
    assert bucket.available(1.0) == 2
    assert bucket.available(100.0) == 4


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1), (float("inf"), 1), (1, float("nan"))])
def test_nonsense_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        TokenBucket(rate_per_s=rate, burst=burst)


def test_more_than_it_holds_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="holds 4"):
        TokenBucket(rate_per_s=1, burst=4).take(0.0, 5)


class Sleeper:
    """Lets time pass on a manual clock; every sleep is one step."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock

    async def __call__(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.clock.advance(seconds)


async def test_first_come_first_served_whatever_they_want() -> None:
    clock = ManualClock()
    limiter = RateLimiter(rate_per_s=10, burst=10, clock=clock, sleep=Sleeper(clock))
    order: list[tuple[str, float]] = []

    async def want(name: str, amount: float) -> None:
        await limiter.acquire(amount)
        order.append((name, round(clock.monotonic_s() - 1000, 3)))

    await asyncio.gather(want("a", 10), want("big", 10), want("small", 1), want("last", 4))
    assert order == [("a", 0.0), ("big", 1.0), ("small", 1.1), ("last", 1.5)]
    assert limiter.waiting == 0


async def test_who_gives_up_has_taken_nothing() -> None:
    clock = ManualClock()
    never = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await never.wait()

    limiter = RateLimiter(rate_per_s=1, burst=1, clock=clock, sleep=sleep)
    await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    assert not limiter.try_acquire()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    clock.advance(1.0)
    assert limiter.try_acquire()
    assert limiter.available() == 0
