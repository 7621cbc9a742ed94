"""A bounded pool: at most `workers` items run, at most `queue` wait, and whoever brings more waits his turn."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

from dogwatch.core.channel import Channel, ChannelClosed
from dogwatch.core.deadline import cancel_and_wait, watch_result, within

P = ParamSpec("P")
T = TypeVar("T")


def call_name(call: Callable[..., object]) -> str:
    """Return the qualified name of what is called, below any partial: a task dump shows it, not its wrapper."""
    while isinstance(call, functools.partial):
        call = call.func
    name: str = getattr(call, "__qualname__", None) or type(call).__qualname__
    return name


class PoolClosed(Exception):
    """The pool takes nothing more."""


class Job(Generic[T]):
    """One item given to a pool. Await it for its result; whoever is cancelled while awaiting it cancels it.

    An error that nobody awaits is reported by asyncio as never retrieved, unless the pool has `on_error`.
    """

    __slots__ = ("_call", "_context", "_future", "_task", "name", "timeout_s")

    def __init__(self, call: Callable[[], Awaitable[T]], name: str, timeout_s: float | None) -> None:
        self.name = name
        self.timeout_s = timeout_s
        # Deadline and trace travel with the item, not with the worker.
        self._context: contextvars.Context | None = contextvars.copy_context()
        self._call: Callable[[], Awaitable[T]] | None = call
        self._future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[T] | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._future.__await__()

    def done(self) -> bool:
        return self._future.done()

    def cancelled(self) -> bool:
        return self._future.cancelled()

    def result(self) -> T:
        """Return the result of a finished job, or raise its error."""
        return self._future.result()

    def error(self) -> BaseException | None:
        """Return the error of a finished job that was not cancelled."""
        return self._future.exception()

    def cancel(self) -> bool:
        """Cancel it, waiting or running; its worker is free once it has cleaned up. Return False if it was done."""
        return self._future.cancel()

    def start(self, over: Callable[[Job[Any], asyncio.Task[Any]], None]) -> asyncio.Task[T]:
        """Run it as a task of its own; for the pool. over: told when the task has ended."""
        assert self._context is not None
        assert self._call is not None
        work = self._run()
        work.__qualname__ = call_name(self._call)  # type: ignore[attr-defined]
        task = asyncio.get_running_loop().create_task(work, name=self.name, context=self._context)
        self._task = task
        self._future.add_done_callback(self._cancel_task)
        task.add_done_callback(lambda ended: over(self, ended))
        return task

    def settle(self, task: asyncio.Task[T]) -> None:
        """Take over how the task ended; for the pool. What it held is let go."""
        self._call = self._context = self._task = None
        if self._future.done():
            watch_result(task)
        elif task.cancelled():
            self._future.cancel()
        elif (error := task.exception()) is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result())

    def mark_seen(self) -> None:
        """Say that the error was dealt with, so that asyncio does not report it."""
        if not self._future.cancelled():
            self._future.exception()

    async def _run(self) -> T:
        assert self._call is not None
        async with within(self.timeout_s, what=self.name):
            return await self._call()

    def _cancel_task(self, future: asyncio.Future[T]) -> None:
        if future.cancelled() and self._task is not None:
            self._task.cancel()


class Pool:
    """Runs items with a fixed number of workers. A worker is a place, not a task: idle ones cost nothing.

    timeout_s: time an item may run, where `submit` says nothing else; None leaves it to the deadline of whoever
    submitted it. on_error: told of each item that failed; then nobody need await it.
    An item must not wait for another item of the same pool: all workers could end up waiting.
    finished, failed and cancelled count ended items; peak is the most that ran at once.
    """

    def __init__(
        self,
        *,
        workers: int,
        queue: int,
        name: str = "pool",
        timeout_s: float | None = None,
        on_error: Callable[[Job[Any], BaseException], None] | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; at least 1")
        self.workers = workers
        self.name = name
        self.finished = self.failed = self.cancelled = self.peak = 0
        self._timeout_s = timeout_s
        self._on_error = on_error
        self._queue: Channel[Job[Any]] = Channel(queue)
        self._running: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._number = 0

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish everything; where the block failed, cancel everything."""
        await self.close(grace_s=None if kind is None else 0.0)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def submit(
        self, call: Callable[[], Awaitable[T]], *, name: str = "", timeout_s: float | None = None
    ) -> Job[T]:
        """Give an item to the pool; waits while the queue is full, first come, first served.

        call: a function without arguments (use functools.partial) whose awaitable is made only when its turn comes.
        Raises: PoolClosed.
        """
        job = self._job(call, name, timeout_s)
        try:
            await self._queue.put(job)
        except ChannelClosed:
            raise PoolClosed(f"{self.name} takes nothing more") from None
        self._fill()
        return job

    def try_submit(
        self, call: Callable[[], Awaitable[T]], *, name: str = "", timeout_s: float | None = None
    ) -> Job[T] | None:
        """Give an item to the pool if it has room; None if it has not.

        Raises: PoolClosed.
        """
        job = self._job(call, name, timeout_s)
        try:
            accepted = self._queue.offer(job)
        except ChannelClosed:
            raise PoolClosed(f"{self.name} takes nothing more") from None
        self._fill()
        return job if accepted else None

    async def join(self) -> None:
        """Return when nothing runs and nothing waits."""
        await self._idle.wait()

    async def close(self, *, grace_s: float | None = None) -> int:
        """Take nothing more, finish what is there, up to grace_s (None: as long as it takes), then cancel the rest.

        Returns the number of items that were cut off; all have cleaned up. When the caller is cancelled, everything
        is cancelled.
        """
        self._queue.close()
        cut = 0
        try:
            if grace_s is None or grace_s > 0:
                async with asyncio.timeout(grace_s):
                    await self._idle.wait()
        except TimeoutError:
            pass
        finally:
            for job in self._queue.take(len(self._queue)):
                cut += job.cancel()
                self.cancelled += 1
            cut += len(self._running)
            await cancel_and_wait(self._running)
            self._note_idle()
        return cut

    def _job(self, call: Callable[[], Awaitable[T]], name: str, timeout_s: float | None) -> Job[T]:
        self._number += 1
        return Job(call, name or f"{self.name}-{self._number}", self._timeout_s if timeout_s is None else timeout_s)

    def _fill(self) -> None:
        while len(self._running) < self.workers and (jobs := self._queue.take(1)):
            job = jobs[0]
            if job.done():
                self.cancelled += 1
                continue
            self._running.add(job.start(self._ended))
            self.peak = max(self.peak, len(self._running))
        self._note_idle()

    def _note_idle(self) -> None:
        if self._running or len(self._queue):
            self._idle.clear()
        else:
            self._idle.set()

    def _ended(self, job: Job[Any], task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        job.settle(task)
        if job.cancelled():
            self.cancelled += 1
        elif error is None:
            self.finished += 1
        else:
            self.failed += 1
            if self._on_error is not None:
                job.mark_seen()
                self._on_error(job, error)
        self._fill()
