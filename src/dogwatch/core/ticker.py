"""A ticker on a fixed grid: it never drifts, never piles up, and counts what it had to skip."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import msgspec

from dogwatch.core.clock import Clock, SystemClock


class Tick(msgspec.Struct, frozen=True):
    """One firing. number: its place on the grid, from 0. due_s: monotonic.

    late_s: how long after due_s it fired. skipped: grid points passed over since the one before.
    """

    number: int
    due_s: float
    late_s: float
    skipped: int


def next_number(*, start_s: float, interval_s: float, last: int, now_s: float) -> int:
    """Return the number of the next grid point: after `last`, and not in the past. last: -1 before the first."""
    number = math.ceil((now_s - start_s) / interval_s)
    # The division rounds; the grid itself decides on which side of now a point lies.
    if start_s + (number - 1) * interval_s >= now_s:
        number -= 1
    elif start_s + number * interval_s < now_s:
        number += 1
    return max(last + 1, number)


class Ticker:
    """Iterate it in the task that owns it: `async for tick in Ticker(15.0):`.

    It has no task, timer or thread of its own: when its owner is cancelled or leaves the loop, it is gone. A body that
    takes longer than the interval skips the grid points that it misses; they are counted, and never made up for.
    first_s: time from the start of the iteration to the first tick, 0 at once.
    """

    def __init__(
        self,
        interval_s: float,
        *,
        first_s: float = 0.0,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if not interval_s > 0:
            raise ValueError(f"interval is {interval_s} s; more than 0")
        self.interval_s = interval_s
        self.skipped = 0
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._first_s = first_s
        self._start_s: float | None = None
        self._last = -1

    def __aiter__(self) -> Ticker:
        return self

    async def __anext__(self) -> Tick:
        now_s = self._clock.monotonic_s()
        if self._start_s is None:
            self._start_s = now_s + self._first_s
        number = next_number(start_s=self._start_s, interval_s=self.interval_s, last=self._last, now_s=now_s)
        due_s = self._start_s + number * self.interval_s
        # A loop may wake a little early: uvloop's clock counts whole milliseconds.
        while (wait_s := due_s - (now_s := self._clock.monotonic_s())) > 0:
            await self._sleep(wait_s)
        skipped = number - self._last - 1
        self.skipped += skipped
        self._last = number
        return Tick(number=number, due_s=due_s, late_s=now_s - due_s, skipped=skipped)
