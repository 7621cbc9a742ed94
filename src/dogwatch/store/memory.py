"""A store without a disk, for tests, dry runs and ad hoc probes. It keeps what the others keep, at raw resolution."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family
from dogwatch.core.values import Status, Transition
from dogwatch.store.availability import account
from dogwatch.store.columns import ResultColumns, SampleColumns, milliseconds, quantise
from dogwatch.store.database import MOST_COUNTED
from dogwatch.store.limits import StoreLimits
from dogwatch.store.protocol import (
    Availability,
    Failure,
    Ping,
    Planned,
    Point,
    ResultRow,
    SeriesPoints,
    TargetState,
    TransitionFilter,
    TransitionPage,
    rows_of,
)
from dogwatch.store.raw import RawResults, RawSamples
from dogwatch.store.read import OVERALL_PARTS, Period
from dogwatch.store.successes import Successes

_SEVERITY = (Status.PENDING, Status.PAUSED, Status.MAINTENANCE, Status.UP, Status.DEGRADED, Status.DOWN)


class MemoryStore:
    """Implements protocol.Store. The newest `rows` results of a target and samples of a series are kept."""

    def __init__(self, clock: Clock, limits: StoreLimits | None = None, *, rows: int = 10_000) -> None:
        self._clock = clock
        self._limits = limits or StoreLimits()
        self._rows = rows
        self._born_s = clock.now_s()
        self._results: dict[str, deque[ResultRow]] = {}
        self._samples: dict[tuple[str, str], deque[tuple[float, float]]] = {}
        self._states: dict[str, TargetState] = {}
        self._failures: dict[str, deque[Failure]] = {}
        self._pings: dict[str, deque[Ping]] = {}
        self._transitions: deque[Transition] = deque(maxlen=100_000)
        self._transitions_ever = 0
        self._documents: dict[str, bytes] = {}

    @property
    def trouble(self) -> str:
        return ""

    def set_limits(self, limits: StoreLimits) -> None:
        self._limits = limits

    def add_result(self, row: ResultRow) -> None:
        self._results.setdefault(row.target, deque(maxlen=self._rows)).append(quantise(row))

    def add_successes(self, ended: Successes) -> None:
        for row in rows_of(ended):
            self.add_result(row)

    def add_failure(self, failure: Failure) -> None:
        kept = self._failures.setdefault(failure.target, deque(maxlen=self._limits.failures_per_target))
        kept.append(failure)

    def add_samples(self, host: str, time_s: float, samples: Iterable[tuple[str, float]]) -> None:
        for name, value in samples:
            if math.isfinite(value):
                kept = self._samples.setdefault((host, name), deque(maxlen=self._rows))
                kept.append((milliseconds(time_s) / 1000, value))

    def add_state(self, state: TargetState) -> None:
        self._states[state.target] = state

    async def commit_transition(self, transition: Transition, state: TargetState) -> None:
        self._transitions.append(transition)
        self._transitions_ever += 1
        self._states[state.target] = state

    async def commit_ping(self, ping: Ping) -> None:
        self._pings.setdefault(ping.target, deque(maxlen=self._limits.pings_per_target)).append(ping)

    async def flush(self) -> None:
        pass

    async def states(self) -> dict[str, TargetState]:
        return dict(self._states)

    async def chart(self, target: str, *, since_s: float, until_s: float, points: int) -> Sequence[Point]:
        if until_s <= since_s:
            return []
        period = Period.of(since_s, until_s, points)
        buckets: dict[int, list[ResultRow]] = {}
        for row in self._results.get(target, ()):
            if period.first_s <= row.time_s < period.last_s:
                buckets.setdefault(int(row.time_s // period.width) * period.width, []).append(row)
        return [_point(float(start), buckets[start]) for start in sorted(buckets)]

    async def overall(self, target: str, *, since_s: float, until_s: float) -> Point | None:
        if until_s <= since_s:
            return None
        period = Period.of(since_s, until_s, OVERALL_PARTS)
        rows = [row for row in self._results.get(target, ()) if period.first_s <= row.time_s < period.last_s]
        return _point(since_s, rows) if rows else None

    async def results(self, target: str, *, limit: int, before_s: float | None = None) -> Sequence[ResultRow]:
        newest = reversed(self._results.get(target, ()))
        return [row for row in newest if before_s is None or row.time_s < before_s][: max(0, limit)]

    async def recent(self, targets: Sequence[str], *, limit: int) -> dict[str, Sequence[ResultRow]]:
        return {target: list(reversed(await self.results(target, limit=limit))) for target in targets}

    async def failures(self, target: str, *, limit: int) -> Sequence[Failure]:
        return list(reversed(self._failures.get(target, ())))[: max(0, limit)]

    async def transitions(
        self, target: str | None = None, *, since_s: float = 0.0, limit: int = 100
    ) -> Sequence[Transition]:
        return [one for one in reversed(self._transitions) if target in (None, one.target) and one.time_s >= since_s][
            : max(0, limit)
        ]

    async def find_transitions(
        self, wanted: TransitionFilter, *, limit: int, before: int | None = None
    ) -> TransitionPage:
        first = self._transitions_ever - len(self._transitions)
        found = [(first + at, one) for at, one in enumerate(self._transitions) if wanted.matches(one)]
        rest = [one for one in reversed(found) if before is None or one[0] < before]
        following = rest[limit - 1][0] if len(rest) > limit else None
        total = min(len(found), MOST_COUNTED) if before is None and not wanted.words else None
        return TransitionPage(items=[one for _at, one in rest[:limit]], total=total, before=following)

    async def availability(
        self, targets: Sequence[str], *, since_s: float, until_s: float, planned: Planned | None = None
    ) -> Sequence[Availability]:
        alive = [(max(self._born_s, since_s), min(self._clock.now_s(), until_s))]
        out = []
        for target in targets:
            known = sorted((one for one in self._transitions if one.target == target), key=lambda one: one.time_s)
            before = [one for one in known if one.time_s <= since_s]
            after = [one for one in known if one.time_s > since_s]
            initial = before[-1].after if before else after[0].before if after else Status.PENDING
            within = [one for one in after if one.time_s <= until_s]
            work = (planned or {}).get(target, ())
            out.append(account(target, initial, within, alive, since_s=since_s, until_s=until_s, planned=work))
        return out

    async def series(
        self, host: str, names: Sequence[str], *, since_s: float, until_s: float, points: int
    ) -> Sequence[SeriesPoints]:
        if until_s <= since_s:
            return []
        period = Period.of(since_s, until_s, points)
        out = []
        for (owner, name), kept in sorted(self._samples.items()):
            if owner == host and name.split("{", 1)[0] in names:
                found = _values(name, kept, period)
                if found:
                    out.append(SeriesPoints(host=host, series=name, points=found))
        return out

    async def raw_results(self, targets: Sequence[str], *, since_s: float, until_s: float) -> Sequence[RawResults]:
        out = []
        for name in targets:
            columns = ResultColumns()
            for row in self._results.get(name, ()):
                if since_s <= row.time_s < until_s:
                    columns.add(columns.pack(row), milliseconds(row.time_s))
            changes = [one for one in self._transitions if one.target == name and since_s <= one.time_s < until_s]
            out.append(RawResults(target=name, fresh=[columns] if len(columns) else [], transitions=changes))
        return out

    async def raw_samples(
        self, host: str, names: Sequence[str], *, since_s: float, until_s: float
    ) -> Sequence[RawSamples]:
        out = []
        for (owner, name), kept in sorted(self._samples.items()):
            columns = SampleColumns()
            if owner == host and name.split("{", 1)[0] in names:
                for time_s, value in kept:
                    if since_s <= time_s < until_s:
                        columns.times.append(milliseconds(time_s))
                        columns.values.append(value)
            if len(columns):
                out.append(RawSamples(series=name, fresh=[columns]))
        return out

    async def alive(self, *, since_s: float, until_s: float) -> Sequence[tuple[float, float]]:
        begin, end = max(self._born_s, since_s), min(self._clock.now_s(), until_s)
        return [(begin, end)] if begin < end else []

    async def oldest_raw_s(self) -> float | None:
        return min((rows[0].time_s for rows in self._results.values() if rows), default=None)

    async def pings(self, target: str, *, limit: int) -> Sequence[Ping]:
        return list(reversed(self._pings.get(target, ())))[: max(0, limit)]

    async def document(self, name: str) -> bytes | None:
        return self._documents.get(name)

    async def put_document(self, name: str, content: bytes) -> None:
        self._documents[name] = content

    def metrics(self) -> Iterable[Family]:
        return ()

    async def close(self) -> None:
        pass


def _point(start_s: float, rows: Sequence[ResultRow]) -> Point:
    good = [row for row in rows if row.success]
    status = max((row.status for row in rows), key=lambda status: _SEVERITY.index(Status(status)))
    if not good:
        return Point(start_s, len(rows), len(rows), None, None, None, None, status)
    times = sorted(row.duration_s for row in good)
    first, second, third, fourth, fifth = (
        sum(column) / len(good)
        for column in zip(
            *((row.resolve_s, row.connect_s, row.tls_s, row.first_byte_s, row.transfer_s) for row in good),
            strict=True,
        )
    )
    half, most, nearly_all = (times[int(share * (len(times) - 1))] for share in (0.5, 0.95, 0.99))
    return Point(
        start_s,
        len(rows),
        len(rows) - len(good),
        sum(times) / len(times),
        times[0],
        times[-1],
        (first, second, third, fourth, fifth),
        status,
        (half, most, nearly_all),
    )


def _values(name: str, kept: Iterable[tuple[float, float]], period: Period) -> list[tuple[float, float]]:
    buckets: dict[int, list[tuple[float, float]]] = {}
    for time_s, value in kept:
        if period.first_s <= time_s < period.last_s:
            buckets.setdefault(int(time_s // period.width) * period.width, []).append((time_s, value))
    counter = name.split("{", 1)[0].endswith("_total")
    out = []
    for start in sorted(buckets):
        rows = buckets[start]
        newest = max(time_s for time_s, _ in rows)
        last = [value for time_s, value in rows if time_s == newest][-1]
        out.append((float(start), last if counter else math.fsum(value for _, value in rows) / len(rows)))
    return out
