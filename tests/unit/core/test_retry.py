"""Retry: bounded in number, in wait and in time."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.deadline import within
from dogwatch.core.retry import Retrier, RetryPolicy, backoff
from dogwatch.errors import PermanentError, TransientError


@given(
    attempt=st.integers(1, 10**6),
    base_s=st.floats(0, 1000),
    cap_s=st.floats(0, 10_000),
    share=st.floats(0, 1, exclude_max=True),
)
def test_backoff_stays_in_its_bounds(attempt: int, base_s: float, cap_s: float, share: float) -> None:
    wait_s = backoff(attempt, base_s=base_s, cap_s=cap_s, random=lambda: share)
    assert 0 <= wait_s <= cap_s
    full_s = backoff(attempt, base_s=base_s, cap_s=cap_s, random=lambda: 1.0)
    assert wait_s == pytest.approx(share * full_s)
    assert full_s <= backoff(attempt + 1, base_s=base_s, cap_s=cap_s, random=lambda: 1.0)


def test_backoff_doubles() -> None:
    assert [backoff(n, base_s=1, cap_s=5, random=lambda: 1.0) for n in (1, 2, 3, 4)] == [1, 2, 4, 5]
    with pytest.raises(ValueError, match="at least 1"):
        backoff(0, base_s=1, cap_s=1)


class Flaky:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.waits: list[float] = []

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def retrier(flaky: Flaky, **more) -> Retrier:
    policy = RetryPolicy(attempts=4, base_s=1, cap_s=3)
    return Retrier(policy, random=lambda: 0.5, sleep=flaky.sleep, **more)


async def test_it_tries_until_it_succeeds() -> None:
    told = []
    flaky = Flaky(TransientError("a"), TransientError("b"))
    assert (
        await retrier(flaky, retried=lambda n, error, wait_s: told.append((n, str(error), wait_s))).run(flaky) == "done"
    )
    assert flaky.waits == [0.5, 1.0]
    assert told == [(1, "a", 0.5), (2, "b", 1.0)]


async def test_it_gives_up_after_the_last_attempt_and_says_so() -> None:
    flaky = Flaky(*(TransientError(str(n)) for n in range(9)))
    with pytest.raises(TransientError, match="3") as raised:
        await retrier(flaky).run(flaky)
    assert (flaky.calls, len(flaky.waits)) == (4, 3)
    assert raised.value.__notes__ == ["gave up after 4 attempts"]


async def test_it_never_comes_back_earlier_than_asked() -> None:
    flaky = Flaky(TransientError("busy", retry_after_s=20))
    await retrier(flaky).run(flaky)
    assert flaky.waits == [20.5]


@pytest.mark.parametrize("error", [PermanentError("no"), KeyError("x"), TimeoutError()])
async def test_nothing_else_is_tried_again(error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        await retrier(flaky).run(flaky)
    assert flaky.calls == 1


async def test_it_never_waits_past_the_deadline() -> None:
    flaky = Flaky(TransientError("busy", retry_after_s=20))
    with pytest.raises(TransientError) as raised:
        async with within(10):
            await retrier(flaky).run(flaky)
    assert flaky.waits == []
    assert "leaves no time" in raised.value.__notes__[0]


@given(left_s=st.floats(0, 10), asked_s=st.one_of(st.none(), st.floats(0, 10)), share=st.floats(0, 1))
async def test_every_wait_ends_before_the_deadline(left_s: float, asked_s: float | None, share: float) -> None:
    flaky = Flaky(*(TransientError("x", retry_after_s=asked_s) for _ in range(3)))
    policy = RetryPolicy(attempts=4, base_s=1, cap_s=3)

    def remaining_s() -> float:
        return max(0.0, left_s - sum(flaky.waits))

    patient = Retrier(policy, random=lambda: share, sleep=flaky.sleep, remaining_s=remaining_s)
    with contextlib.suppress(TransientError):
        await patient.run(flaky)
    assert sum(flaky.waits) <= left_s
    assert all(wait_s >= (asked_s or 0) for wait_s in flaky.waits)
