"""What every store can do. Writing never waits; reading is asynchronous; what is announced is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from dogwatch.core.metrics import Family
from dogwatch.core.values import Status, Transition
from dogwatch.store.successes import Successes

if TYPE_CHECKING:  # they hold columns, which are made of the rows below
    from dogwatch.store.raw import RawResults, RawSamples


class ResultRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One probe result as it is kept. Times in seconds; phases are 0 where the probe has none.

    time_s: wall clock. status: the target's status after this result. reason: short word, "" when it succeeded.
    """

    target: str
    time_s: float
    success: bool
    status: int
    duration_s: float
    resolve_s: float = 0.0
    connect_s: float = 0.0
    tls_s: float = 0.0
    first_byte_s: float = 0.0
    transfer_s: float = 0.0
    reason: str = ""


def rows_of(ended: Successes) -> Iterator[ResultRow]:
    """Yield the rows that columns stand for."""
    columns = zip(ended.targets, ended.durations_s, ended.connects_s, ended.first_bytes_s, strict=True)
    for target, duration_s, connect_s, first_byte_s in columns:
        yield ResultRow(target, ended.time_s, True, ended.status, duration_s, 0.0, connect_s, 0.0, first_byte_s)


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """What must survive a restart about a target: its status and the decider's counters.

    fingerprint: hash of the target's specification; state of another specification is not taken over.
    decider: the decider's own state, as versioned JSON.
    """

    target: str
    status: Status
    since_s: float
    fingerprint: str
    decider: bytes
    paused: bool = False


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt failed, with bounded evidence. headers: (name, value) pairs."""

    target: str
    time_s: float
    reason: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    truncated: bool = False


class Point(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One bucket of a chart. time_s: its start. Durations over its successful results; None where it has none.

    phases_s: their means. status: the worst that it saw. quantiles_s: p50, p95 and p99, within 6 %.
    """

    time_s: float
    count: int
    failures: int
    mean_s: float | None
    min_s: float | None
    max_s: float | None
    phases_s: tuple[float, float, float, float, float] | None = None
    status: int = 0
    quantiles_s: tuple[float, float, float] | None = None


class SeriesPoints(msgspec.Struct, frozen=True, kw_only=True):
    """History of one sample series. series: `node_load1` or `node_filesystem_free_bytes{mountpoint="/"}`."""

    host: str
    series: str
    points: Sequence[tuple[float, float]]


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """Time in each status over a period, seconds. ratio: up and degraded ÷ (those and down); None where unknown.

    Maintenance, paused and pending time, and time in which Dogwatch did not run, count for neither side.
    """

    target: str
    since_s: float
    until_s: float
    up_s: float
    degraded_s: float
    down_s: float
    maintenance_s: float
    paused_s: float
    unknown_s: float
    ratio: float | None
    incidents: int


class TransitionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which changes of status. targets: None for all. after: what they led to, empty for anything.

    words: in lower case, all of them in the target's name or the reason. until_s: exclusive, None for open.
    """

    targets: Sequence[str] | None = None
    after: Sequence[Status] = ()
    words: Sequence[str] = ()
    since_s: float = 0.0
    until_s: float | None = None

    def matches(self, one: Transition) -> bool:
        if self.targets is not None and one.target not in self.targets:
            return False
        if (self.after and one.after not in self.after) or one.time_s < self.since_s:
            return False
        if self.until_s is not None and one.time_s >= self.until_s:
            return False
        text = f"{one.target}\n{one.reason}".lower()
        return all(word in text for word in self.words)


class TransitionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. total: matches on all pages, at most MOST_COUNTED; None behind the first, and for words, which are
    looked for in each. before: what the next page is asked for with, None on the last.
    """

    items: Sequence[Transition]
    total: int | None = None
    before: int | None = None


