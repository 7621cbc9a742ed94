"""Values over time: a window of samples that answers avg, min, max, sum, count, rate, changes and quantiles.

Every answer follows from the samples that the window holds and from nothing else: sums are exact, so that a window
that was filled anew after a restart, or by a backtest, answers the same to the last bit.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

# Samples that one window holds; of more the oldest go, and are counted.
MAX_SAMPLES = 20_000
# Every float is a whole number of these: sums of such numbers are exact.
_ONE = 1 << 1074
_MANTISSA = 1 << 53

Number = float


def exact(value: float) -> int:
    """Return a finite float as a whole number of the smallest float there is."""
    mantissa, exponent = math.frexp(value)
    whole = int(mantissa * _MANTISSA)
    shift = exponent - 53 + 1074
    return whole << shift if shift >= 0 else whole >> -shift


def nearest_float(total: int, divisor: float = 1.0) -> float:
    """Return an exact sum, rounded once, divided by a number."""
    try:
        return total / _ONE / divisor
    except OverflowError:
        return math.inf if total > 0 else -math.inf


class Window:
    """The samples of the newest length_s of one value of one target; what is older is forgotten.

    A sample at t is in it while t > now - length_s. Of two samples of one time the later counts. Where time goes back
    (a clock was set), samples that would lie in the future are forgotten. A value that is no number (NaN, infinite)
    is not taken. ranked: keeps an order for quantiles. dropped: samples lost to the bound.
    """

    __slots__ = (
        "_changes", "_highs", "_limit", "_lows", "_ranks", "_rise", "_samples", "_total", "dropped", "length_s",
    )  # fmt: skip

    def __init__(self, length_s: float, *, ranked: bool = False, limit: int = MAX_SAMPLES) -> None:
        self.length_s = length_s
        self.dropped = 0
        self._limit = limit
        self._samples: deque[tuple[float, float]] = deque()
        # Samples that are lower (higher) than all after them: the first is the lowest (highest) of all.
        self._lows: deque[tuple[float, float]] = deque()
        self._highs: deque[tuple[float, float]] = deque()
        self._ranks: list[float] | None = [] if ranked else None
        self._total = 0
        self._rise = 0
        self._changes = 0

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, time_s: float, value: float) -> None:
        if not math.isfinite(value):
            return
        samples = self._samples
        if samples and time_s <= samples[-1][0]:
            self._rebuild(sample for sample in samples.copy() if sample[0] < time_s)
        while samples and samples[0][0] <= time_s - self.length_s:
            self._forget()
        if len(samples) >= self._limit:
            self._forget()
            self.dropped += 1
        self._take(time_s, value)

    def move(self, now_s: float) -> None:
        """Forget what is too old by now."""
        samples, edge = self._samples, now_s - self.length_s
        while samples and samples[0][0] <= edge:
            self._forget()

    def _rebuild(self, kept: Iterable[tuple[float, float]]) -> None:
        for held in (self._samples, self._lows, self._highs):
            held.clear()
        if self._ranks is not None:
            self._ranks.clear()
        self._total = self._rise = self._changes = 0
        for time_s, value in kept:
            self._take(time_s, value)

    def _take(self, time_s: float, value: float) -> None:
        samples = self._samples
        if samples:
            last = samples[-1][1]
            self._changes += last != value
            self._rise += _risen(last, value)
        sample = (time_s, value)
        samples.append(sample)
        self._total += exact(value)
        while self._lows and self._lows[-1][1] >= value:
            self._lows.pop()
        self._lows.append(sample)
        while self._highs and self._highs[-1][1] <= value:
            self._highs.pop()
        self._highs.append(sample)
        if self._ranks is not None:
            insort(self._ranks, value)

    def _forget(self) -> None:
        sample = self._samples.popleft()
        value = sample[1]
        self._total -= exact(value)
        if self._samples:
            following = self._samples[0][1]
            self._changes -= following != value
            self._rise -= _risen(value, following)
        if self._lows[0] is sample:
            self._lows.popleft()
        if self._highs[0] is sample:
            self._highs.popleft()
        if self._ranks is not None:
            del self._ranks[bisect_left(self._ranks, value)]

    # What it answers. None where there is nothing to answer from.

    def count(self) -> int:
        return len(self._samples)

    def sum(self) -> float | None:
        return nearest_float(self._total) if self._samples else None

    def avg(self) -> float | None:
        if not self._samples:
            return None
        try:
            return self._total / (len(self._samples) * _ONE)
        except OverflowError:
            return math.inf if self._total > 0 else -math.inf

    def min(self) -> float | None:
        return self._lows[0][1] if self._lows else None

    def max(self) -> float | None:
        return self._highs[0][1] if self._highs else None

    def changes(self) -> int | None:
        return self._changes if self._samples else None

    def rate(self) -> float | None:
        """Return the rise in a second, for values that only grow: where one falls, it began anew from 0."""
        if len(self._samples) < 2:
            return None
        return nearest_float(self._rise, self._samples[-1][0] - self._samples[0][0])

    def quantile(self, share: float) -> float | None:
        """Return the quantile, between two samples by their distance, as Prometheus has it."""
        ranks = self._ranks
        if not ranks:
            return None
        place = share * (len(ranks) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ranks) - 1)
        part = place - low
        return ranks[low] * (1 - part) + ranks[high] * part


def _risen(before: float, after: float) -> int:
    return exact(after) - exact(before) if after >= before else exact(after)
