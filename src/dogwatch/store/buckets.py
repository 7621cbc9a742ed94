"""Roll-up of rows into buckets, and buckets into the points of a chart. Pure functions."""

from __future__ import annotations

import math
import sys
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from dogwatch.core.values import Status
from dogwatch.store import histogram
from dogwatch.store.columns import ResultColumns, SampleColumns, pack_record
from dogwatch.store.protocol import Point

FIVE_MINUTES_S = 300
HOUR_S = 3600
# Widths of a chart's buckets: each divides a day or is days, so that buckets do not move as time passes.
_WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAY_S = 86400
_SEVERITY = (Status.PENDING, Status.PAUSED, Status.MAINTENANCE, Status.UP, Status.DEGRADED, Status.DOWN)
_RANK = {int(status): rank for rank, status in enumerate(_SEVERITY)}


def worse(one: int, two: int) -> int:
    """Return the status that a bucket shows if it had both."""
    return one if _RANK.get(one, 0) >= _RANK.get(two, 0) else two


def width_s(since_s: float, until_s: float, points: int) -> int:
    """Return a bucket width by which the period has at most `points` aligned buckets."""
    if points < 1:
        raise ValueError("points must be at least 1")
    for width in _WIDTHS:
        if _buckets(since_s, until_s, width) <= points:
            return width
    days = max(1, math.ceil((until_s - since_s) / _DAY_S / points))
    while days > 1 and _buckets(since_s, until_s, (days - 1) * _DAY_S) <= points:
        days -= 1
    while _buckets(since_s, until_s, days * _DAY_S) > points and days * _DAY_S <= until_s:
        days += 1
    return days * _DAY_S


def _buckets(since_s: float, until_s: float, width: int) -> int:
    return max(0, math.ceil(until_s / width) - math.floor(since_s / width))


class Bucket:
    """Results of one stretch of time, mergeable. Durations and phases count successful results only."""

    __slots__ = ("bins", "count", "failures", "max_us", "min_us", "phases_us", "status", "sum_us")

    def __init__(self) -> None:
        self.count = 0
        self.failures = 0
        self.sum_us = 0
        self.min_us = 0
        self.max_us = 0
        self.phases_us = [0, 0, 0, 0, 0]
        self.status = int(Status.PENDING)
        self.bins: Counter[int] = Counter()

    def merge(self, other: Bucket) -> None:
        if other.count > other.failures:
            fresh = self.count == self.failures
            self.min_us = other.min_us if fresh else min(self.min_us, other.min_us)
            self.max_us = max(self.max_us, other.max_us)
        self.status = worse(self.status, other.status)
        self.count += other.count
        self.failures += other.failures
        self.sum_us += other.sum_us
        self.phases_us = [mine + its for mine, its in zip(self.phases_us, other.phases_us, strict=True)]
        self.bins.update(other.bins)

    def copy(self) -> Bucket:
        bucket = Bucket()
        bucket.merge(self)
        return bucket

    def point(self, time_s: float) -> Point:
        good = self.count - self.failures
        if not good:
            return Point(time_s, self.count, self.failures, None, None, None, None, self.status)
        first, second, third, fourth, fifth = (total / good / 1e6 for total in self.phases_us)
        return Point(
            time_s,
            self.count,
            self.failures,
            self.sum_us / good / 1e6,
            self.min_us / 1e6,
            self.max_us / 1e6,
            (first, second, third, fourth, fifth),
            self.status,
            histogram.quantiles_s(self.bins),
        )


def _stretch(rows: ResultColumns, start: int, stop: int) -> Bucket:
    bucket = Bucket()
    flags = rows.flags[start:stop]
    durations = rows.durations[start:stop]
    phases = [phase[start:stop] for phase in rows.phases]
    if min(flags) < 0x80:
        good = [index for index, flag in enumerate(flags) if flag >= 0x80]
        durations = array("I", [durations[index] for index in good])
        phases = [array("I", [phase[index] for index in good]) for phase in phases]
    bucket.count = stop - start
    bucket.failures = bucket.count - len(durations)
    for flag in set(flags):
        bucket.status = worse(bucket.status, flag & 0x7F)
    if durations:
        bucket.sum_us, bucket.min_us, bucket.max_us = sum(durations), min(durations), max(durations)
        bucket.phases_us = [sum(phase) for phase in phases]
        bucket.bins = histogram.count(durations)
    return bucket


