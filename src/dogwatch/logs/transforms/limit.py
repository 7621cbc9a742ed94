"""The transforms that hold records back: a rate for each key, and what was there a moment ago."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from dogwatch.core.units import Seconds
from dogwatch.logs.transform import Step, Transform

if TYPE_CHECKING:
    import polars as pl

Faults = Iterable[tuple[tuple[str | int, ...], str, str]]


def _keys(frame: pl.DataFrame, names: tuple[str, ...]) -> list[tuple[object, ...]]:
    """Return each record's key; a column that is not there counts as empty."""
    there = [name for name in names if name in frame.columns]
    if not there:
        return [()] * frame.height
    columns = [frame[name].to_list() for name in there]
    if len(there) == 1:
        return [(str(value),) for value in columns[0]]
    return [tuple(map(str, values)) for values in zip(*columns, strict=True)]


class RateLimitTransform(Transform, frozen=True, kw_only=True):
    """Lets so many records through for each key; the others are dropped and counted. What is delivered again after a
    crash may be judged anew.

    by: columns that make the key; empty for one limit over all. rate: records in a second. burst: records at once;
    default the rate. max_keys: keys that are remembered; the one that was quiet longest is forgotten.
    """

    kind: ClassVar[str] = "rate_limit"
    short: ClassVar[str] = "rate"
    rate: Annotated[float, Meta(gt=0)]
    by: tuple[str, ...] = ()
    burst: Annotated[float, Meta(ge=0)] = 0.0
    max_keys: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000

    def open(self) -> Step:
        return _RateLimit(self, time.monotonic)


class _RateLimit:
    def __init__(self, options: RateLimitTransform, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._burst = options.burst or max(1.0, options.rate)
        # key → (tokens, when)
        self._buckets: OrderedDict[tuple[object, ...], tuple[float, float]] = OrderedDict()
        # Sources have threads of their own, and may share a route.
        self._lock = threading.Lock()
        self.counts = {"dropped": 0, "forgotten": 0}

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        now_s = self._clock()
        with self._lock:
            flags = [self._take(key, now_s) for key in _keys(frame, self._options.by)]
        kept = frame.filter(pl.Series(flags, dtype=pl.Boolean))
        self.counts["dropped"] += frame.height - kept.height
        return kept

    def _take(self, key: tuple[object, ...], now_s: float) -> bool:
        tokens, at_s = self._buckets.pop(key, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - at_s) * self._options.rate)
        taken = tokens >= 1.0
        self._buckets[key] = (tokens - 1.0 if taken else tokens, now_s)
        if len(self._buckets) > self._options.max_keys:
            self._buckets.popitem(last=False)
            self.counts["forgotten"] += 1
        return taken


class DedupeTransform(Transform, frozen=True, kw_only=True):
    """Drops records that are like one that passed a moment ago; the next one that passes says how many, in `repeated`.

    by: columns that must be alike; default the message. within: so long after one that passed. max_keys: records that
    are remembered; the oldest is forgotten.
    """

    kind: ClassVar[str] = "dedupe"
    short: ClassVar[str] = "within"
    by: tuple[str, ...] = ("message",)
    within: Seconds = 10.0
    max_keys: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000

    def faults(self) -> Faults:
        if not self.by:
            yield ("by",), "names no column", "by: [message]"

    def open(self) -> Step:
        return _Dedupe(self, time.monotonic)


class _Dedupe:
    def __init__(self, options: DedupeTransform, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        # key → [when one passed, how many were dropped since]
        self._seen: OrderedDict[tuple[object, ...], list[float]] = OrderedDict()
        self._lock = threading.Lock()
        self.counts = {"dropped": 0}

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        with self._lock:
            flags, repeated = self._judge(frame)
        kept = frame.filter(pl.Series(flags, dtype=pl.Boolean))
        self.counts["dropped"] += frame.height - kept.height
        if any(one is not None for one in repeated):
            kept = kept.with_columns(pl.Series("repeated", repeated, dtype=pl.Int64))
        return kept

    def _judge(self, frame: pl.DataFrame) -> tuple[list[bool], list[int | None]]:
        """Return which records pass, and of those that do how many like them were dropped before."""
        now_s = self._clock()
        flags: list[bool] = []
        repeated: list[int | None] = []
        for key in _keys(frame, self._options.by):
            known = self._seen.get(key)
            if known is not None and now_s - known[0] < self._options.within:
                known[1] += 1
                flags.append(False)
                continue
            flags.append(True)
            repeated.append(int(known[1]) if known is not None and known[1] else None)
            self._seen.pop(key, None)
            self._seen[key] = [now_s, 0]
            if len(self._seen) > self._options.max_keys:
                self._seen.popitem(last=False)
        return flags, repeated
