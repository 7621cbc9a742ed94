"""When a schedule fires: cron, interval, times and dates, each as one function from a time to the next fire."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Protocol

from dogwatch.engine.schedules.dates import Day, instant_at
from dogwatch.engine.schedules.zone import LAST_S, Zone

Stretch = tuple[float, float]


class Timing(Protocol):
    """Pure: the same answer for the same question, whoever asks."""

    def after(self, seconds: float) -> float | None:
        """Return the first fire after a time, seconds since 1970; None where there is none."""
        ...


class Every:
    """Fixed intervals through an anchor, before it as well as after it."""

    __slots__ = ("_anchor_s", "_every_s")

    def __init__(self, every_s: float, anchor_s: float = 0.0) -> None:
        self._every_s, self._anchor_s = every_s, anchor_s

    def after(self, seconds: float) -> float | None:
        number = math.floor((seconds - self._anchor_s) / self._every_s)
        # The division rounds; the grid itself decides.
        while (found := self._anchor_s + number * self._every_s) <= seconds:
            number += 1
        return found if found < LAST_S else None


class Moments:
    """Single moments."""

    __slots__ = ("_moments",)

    def __init__(self, moments: Sequence[float]) -> None:
        self._moments = sorted(moments)

    def after(self, seconds: float) -> float | None:
        return next((moment for moment in self._moments if moment > seconds), None)


class Dates:
    """Times of day on some dates; on every date where none are named."""

    __slots__ = ("_days", "_times", "_zone")

    def __init__(self, days: Sequence[Day], times: Sequence[int], zone: Zone) -> None:
        self._days, self._times, self._zone = days, sorted(times), zone

    def after(self, seconds: float) -> float | None:
        if not 0 <= seconds < LAST_S:
            return None if seconds > 0 else self.after(0.0)
        # A day early: what the wall skips, or shows twice, may belong to the day before.
        day: date | None = self._zone.local(math.floor(seconds)).date() - timedelta(days=1)
        while day is not None and (day := self._following(day)) is not None:
            for time in self._times:
                if (found := instant_at(day, time, self._zone)) > seconds:
                    return found
            day += timedelta(days=1)
        return None

    def _following(self, day: date) -> date | None:
        if not self._days:
            return day
        return min((found for one in self._days if (found := one.following(day)) is not None), default=None)


class Both:
    """What fires when either does."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: Timing) -> None:
        self._parts = parts

    def after(self, seconds: float) -> float | None:
        return min((found for part in self._parts if (found := part.after(seconds)) is not None), default=None)


class Window(Protocol):
    """Stretches of time in which no fire starts."""

    def end(self, seconds: float) -> float | None:
        """Return when the stretch that holds a time ends; None where none does. The end itself is outside."""
        ...

    def stretch(self, seconds: float) -> Stretch | None:
        """Return the first stretch that ends after a time, (begin, end); it may have begun before."""
        ...


class Stretches:
    """Windows that begin by a timing and last for a time."""

    __slots__ = ("_begins", "_lasts_s")

    def __init__(self, begins: Timing, lasts_s: float) -> None:
        self._begins, self._lasts_s = begins, lasts_s

    def end(self, seconds: float) -> float | None:
        begin = self._begins.after(seconds - self._lasts_s)
        return begin + self._lasts_s if begin is not None and begin <= seconds else None

    def stretch(self, seconds: float) -> Stretch | None:
        begin = self._begins.after(seconds - self._lasts_s)
        return (begin, begin + self._lasts_s) if begin is not None else None


class Once:
    """One window."""

    __slots__ = ("_begin_s", "_end_s")

    def __init__(self, begin_s: float, end_s: float) -> None:
        self._begin_s, self._end_s = begin_s, end_s

    def end(self, seconds: float) -> float | None:
        return self._end_s if self._begin_s <= seconds < self._end_s else None

    def stretch(self, seconds: float) -> Stretch | None:
        return (self._begin_s, self._end_s) if seconds < self._end_s else None


class Daily:
    """From one time of day to another, perhaps over midnight."""

    __slots__ = ("_begin", "_end", "_zone")

    def __init__(self, begin: int, end: int, zone: Zone) -> None:
        self._begin, self._end, self._zone = begin, end, zone

    def end(self, seconds: float) -> float | None:
        today = self._zone.local(math.floor(seconds)).date()
        for day in (today - timedelta(days=1), today):
            last = day if self._end > self._begin else day + timedelta(days=1)
            end = instant_at(last, self._end, self._zone)
            if instant_at(day, self._begin, self._zone) <= seconds < end:
                return end
        return None

    def stretch(self, seconds: float) -> Stretch | None:
        today = self._zone.local(math.floor(seconds)).date()
        # Where the wall skips one, the next day has one.
        for days in range(-1, 4):
            day = today + timedelta(days=days)
            last = day if self._end > self._begin else day + timedelta(days=1)
            begin, end = instant_at(day, self._begin, self._zone), instant_at(last, self._end, self._zone)
            if begin < end and seconds < end:
                return begin, end
        return None


class Windows:
    """Several windows as one: where one ends inside another, the other's end counts."""

    __slots__ = ("_windows",)

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = windows

    def end(self, seconds: float, *, bound: int = 1000) -> float | None:
        """bound: windows that follow each other without a break beyond it are taken for one without end."""
        found = None
        for _ in range(bound):
            ends = [end for window in self._windows if (end := window.end(seconds)) is not None]
            if not ends:
                return found
            found = seconds = max(ends)
        return math.inf

    def stretches(self, since_s: float, until_s: float, *, bound: int = 100_000) -> Iterator[Stretch]:
        """Return every stretch that overlaps a time, window by window, cut to it; they may overlap. bound: of each."""
        for window in self._windows:
            at = since_s
            for _ in range(bound):
                found = window.stretch(at)
                if found is None or found[0] >= until_s:
                    break
                yield max(found[0], since_s), min(found[1], until_s)
                at = found[1]
