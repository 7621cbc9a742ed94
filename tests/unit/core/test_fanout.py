"""Fan-out: bounded, ordered, and no sibling outlives it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from dogwatch.core.fanout import Outcome, all_or_first_error, collect


class Work:
    def __init__(self) -> None:
        self.running = self.most = self.started = self.cleaned = 0

    async def __call__(self, number: int) -> int:
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if number < 0:
                await asyncio.sleep(0)
                raise KeyError(number)
            if number == 999:
                await asyncio.Event().wait()
            if number == 666:
                raise asyncio.CancelledError
            await asyncio.sleep(0.001 * (number % 3))
            return number * 2
        finally:
            await asyncio.sleep(0.005 if number == 999 else 0)
            self.running -= 1
            self.cleaned += 1


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_results_come_in_the_order_of_the_items(limit: int) -> None:
    work = Work()
    assert await all_or_first_error(work, range(20), limit=limit) == [number * 2 for number in range(20)]
    assert work.most <= limit
    outcomes = await collect(work, iter(range(20)), limit=limit)
    assert [outcome.unwrap() for outcome in outcomes] == [number * 2 for number in range(20)]


async def test_nothing_to_do() -> None:
    assert await all_or_first_error(Work(), [], limit=3) == []
    assert await collect(Work(), [], limit=3) == []


async def test_the_first_error_ends_the_siblings_and_waits_for_their_clean_up() -> None:
    work = Work()
    with pytest.raises(KeyError, match="-1"):
        await all_or_first_error(work, [999, 999, -1, 5, 5, 5], limit=3)
    assert (work.started, work.cleaned, work.running) == (3, 3, 0)


async def test_other_errors_stand_in_the_notes() -> None:
    with pytest.raises(KeyError) as raised:
        await all_or_first_error(Work(), [-1, -2], limit=2)
    assert raised.value.__notes__ == ["also failed: KeyError: -2"]


async def test_an_endless_source_is_not_read_ahead() -> None:
    read = []

    def source():
        for number in itertools.count():
            read.append(number)
            yield -1 if number == 7 else number

    with pytest.raises(KeyError):
        await all_or_first_error(Work(), source(), limit=2)
    assert len(read) < 12


async def test_collect_keeps_every_outcome() -> None:
    outcomes = await collect(Work(), [1, -1, 666, 2], limit=2)
    assert [outcome.ok for outcome in outcomes] == [True, False, False, True]
    assert isinstance(outcomes[1].error, KeyError)
    assert isinstance(outcomes[2].error, asyncio.CancelledError)
    with pytest.raises(KeyError):
        outcomes[1].unwrap()
    assert Outcome(value=3).unwrap() == 3


async def test_each_item_may_have_a_time_limit() -> None:
    outcomes = await collect(Work(), [1, 999, 2], limit=3, timeout_s=0.1)
    assert [type(outcome.error) for outcome in outcomes] == [type(None), TimeoutError, type(None)]
    assert "999 took longer" in str(outcomes[1].error)


@pytest.mark.parametrize("fan_out", [all_or_first_error, collect])
async def test_cancelling_the_caller_cancels_the_items_and_waits(fan_out) -> None:
    work = Work()
    task = asyncio.create_task(fan_out(work, [999] * 5, limit=3))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (work.started, work.cleaned) == (3, 3)


async def test_a_source_that_fails_is_an_error_like_any_other() -> None:
    def source():
        yield 999
        raise ZeroDivisionError

    work = Work()
    with pytest.raises(ZeroDivisionError):
        await all_or_first_error(work, source(), limit=4)
    assert work.running == 0


async def test_at_least_one_at_once() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await collect(Work(), [1], limit=0)
