"""Deadlines and cancellation that travel down a task tree.

`within(5.0)` bounds everything that runs inside it: the deadline is a context variable, so tasks started inside inherit
it, and an inner `within` can only make it earlier. `scope()` adds children: when their parent is cancelled, fails or
runs out of time they are cancelled, and their clean-up is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from dogwatch.core.units import format_duration

T = TypeVar("T")


class Deadline(msgspec.Struct, frozen=True, order=True):
    """A moment on the monotonic clock by which something has ended."""

    at_s: float

    def remaining_s(self, now_s: float | None = None) -> float:
        """Return the seconds left, negative once it has passed. now_s: monotonic; read where not given."""
        return self.at_s - (time.monotonic() if now_s is None else now_s)

    def earlier(self, other: Deadline | None) -> Deadline:
        return self if other is None or self.at_s <= other.at_s else other


_current: ContextVar[Deadline | None] = ContextVar("dogwatch_deadline", default=None)


def current() -> Deadline | None:
    """Return the deadline that binds this task, None where nothing does."""
    return _current.get()


def remaining_s(now_s: float | None = None) -> float | None:
    """Return the seconds left to this task, never below 0; None where nothing bounds it."""
    deadline = _current.get()
    return None if deadline is None else max(0.0, deadline.remaining_s(now_s))


@contextmanager
def unbound() -> Iterator[None]:
    """Leave every deadline of the callers behind: for clean-up that must run although the time is over.

    It lifts what travels with the context; a timer of an enclosing `within` that still runs in this task does fire.
    """
    before = _current.get()
    _current.set(None)
    try:
        yield
    finally:
        _current.set(before)


class within:  # noqa: N801 - read as a statement: `async with within(5.0):`
    """Bound a block in time; the deadline is the earlier of the caller's and `seconds` from now.

    seconds: None keeps the caller's deadline, and enforces it in this task. what: named in the error's text.
    Raises: TimeoutError("<what> took longer than 5s") once the block was cancelled and cleaned up. A block that is
    already too late is not entered at all.
    """

    __slots__ = ("_before", "_deadline", "_limit_s", "_seconds", "_timeout", "_what")

    def __init__(self, seconds: float | None, *, what: str = "it") -> None:
        self._seconds = seconds
        self._what = what
        self._timeout: asyncio.Timeout | None = None
        self._deadline: Deadline | None = None
        self._before: Deadline | None = None
        self._limit_s = 0.0

    async def __aenter__(self) -> Deadline | None:
        now_s = time.monotonic()
        self._before = _current.get()
        self._deadline = self._before
        if self._seconds is not None:
            self._deadline = Deadline(now_s + self._seconds).earlier(self._before)
        if self._deadline is None:
            return None
        self._limit_s = self._deadline.remaining_s(now_s)
        if self._limit_s <= 0:
            raise TimeoutError(f"{self._what} was not started: its time was over")
        timeout = asyncio.timeout(self._limit_s)
        await timeout.__aenter__()
        self._timeout = timeout
        _current.set(self._deadline)
        return self._deadline

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timeout is None:
            return
        # Not a token's reset: it fails where a generator is closed from another context.
        _current.set(self._before)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise TimeoutError(f"{self._what} took longer than {format_duration(self._limit_s)}") from late


class Scope:
    """Children of one parent; made by `scope()`."""

    def __init__(self, group: asyncio.TaskGroup, deadline: Deadline | None) -> None:
        self._group = group
        self.deadline = deadline

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start a child. If it fails, its siblings are cancelled and the scope raises."""
        return self._group.create_task(coroutine, name=name)


class scope:  # noqa: N801 - read as a statement: `async with scope(5.0) as tree:`
    """A block whose children never outlive it.

    The block ends when all children have. When it is cancelled, fails, or its time is over, the children are
    cancelled and their clean-up is waited for.
    Raises: TimeoutError; ExceptionGroup of what children raised.
    """

    __slots__ = ("_group", "_within")

    def __init__(self, seconds: float | None = None, *, what: str = "it") -> None:
        self._within = within(seconds, what=what)
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Scope:
        deadline = await self._within.__aenter__()
        try:
            await self._group.__aenter__()
        except BaseException as error:
            await self._within.__aexit__(type(error), error, error.__traceback__)
            raise
        return Scope(self._group, deadline)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseException as raised:
            await self._within.__aexit__(type(raised), raised, raised.__traceback__)
            raise
        await self._within.__aexit__(None, None, None)


# What was cancelled before has this long to clean up before it is cancelled again: it may have swallowed the first.
CLEAN_UP_S = 1.0


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when all have ended, whatever they raised.

    One that was cancelled before and is cleaning up is left alone for CLEAN_UP_S: a second cancellation would cut its
    clean-up short. When the caller is cancelled meanwhile it still waits, for leaving would leave the tasks without an
    owner; the cancellation is raised afterwards.
    """
    pending = {task for task in tasks if not task.done()}
    again = {task for task in pending if task.cancelling()}
    for task in pending - again:
        task.cancel()
    interrupted: asyncio.CancelledError | None = None
    while pending:
        try:
            done, pending = await asyncio.wait(pending, timeout=CLEAN_UP_S if again else None)
        except asyncio.CancelledError as error:
            interrupted = error
            pending = {task for task in pending if not task.done()}
            continue
        if not done or not again & pending:
            for task in again & pending:
                task.cancel()
            again = set()
    if interrupted is not None:
        raise interrupted


def watch_result(task: asyncio.Task[Any], told: Callable[[BaseException], None] | None = None) -> None:
    """Take note of a finished task's error, so that asyncio does not report it as never retrieved."""
    if not task.cancelled() and (error := task.exception()) is not None and told is not None:
        told(error)


async def woken(event: asyncio.Event, limit_s: float | None) -> bool:
    """Wait until the event is set, at most limit_s (None: for ever); return whether it is. The caller clears it."""
    try:
        async with asyncio.timeout(limit_s):
            return await event.wait()
    except TimeoutError:
        return False


async def finished(future: asyncio.Future[T]) -> T:
    """Return what a future brings that cannot be cancelled, such as a thread's: whoever is cancelled meanwhile is so
    once it has ended, so that what cleans up never meets it at work.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
