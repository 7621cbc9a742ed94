"""Do one thing for many items with bounded concurrency: stop at the first error, or collect every outcome."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Generic, TypeVar

import msgspec

from dogwatch.core.deadline import cancel_and_wait, within
from dogwatch.core.pool import call_name

A = TypeVar("A")
T = TypeVar("T")


class Outcome(msgspec.Struct, Generic[T], frozen=True):
    """How one item ended: with a value, or with an error."""

    value: T | None = None
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    def unwrap(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


async def all_or_first_error(
    call: Callable[[A], Awaitable[T]], items: Iterable[A], *, limit: int, timeout_s: float | None = None
) -> list[T]:
    """Return the results in the items' order.

    limit: most that run at once; items are read as they are started. timeout_s: time each may take.
    Raises: the first error, after the siblings were cancelled and have cleaned up; what else failed by then stands in
    its notes.
    """
    results: dict[int, T] = {}

    async def work(source: Iterator[tuple[int, A]]) -> None:
        for index, item in source:
            async with within(timeout_s, what=str(item)):
                results[index] = await call(item)

    await _run(work, items, limit, call_name(call))
    return [results[index] for index in range(len(results))]


async def collect(
    call: Callable[[A], Awaitable[T]], items: Iterable[A], *, limit: int, timeout_s: float | None = None
) -> list[Outcome[T]]:
    """Return every outcome in the items' order; one item's error is its own.

    limit and timeout_s: as above. When the caller is cancelled, so are the items, and their clean-up is waited for.
    """
    outcomes: dict[int, Outcome[T]] = {}

    async def one(item: A) -> Outcome[T]:
        try:
            async with within(timeout_s, what=str(item)):
                return Outcome(value=await call(item))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Outcome(error=error)  # the item cancelled itself: nobody asked this fan-out to end
        except Exception as error:  # noqa: BLE001 - recorded: the caller gets every outcome
            return Outcome(error=error)

    async def work(source: Iterator[tuple[int, A]]) -> None:
        for index, item in source:
            outcomes[index] = await one(item)

    await _run(work, items, limit, call_name(call))
    return [outcomes[index] for index in range(len(outcomes))]


class _Source(Generic[A]):
    """The items, drawn by all workers; dry as soon as one of them failed."""

    def __init__(self, items: Iterable[A]) -> None:
        self._items = enumerate(items)
        self.failed = False

    def __iter__(self) -> Iterator[tuple[int, A]]:
        return self

    def __next__(self) -> tuple[int, A]:
        if self.failed:
            raise StopIteration
        return next(self._items)


async def _run(
    work: Callable[[Iterator[tuple[int, A]]], Awaitable[None]], items: Iterable[A], limit: int, name: str
) -> None:
    """Let up to `limit` workers draw from one source; raise the first error once all of them have ended."""
    if limit < 1:
        raise ValueError(f"limit is {limit}; at least 1")
    source = _Source(items)
    workers: list[asyncio.Task[None]] = []
    # In the order of their end: those that we cancel come after the one that made us do so.
    broken: list[asyncio.Task[None]] = []

    async def worker(start: tuple[int, A]) -> None:
        try:
            await work(itertools.chain((start,), source))
        except BaseException:
            source.failed = True
            raise

    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            broken.append(task)

    try:
        # No more workers than items, and an endless source is not read ahead.
        for start in itertools.islice(source, limit):
            coroutine = worker(start)
            coroutine.__qualname__ = name  # type: ignore[attr-defined]
            task = asyncio.create_task(coroutine, name=f"fan-out-{len(workers)}")
            task.add_done_callback(ended)
            workers.append(task)
        waiting = set(workers)
        while waiting and not broken:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(workers)
    if broken:
        _raise_first(broken)


def _raise_first(broken: list[asyncio.Task[None]]) -> None:
    if broken[0].cancelled():
        raise asyncio.CancelledError
    errors = [error for task in broken if not task.cancelled() and (error := task.exception()) is not None]
    for other in errors[1:]:
        errors[0].add_note(f"also failed: {type(other).__name__}: {other}")
    raise errors[0]