def _runs(times: Sequence[int], width_ms: int) -> Iterator[tuple[int, int, int]]:
    """Yield (bucket start in s, start, stop) of stretches in one bucket; a bucket may come again if times go back."""
    start, count = 0, len(times)
    ordered = all(map(int.__le__, times, times[1:]))
    while start < count:
        bucket = times[start] // width_ms
        if ordered:
            stop = bisect_left(times, (bucket + 1) * width_ms, start)
        else:
            stop = start + 1
            while stop < count and times[stop] // width_ms == bucket:
                stop += 1
        yield bucket * width_ms // 1000, start, stop
        start = stop


def roll_up(
    rows: ResultColumns, width: int, *, since_ms: int | None = None, until_ms: int | None = None
) -> dict[int, Bucket]:
    """Return buckets by their start, seconds, of the rows with since_ms <= time < until_ms."""
    if since_ms is not None and until_ms is not None and len(rows):
        rows = _between(rows, since_ms, until_ms)
    out: dict[int, Bucket] = {}
    for bucket_s, start, stop in _runs(rows.times, width * 1000):
        part = _stretch(rows, start, stop)
        if bucket_s in out:
            out[bucket_s].merge(part)
        else:
            out[bucket_s] = part
    return out


def _between(rows: ResultColumns, since_ms: int, until_ms: int) -> ResultColumns:
    if min(rows.times) >= since_ms and max(rows.times) < until_ms:
        return rows
    keep = [index for index, time_ms in enumerate(rows.times) if since_ms <= time_ms < until_ms]
    if keep and keep[-1] - keep[0] == len(keep) - 1:
        return rows.slice(keep[0], keep[-1] + 1)
    columns = rows.columns
    out = ResultColumns()
    out.words = rows.words
    for index in keep:
        out.add(pack_record(*(column[index] for column in columns)), columns[0][index])
    return out


def merge_into(buckets: dict[int, Bucket], parts: Iterable[tuple[int, Bucket]], width: int) -> None:
    """Merge finer buckets into those of `width`; the parts are used up."""
    for bucket_s, part in parts:
        start = bucket_s - bucket_s % width
        if start in buckets:
            buckets[start].merge(part)
        else:
            buckets[start] = part


def points(buckets: dict[int, Bucket]) -> list[Point]:
    return [buckets[start].point(float(start)) for start in sorted(buckets)]


def _bounded(total: float) -> float:
    """Return a sum that stays a number: samples near the largest float must not stop the store."""
    return max(-sys.float_info.max, min(sys.float_info.max, total))


class SampleBucket:
    """Samples of one series in one stretch of time, mergeable. last_ms: when `last` was taken."""

    __slots__ = ("count", "last", "last_ms", "max", "min", "sum")

    def __init__(self, values: Sequence[float], times: Sequence[int]) -> None:
        self.count = len(values)
        self.sum = _bounded(sum(values))
        self.min = min(values)
        self.max = max(values)
        self.last_ms = max(times)
        self.last = values[len(times) - 1 - list(reversed(times)).index(self.last_ms)]

    @classmethod
    def of(cls, count: int, total: float, least: float, most: float, last: float, last_ms: int) -> SampleBucket:
        bucket = cls((last,), (last_ms,))
        bucket.count, bucket.sum, bucket.min, bucket.max = count, total, least, most
        return bucket

    def merge(self, other: SampleBucket) -> None:
        self.count += other.count
        self.sum = _bounded(self.sum + other.sum)
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        if other.last_ms >= self.last_ms:
            self.last, self.last_ms = other.last, other.last_ms


def roll_up_samples(rows: SampleColumns, width: int) -> dict[int, SampleBucket]:
    out: dict[int, SampleBucket] = {}
    for bucket_s, start, stop in _runs(rows.times, width * 1000):
        part = SampleBucket(rows.values[start:stop], rows.times[start:stop])
        if bucket_s in out:
            out[bucket_s].merge(part)
        else:
            out[bucket_s] = part
    return out


def sample_points(name: str, buckets: dict[int, SampleBucket]) -> list[tuple[float, float]]:
    """Return (start, value): the mean, or the last value of a counter, whose differences are what is looked at."""
    counter = name.split("{", 1)[0].endswith("_total")
    return [
        (float(start), buckets[start].last if counter else buckets[start].sum / buckets[start].count)
        for start in sorted(buckets)
    ]