# Target → stretches of planned work, (begin, end).
Planned = Mapping[str, Sequence[tuple[float, float]]]


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a heartbeat URL. signal: success, start, fail, exit or log. body: bounded.

    rid: the run it belongs to, "" where the caller does not say.
    """

    target: str
    time_s: float
    signal: str
    exit_status: int | None = None
    body: str = ""
    duration_s: float | None = None
    remote: str = ""
    rid: str = ""


class Store(Protocol):
    """History and state.

    The `add_*` calls return at once and never raise for I/O: rows go to a bounded buffer that a writer thread
    commits at least every second. What cannot be written (disk full, buffer full) is counted by table in
    `metrics()` and the store says so in `trouble`; watching goes on.
    """

    @property
    def trouble(self) -> str:
        """Why writing fails now, one sentence; "" while all is well."""
        ...

    def add_result(self, row: ResultRow) -> None: ...

    def add_successes(self, ended: Successes) -> None:
        """Keep what ended together: the same as `add_result` of each."""
        ...

    def add_failure(self, failure: Failure) -> None: ...

    def add_samples(self, host: str, time_s: float, samples: Iterable[tuple[str, float]]) -> None:
        """Keep one sample of each series."""
        ...

    def add_state(self, state: TargetState) -> None:
        """Keep the newest state of a target; only the last one before a commit is written."""
        ...

    async def commit_transition(self, transition: Transition, state: TargetState) -> None:
        """Return once both are on disk, or, where the disk refuses, in a bounded queue for when it can be."""
        ...

    async def commit_ping(self, ping: Ping) -> None:
        """Return once it is on disk.

        Raises: TransientError when it cannot be.
        """
        ...

    async def flush(self) -> None:
        """Return once everything added before this call was written or counted as lost."""
        ...

    async def states(self) -> dict[str, TargetState]: ...

    async def chart(self, target: str, *, since_s: float, until_s: float, points: int) -> Sequence[Point]:
        """Return at most `points` buckets, oldest first, from the finest resolution that covers the time."""
        ...

    async def overall(self, target: str, *, since_s: float, until_s: float) -> Point | None:
        """Return a whole period as one bucket: its percentiles, extremes, failures. None where nothing is known."""
        ...

    async def results(self, target: str, *, limit: int, before_s: float | None = None) -> Sequence[ResultRow]:
        """Return raw results, newest first."""
        ...

    async def recent(self, targets: Sequence[str], *, limit: int) -> dict[str, Sequence[ResultRow]]:
        """Return the newest raw results of many targets at once, oldest first: the heartbeat bars."""
        ...

    async def failures(self, target: str, *, limit: int) -> Sequence[Failure]: ...

    async def transitions(
        self, target: str | None = None, *, since_s: float = 0.0, limit: int = 100
    ) -> Sequence[Transition]:
        """Return transitions, newest first."""
        ...

    async def find_transitions(
        self, wanted: TransitionFilter, *, limit: int, before: int | None = None
    ) -> TransitionPage:
        """Return a page of the transitions that match. before: of the page before."""
        ...

    async def availability(
        self, targets: Sequence[str], *, since_s: float, until_s: float, planned: Planned | None = None
    ) -> Sequence[Availability]:
        """Return the time in each status. planned: stretches of planned work by target, which count as maintenance."""
        ...

    async def series(
        self, host: str, names: Sequence[str], *, since_s: float, until_s: float, points: int
    ) -> Sequence[SeriesPoints]:
        """Return history of every series whose metric name is in `names` (all label sets of it)."""
        ...

    async def raw_results(self, targets: Sequence[str], *, since_s: float, until_s: float) -> Sequence[RawResults]:
        """Return all that is kept of these targets in a time, undecoded; nothing of those that are not known."""
        ...

    async def raw_samples(
        self, host: str, names: Sequence[str], *, since_s: float, until_s: float
    ) -> Sequence[RawSamples]:
        """Return all that is kept of the series of these metrics in a time, undecoded."""
        ...

    async def alive(self, *, since_s: float, until_s: float) -> Sequence[tuple[float, float]]:
        """Return the stretches of a time in which Dogwatch ran, cut to it."""
        ...

    async def oldest_raw_s(self) -> float | None:
        """Return when the oldest raw result was taken that is still kept; None where there is none."""
        ...

    async def pings(self, target: str, *, limit: int) -> Sequence[Ping]: ...

    async def document(self, name: str) -> bytes | None:
        """Return a small named document (pauses, ids), or None."""
        ...

    async def put_document(self, name: str, content: bytes) -> None:
        """Return once it is on disk."""
        ...

    def metrics(self) -> Iterable[Family]: ...

    async def close(self) -> None:
        """Flush and close; safe to call twice."""
        ...
