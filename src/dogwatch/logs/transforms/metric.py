"""The `metric` transform: counters and histograms of what passes, among our own metrics."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.core.metrics import Family, series
from dogwatch.logs.transform import Step, Transform

if TYPE_CHECKING:
    import polars as pl

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class MetricTransform(Transform, frozen=True, kw_only=True):
    """Counts records, or adds up or spreads out a column's values, and shows the result with our own metrics. Records
    pass as they are. What is delivered again after a crash is counted again.

    name: of the metric; a counter's should end in _total. type: counter or histogram. value: a column with numbers; of
    a counter it may be left out, then records are counted. by: columns that become labels; keep their values few.
    buckets: upper bounds of a histogram. max_series: records with further label values are not counted, and that is.
    help: what the metric says.
    """

    kind: ClassVar[str] = "metric"
    short: ClassVar[str] = "name"
    name: str
    type: Literal["counter", "histogram"] = "counter"
    value: str = ""
    by: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _BUCKETS
    max_series: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    help: str = "Derived from logs."

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not _NAME.fullmatch(self.name) or self.name.startswith("dogwatch_"):
            yield ("name",), "is not a metric's name of yours", "shop_errors_total"
        for at, name in enumerate(self.by):
            if not _LABEL.fullmatch(name):
                yield ("by", at), f"'{name}' cannot be a label's name", "rename it before"
        if self.type == "histogram" and not self.value:
            yield ("value",), "is missing: a histogram spreads out a column", "value: duration_s"
        if list(self.buckets) != sorted(set(self.buckets)) or not self.buckets:
            yield ("buckets",), "do not rise", ""

    def open(self) -> Step:
        return MetricStep(self)


class MetricStep:
    """families: what the exposition shows of it."""

    def __init__(self, options: MetricTransform) -> None:
        self._options = options
        # Sources have threads of their own, and may share a route.
        self._lock = threading.Lock()
        # labels → count, sum, and of a histogram what is in each bucket
        self._series: dict[tuple[str, ...], list[float]] = {}
        self.counts = {"counted": 0, "series_dropped": 0}

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        options = self._options
        if options.value and options.value not in frame.columns:
            return frame
        labels = [
            (pl.col(one).cast(pl.String).fill_null("") if one in frame.columns else pl.lit("")).alias(f"l{at}")
            for at, one in enumerate(options.by)
        ]
        value = pl.col(options.value).cast(pl.Float64, strict=False) if options.value else pl.lit(1.0)
        found = frame.select(*labels, pl.repeat(1, pl.len()).alias("one"), value.alias("value")).drop_nulls("value")
        sums = [pl.len().cast(pl.Float64).alias("count"), pl.col("value").sum().alias("sum")]
        if options.type == "histogram":
            sums += [
                (pl.col("value") <= b).sum().cast(pl.Float64).alias(f"b{at}") for at, b in enumerate(options.buckets)
            ]
        names = [f"l{at}" for at in range(len(options.by))]
        grouped = found.group_by(names).agg(sums) if names else found.select(sums)
        with self._lock:
            for row in grouped.iter_rows():
                self._add(tuple(row[: len(names)]), row[len(names) :])
        return frame

    def _add(self, labels: tuple[str, ...], values: tuple[float, ...]) -> None:
        if not values[0]:
            return
        known = self._series.get(labels)
        if known is None:
            if len(self._series) >= self._options.max_series:
                self.counts["series_dropped"] += int(values[0])
                return
            known = self._series[labels] = [0.0] * len(values)
        self.counts["counted"] += int(values[0])
        for at, value in enumerate(values):
            known[at] += value

    def families(self) -> Iterator[Family]:
        options = self._options
        with self._lock:
            found = [(dict(zip(options.by, labels, strict=True)), list(v)) for labels, v in self._series.items()]
        if options.type == "counter":
            at = 1 if options.value else 0
            yield Family(
                options.name, "counter", options.help, [(series(options.name, labels), v[at]) for labels, v in found]
            )
            return
        lines: list[tuple[str, float]] = []
        for labels, values in found:
            bounds = [*(f"{one:g}" for one in options.buckets), "+Inf"]
            inside = [*values[2:], values[0]]
            for bound, count in zip(bounds, inside, strict=True):
                lines.append((series(f"{options.name}_bucket", {**labels, "le": bound}), count))
            lines.append((series(f"{options.name}_sum", labels), values[1]))
            lines.append((series(f"{options.name}_count", labels), values[0]))
        yield Family(options.name, "histogram", options.help, lines)
