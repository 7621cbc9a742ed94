"""The pool: bounded, cancellable, every item accounted for."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.core.deadline import current, within
from dogwatch.core.pool import Job, Pool, PoolClosed


class Gate:
    """Items that run until they are let go; counts who runs and who cleaned up."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.running = self.most = self.cleaned = 0

    async def item(self, number: int = 0) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        finally:
            await asyncio.sleep(0)
            self.running -= 1
            self.cleaned += 1
        return number


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_its_workers_run_and_its_queue_waits() -> None:
    gate = Gate()
    async with Pool(workers=3, queue=2) as pool:
        submitting = [asyncio.create_task(pool.submit(partial(gate.item, number))) for number in range(8)]
        await settle()
        assert (gate.running, pool.running, pool.queued) == (3, 3, 2)
        assert sum(task.done() for task in submitting) == 5
        assert pool.try_submit(gate.item) is None
        gate.open.set()
        jobs = [await task for task in submitting]
        assert [await job for job in jobs] == list(range(8))
    assert (gate.most, pool.peak, pool.finished) == (3, 3, 8)


async def test_results_and_errors_go_to_whoever_awaits() -> None:
    async def fail() -> int:
        raise KeyError("x")

    async with Pool(workers=2, queue=2) as pool:
        job = await pool.submit(fail)
        with pytest.raises(KeyError):
            await job
        assert isinstance(job.error(), KeyError)
        assert await (await pool.submit(partial(asyncio.sleep, 0, "fine"))) == "fine"
    assert (pool.finished, pool.failed) == (1, 1)


async def test_errors_that_nobody_awaits_go_to_on_error() -> None:
    told: list[tuple[str, str]] = []

    async def fail() -> None:
        raise KeyError("x")

    def on_error(job: Job[object], error: BaseException) -> None:
        told.append((job.name, repr(error)))

    async with Pool(workers=1, queue=1, on_error=on_error) as pool:
        await pool.submit(fail, name="bad one")
    assert told == [("bad one", "KeyError('x')")]


async def test_an_item_has_its_own_deadline() -> None:
    gate = Gate()
    async with Pool(workers=1, queue=5, timeout_s=0.02) as pool:
        slow = await pool.submit(gate.item, name="slow")
        with pytest.raises(TimeoutError, match="slow took longer than 20ms"):
            await slow
        assert await (await pool.submit(partial(asyncio.sleep, 0.03, "longer"), timeout_s=5)) == "longer"
    assert gate.cleaned == 1


async def test_the_deadline_of_whoever_submits_travels_with_the_item() -> None:
    async def tell() -> object:
        return current()

    async with Pool(workers=1, queue=5) as pool:
        async with within(30) as deadline:
            job = await pool.submit(tell)
        assert await job == deadline
        assert await (await pool.submit(tell)) is None


async def test_cancelling_a_running_and_a_waiting_item() -> None:
    gate = Gate()
    async with Pool(workers=1, queue=5) as pool:
        running, waiting, last = [await pool.submit(partial(gate.item, number)) for number in range(3)]
        await settle()
        assert waiting.cancel()
        assert running.cancel()
        gate.open.set()
        assert await last == 2
        assert running.cancelled()
        assert waiting.cancelled()
        assert not last.cancel()
    assert (pool.cancelled, pool.finished, gate.cleaned) == (2, 1, 2)


async def test_whoever_is_cancelled_while_awaiting_an_item_cancels_it() -> None:
    gate = Gate()
    async with Pool(workers=1, queue=1) as pool:

        async def ask() -> int:
            return await (await pool.submit(gate.item))

        asking = asyncio.create_task(ask())
        await settle()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await pool.join()
    assert gate.cleaned == 1


async def test_closing_finishes_what_it_can_and_cancels_the_rest() -> None:
    gate = Gate()
    pool = Pool(workers=2, queue=5)
    jobs = [await pool.submit(gate.item) for _ in range(5)]
    late = asyncio.create_task(pool.close(grace_s=0.02))
    await settle()
    with pytest.raises(PoolClosed):
        await pool.submit(gate.item)
    assert await late == 5
    assert all(job.cancelled() for job in jobs)
    assert (gate.cleaned, pool.running, pool.queued, pool.cancelled) == (2, 0, 0, 5)
    assert await pool.close() == 0


async def test_a_cancelled_close_still_leaves_nothing_behind() -> None:
    gate = Gate()
    pool = Pool(workers=2, queue=5)
    for _ in range(3):
        await pool.submit(gate.item)
    closing = asyncio.create_task(pool.close())
    await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert (gate.cleaned, pool.running, pool.queued) == (2, 0, 0)


async def test_a_failing_block_cancels_its_items() -> None:
    gate = Gate()

    async def block() -> None:
        async with Pool(workers=1, queue=1) as pool:
            await pool.submit(gate.item)
            await settle()
            raise KeyError("x")

    with pytest.raises(KeyError):
        await block()
    assert gate.cleaned == 1


async def test_nothing_of_a_finished_item_is_kept() -> None:
    class Big:
        pass

    big = Big()

    async def use(thing: Big) -> None:
        pass

    async with Pool(workers=1, queue=1) as pool:
        job = await pool.submit(partial(use, big))
        await job
        await settle()
        assert (job._call, job._context, job._task) == (None, None, None)


async def test_a_task_dump_shows_the_item_and_what_it_runs() -> None:
    gate = Gate()
    async with Pool(workers=1, queue=1) as pool:
        await pool.submit(partial(partial(gate.item), 3), name="shop")
        await settle()
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "shop"]
        assert task.get_coro().__qualname__ == "Gate.item"
        gate.open.set()


async def test_whoever_waits_for_room_is_told_of_the_end() -> None:
    gate = Gate()
    pool = Pool(workers=1, queue=1)
    submitting = [asyncio.create_task(pool.submit(gate.item)) for _ in range(3)]
    await settle()
    await pool.close(grace_s=0)
    with pytest.raises(PoolClosed):
        await submitting[2]
    with pytest.raises(PoolClosed):
        pool.try_submit(gate.item)


def test_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Pool(workers=0, queue=1)


@settings(max_examples=40, deadline=None)
@given(
    workers=st.integers(1, 4),
    queue=st.integers(1, 4),
    kinds=st.lists(st.sampled_from(["fine", "fail", "cancel", "slow"]), max_size=25),
)
async def test_every_item_ends_exactly_one_way(workers: int, queue: int, kinds: list[str]) -> None:
    most = running = 0

    async def item(kind: str) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0)
            if kind == "fail":
                raise KeyError(kind)
            if kind == "slow":
                await asyncio.Event().wait()
        finally:
            running -= 1

    async with Pool(workers=workers, queue=queue, on_error=lambda job, error: None) as pool:
        for kind in kinds:
            job = await pool.submit(partial(item, kind), timeout_s=0.001 if kind == "slow" else None)
            if kind == "cancel":
                job.cancel()
    assert pool.finished == kinds.count("fine")
    assert pool.failed == kinds.count("fail") + kinds.count("slow")
    assert pool.cancelled == kinds.count("cancel")
    assert (running, pool.running, pool.queued) == (0, 0, 0)
    assert most <= workers
