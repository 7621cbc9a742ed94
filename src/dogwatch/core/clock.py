"""Time, injected. Intervals are measured on the monotonic clock, records are stamped with the wall clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now_s(self) -> float:
        """Return wall-clock time, seconds since 1970 UTC. It may jump."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never jumps; only differences mean something."""
        ...


class SystemClock:
    # time.monotonic is what selectors and timers use; uvloop's loop.time() is a cached millisecond.
    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)


class ManualClock:
    """A clock for tests, plans and backtests: it moves when told to, each hand by itself."""

    def __init__(self, *, now_s: float = 1_800_000_000.0, monotonic_s: float = 1_000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = monotonic_s

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time pass on both hands."""
        self._now_s += seconds
        self._monotonic_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forwards or back, as an operator or NTP does; no time passes."""
        self._now_s += seconds
