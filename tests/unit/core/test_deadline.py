"""Deadlines and cancellation travel down the tree, and clean-up is waited for."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.core.deadline import Deadline, cancel_and_wait, current, remaining_s, scope, unbound, within

FOREVER = asyncio.Event


async def test_it_ends_what_takes_too_long_and_says_what() -> None:
    started_s = time.monotonic()
    with pytest.raises(TimeoutError, match="probe shop took longer than 20ms"):
        async with within(0.02, what="probe shop"):
            await FOREVER().wait()
    assert 0.015 < time.monotonic() - started_s < 2
    assert current() is None


async def test_a_child_has_the_earlier_of_the_two() -> None:
    async with within(10) as outer:
        async with within(20) as same:
            assert same == outer
        async with within(5) as inner:
            assert inner is not None
            assert outer is not None
            assert inner < outer
        assert current() == outer
    assert remaining_s() is None


async def test_tasks_inherit_it() -> None:
    async def child() -> Deadline | None:
        await asyncio.sleep(0)
        return current()

    async with within(10) as outer:
        assert await asyncio.create_task(child()) == outer


async def test_an_inherited_deadline_is_enforced_in_another_task() -> None:
    async def child() -> str:
        try:
            async with within(None, what="child"):
                await FOREVER().wait()
        except TimeoutError as error:
            return str(error)
        return ""

    async with within(0.02):
        task = asyncio.create_task(child())
        with unbound():
            assert current() is None
    assert "child took longer" in await task


async def test_nobody_starts_when_the_time_is_over() -> None:
    entered = False
    with pytest.raises(TimeoutError, match="was not started"):
        async with within(0):
            entered = True
    assert not entered
    with pytest.raises(TimeoutError, match="it was not started"):
        async with within(-1):
            pass


async def test_without_any_deadline_it_is_nothing() -> None:
    async with within(None) as deadline:
        assert deadline is None
        assert remaining_s() is None


async def test_another_error_passes_through() -> None:
    with pytest.raises(KeyError):
        async with within(5):
            raise KeyError
    with pytest.raises(TimeoutError, match=r"^mine$"):
        async with within(5):
            raise TimeoutError("mine")
    assert current() is None


async def test_the_time_of_an_outer_block_is_not_taken_for_the_inner_ones() -> None:
    caught = []

    async def nested() -> None:
        async with within(0.02, what="outer"):
            try:
                async with within(5, what="inner"):
                    await FOREVER().wait()
            except TimeoutError as error:  # the deadline is the same moment: either may say so first
                caught.append(str(error))
            await FOREVER().wait()

    with pytest.raises(TimeoutError, match="outer"):
        await nested()
    assert len(caught) <= 1


async def test_cancelling_the_parent_cancels_the_children_and_waits_for_their_clean_up() -> None:
    cleaned: list[str] = []

    async def child(name: str) -> None:
        try:
            await FOREVER().wait()
        finally:
            await asyncio.sleep(0.02)
            cleaned.append(name)

    async def grandparent() -> None:
        async with scope() as tree:
            tree.spawn(parent(), name="parent")
            await child("own")

    async def parent() -> None:
        async with scope() as tree:
            tree.spawn(child("a"), name="a")
            tree.spawn(child("b"), name="b")

    task = asyncio.create_task(grandparent())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(cleaned) == ["a", "b", "own"]


async def test_a_scope_whose_time_is_over_leaves_no_child() -> None:
    cleaned: list[int] = []

    async def child(number: int) -> None:
        try:
            await FOREVER().wait()
        finally:
            cleaned.append(number)

    async def parent() -> None:
        async with scope(0.02, what="batch") as tree:
            assert tree.deadline == current()
            for number in range(3):
                tree.spawn(child(number), name=f"child {number}")

    with pytest.raises(TimeoutError, match="batch took longer"):
        await parent()
    assert sorted(cleaned) == [0, 1, 2]
    assert len(asyncio.all_tasks()) == 1


async def test_a_failing_child_ends_its_siblings() -> None:
    async def fail() -> None:
        raise KeyError("x")

    async def parent() -> None:
        async with scope(5) as tree:
            tree.spawn(fail(), name="fails")
            tree.spawn(FOREVER().wait(), name="waits")

    with pytest.raises(ExceptionGroup) as raised:
        await parent()
    assert isinstance(raised.value.exceptions[0], KeyError)
    assert current() is None


async def test_a_clean_up_that_runs_is_not_cut_short() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await FOREVER().wait()
        finally:
            steps.append("cleaning")
            await asyncio.sleep(0.02)
            steps.append("clean")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    waiting = asyncio.create_task(cancel_and_wait([task]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert steps == ["cleaning", "clean"]


async def test_cancel_and_wait_goes_on_waiting_when_it_is_cancelled() -> None:
    ended = asyncio.Event()
    release = asyncio.Event()

    async def stubborn() -> None:
        try:
            await FOREVER().wait()
        except asyncio.CancelledError:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            ended.set()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(cancel_and_wait([task]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(1, 1000)), min_size=1, max_size=6))
async def test_however_deep_the_earliest_binds(limits: list[float | None]) -> None:
    now_s = time.monotonic()

    async def descend(rest: list[float | None], earliest_s: float | None) -> None:
        if not rest:
            return
        async with within(rest[0]) as deadline:
            known = [limit for limit in (earliest_s, rest[0]) if limit is not None]
            expected_s = min(known) if known else None
            assert (deadline is None) == (expected_s is None)
            if deadline is not None and expected_s is not None:
                assert deadline.remaining_s(now_s) == pytest.approx(expected_s, abs=0.5)
            await descend(rest[1:], expected_s)
            assert current() == deadline

    await descend(limits, None)
    assert current() is None


@given(st.floats(-1e9, 1e9), st.one_of(st.none(), st.floats(-1e9, 1e9)))
def test_earlier_is_the_minimum(mine: float, other: float | None) -> None:
    result = Deadline(mine).earlier(None if other is None else Deadline(other))
    assert result.at_s == (mine if other is None else min(mine, other))
