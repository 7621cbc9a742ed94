"""What the store may use, and the `store` section of the configuration."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Bytes, Seconds

MIB = 1024 * 1024
DAY_S = 86_400.0


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long history is kept at each resolution. A longer time needs a larger max_size, which wins.

    raw: every result and sample. five_minutes and hours: counts, failures, sums, extremes and percentiles of each
    five minutes and each hour.
    """

    raw: Seconds = 2 * DAY_S
    five_minutes: Seconds = 14 * DAY_S
    hours: Seconds = 400 * DAY_S


class MaxSize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that each table may take; the oldest goes first, and the file shrinks with it.

    results: raw results of probes. samples: raw samples of hosts. results_5m and results_1h: roll-ups of results.
    samples_5m and samples_1h: roll-ups of samples. failures: evidence. pings: calls of heartbeats. transitions: changes
    of status; the newest of each target is kept in any case, because availability stands on it.
    """

    results: Bytes = 1024 * MIB
    results_5m: Bytes = 512 * MIB
    results_1h: Bytes = 512 * MIB
    samples: Bytes = 1024 * MIB
    samples_5m: Bytes = 512 * MIB
    samples_1h: Bytes = 512 * MIB
    transitions: Bytes = 64 * MIB
    failures: Bytes = 64 * MIB
    pings: Bytes = 64 * MIB


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of a store; all of them can change while it runs.

    batch: the longest time between two commits, and so what a crash can lose of results and samples.
    failures_per_target, pings_per_target: the newest that are kept of each target.
    buffer_rows: results and samples that may wait for the disk, each; more are counted as lost.
    """

    batch: Seconds = 1.0
    keep: Keep = Keep()
    max_size: MaxSize = MaxSize()
    failures_per_target: int = 50
    pings_per_target: int = 1000
    buffer_rows: int = 100_000


class StoreOptions(StoreLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `store` section. path: the SQLite file; beside it lie its -wal, -shm and .lock. Needs a restart to change."""

    path: str = "dogwatch.db"

    def limits(self) -> StoreLimits:
        return StoreLimits(**{name: getattr(self, name) for name in StoreLimits.__struct_fields__})


def _check(options: StoreOptions) -> Iterable[Fault]:
    if not 0.05 <= options.batch <= 60:
        yield Fault(("batch",), "must be between 50ms and 1m")
    keep = options.keep
    if keep.five_minutes < keep.raw:
        yield Fault(("keep", "five_minutes"), "must not be shorter than keep.raw")
    if keep.hours < keep.five_minutes:
        yield Fault(("keep", "hours"), "must not be shorter than keep.five_minutes")
    for name in MaxSize.__struct_fields__:
        if getattr(options.max_size, name) < MIB:
            yield Fault(("max_size", name), "must be at least 1MiB")
    for name, least in (("failures_per_target", 1), ("pings_per_target", 1), ("buffer_rows", 1000)):
        if getattr(options, name) < least:
            yield Fault((name,), f"must be at least {least}")
    if not options.path:
        yield Fault(("path",), "must name a file")


STORE: Section[StoreOptions] = Section(
    key="store",
    type=StoreOptions,
    doc="Where history is kept, for how long, and how large it may grow.",
    default=StoreOptions,
    check=_check,
)
