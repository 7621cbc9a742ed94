"""A store of made-up results, for pages and the API."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family
from dogwatch.core.values import Status, Transition
from dogwatch.errors import NotFound, TransientError
from dogwatch.probes.view import TargetView
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
from dogwatch.store.successes import Successes
from tests.fakes_watch import FakeWatch, _noise


class FakeStore:
    """Implements Store: history made from each target's name, and a real memory for what is written."""

    def __init__(self, watch: FakeWatch, clock: Clock) -> None:
        self._watch = watch
        self._clock = clock
        self.trouble_text = ""
        self.added: list[object] = []
        self._documents: dict[str, bytes] = {}
        self.closed = False

    @property
    def trouble(self) -> str:
        return self.trouble_text

    def add_result(self, row: ResultRow) -> None:
        self.added.append(row)

    def add_successes(self, ended: Successes) -> None:
        for row in rows_of(ended):
            self.add_result(row)

    def add_failure(self, failure: Failure) -> None:
        self.added.append(failure)

    def add_samples(self, host: str, time_s: float, samples: Iterable[tuple[str, float]]) -> None:
        self.added.extend((host, time_s, *sample) for sample in samples)

    def add_state(self, state: TargetState) -> None:
        self.added.append(state)

    async def commit_transition(self, transition: Transition, state: TargetState) -> None:
        self.added += (transition, state)

    async def commit_ping(self, ping: Ping) -> None:
        if self.trouble_text:
            raise TransientError(self.trouble_text)
        self.added.append(ping)

    async def flush(self) -> None:
        return None

    async def states(self) -> dict[str, TargetState]:
        return {}

    def _known(self, target: str) -> TargetView | None:
        try:
            known = self._watch.target(target)
        except NotFound:
            return None
        return known if known.last_time_s is not None else None

    def _row(self, one: TargetView, back: int) -> ResultRow:
        time_s = (one.last_time_s or 0.0) - back * one.every_s
        down = one.status == "down" and back < 7
        failed = down or _noise("fail", one.name, back) < 0.02
        duration_s = (one.last_duration_s or 0.0) * (0.8 + 0.5 * _noise(one.name, back))
        status = Status[one.status.upper()]
        if status in (Status.DOWN, Status.DEGRADED) and back >= 7:
            status = Status.UP
        phases = (0.004, 0.011, 0.024, duration_s * 0.5, duration_s * 0.1) if one.kind == "http" else (0.0,) * 5
        return ResultRow(one.name, time_s, not failed, int(status), duration_s, *phases, "status" if failed else "")

    async def chart(self, target: str, *, since_s: float, until_s: float, points: int) -> Sequence[Point]:
        one = self._known(target)
        if one is None:
            return []
        step_s = max((until_s - since_s) / points, one.every_s)
        count = max(1, int(step_s / one.every_s))
        return [self._point(one, since_s + at * step_s, count) for at in range(int((until_s - since_s) / step_s))]

    async def overall(self, target: str, *, since_s: float, until_s: float) -> Point | None:
        one = self._known(target)
        if one is None or one.status == "pending":
            return None
        mean_s = one.last_duration_s or 0.001
        count = max(1, int((until_s - since_s) / one.every_s))
        quantiles = (mean_s * 0.95, mean_s * 1.6, mean_s * 2.4)
        return Point(since_s, count, count // 500, mean_s, mean_s * 0.7, mean_s * 3, None, int(Status.UP), quantiles)

    def _point(self, one: TargetView, time_s: float, count: int) -> Point:
        if one.status == "down" and time_s > one.since_s:
            return Point(time_s, count, count, None, None, None, None, int(Status.DOWN))
        wave = 1 + 0.25 * math.sin(time_s / 6000) + 0.3 * _noise(one.name, int(time_s))
        mean_s = (one.last_duration_s or 0.001) * wave
        failures = 1 if _noise("bad", one.name, int(time_s)) < 0.01 else 0
        phases = None
        if one.kind == "http":
            rest = max(0.0, mean_s - 0.039)
            phases = (0.004, 0.011, 0.024, rest * 0.85, rest * 0.15)
        quantiles = (mean_s * 0.95, mean_s * 1.4, mean_s * 1.7)
        return Point(time_s, count, failures, mean_s, mean_s * 0.7, mean_s * 1.9, phases, int(Status.UP), quantiles)

    async def results(self, target: str, *, limit: int, before_s: float | None = None) -> Sequence[ResultRow]:
        one = self._known(target)
        if one is None:
            return []
        rows = (self._row(one, back) for back in range(500))
        return [row for row in rows if before_s is None or row.time_s < before_s][:limit]

    async def recent(self, targets: Sequence[str], *, limit: int) -> dict[str, Sequence[ResultRow]]:
        found = {name: self._known(name) for name in targets}
        return {
            name: [self._row(one, back) for back in range(limit - 1, -1, -1)]
            for name, one in found.items()
            if one is not None
        }

    async def failures(self, target: str, *, limit: int) -> Sequence[Failure]:
        one = self._known(target)
        if one is None or not one.last_message:
            return []
        return [
            Failure(
                target=target,
                time_s=(one.last_time_s or 0.0) - 60 * back,
                reason="status",
                message=one.last_message,
                headers=(("content-type", "text/html"), ("server", "nginx"), ("x-request-id", f"4f2a{back}")),
                body="<html><body><h1>503 Service Unavailable</h1><script>alert(1)</script></body></html>",
                truncated=back == 1,
            )
            for back in range(min(3, limit))
        ]

    async def transitions(
        self, target: str | None = None, *, since_s: float = 0.0, limit: int = 100
    ) -> Sequence[Transition]:
        wanted = TransitionFilter(targets=None if target is None else [target], since_s=since_s)
        return (await self.find_transitions(wanted, limit=limit)).items

    async def find_transitions(
        self, wanted: TransitionFilter, *, limit: int, before: int | None = None
    ) -> TransitionPage:
        made = [
            Transition(
                target=one.name,
                time_s=one.since_s,
                before=Status.UP if one.status != "up" else Status.DOWN,
                after=Status[one.status.upper()],
                reason=one.last_message or "2 successes in a row",
            )
            for one in self._watch.targets()
            if self._known(one.name)
        ]
        numbered = [one for one in enumerate(sorted(made, key=lambda one: one.time_s)) if wanted.matches(one[1])][::-1]
        rest = [one for one in numbered if before is None or one[0] < before]
        following = rest[limit - 1][0] if len(rest) > limit else None
        total = len(numbered) if before is None and not wanted.words else None
        return TransitionPage(items=[one for _, one in rest[:limit]], total=total, before=following)

    async def availability(
        self, targets: Sequence[str], *, since_s: float, until_s: float, planned: Planned | None = None
    ) -> Sequence[Availability]:
        return [self._available(name, since_s, until_s) for name in targets]

    def _available(self, name: str, since_s: float, until_s: float) -> Availability:
        period_s = until_s - since_s
        known = self._known(name) is not None
        down_s = period_s * _noise("down", name, round(period_s)) ** 8 * 0.05 if known else 0.0
        up_s = period_s - down_s if known else 0.0
        return Availability(
            target=name,
            since_s=since_s,
            until_s=until_s,
            up_s=up_s,
            degraded_s=0.0,
            down_s=down_s,
            maintenance_s=0.0,
            paused_s=0.0,
            unknown_s=0.0 if known else period_s,
            ratio=up_s / period_s if known else None,
            incidents=int(_noise("incidents", name) * 3) if down_s > 1 else 0,
        )

    async def series(
        self, host: str, names: Sequence[str], *, since_s: float, until_s: float, points: int
    ) -> Sequence[SeriesPoints]:
        step_s = (until_s - since_s) / points
        times = [since_s + at * step_s for at in range(points)]
        scale = {"node_memory_MemAvailable_bytes": 16 * 2**30}
        return [
            SeriesPoints(
                host=host,
                series=name,
                points=[
                    (
                        time_s,
                        scale.get(name, 2)
                        * (1 + 0.3 * math.sin(time_s / 900) + 0.2 * _noise(name, at) + 0.4 * _noise(host)),
                    )
                    for at, time_s in enumerate(times)
                ],
            )
            for name in names
        ]

    async def pings(self, target: str, *, limit: int) -> Sequence[Ping]:
        return [one for one in reversed(self._watch.pings) if one.target == target][:limit]

    async def document(self, name: str) -> bytes | None:
        return self._documents.get(name)

    async def put_document(self, name: str, content: bytes) -> None:
        self._documents[name] = content

    def metrics(self) -> Iterable[Family]:
        return [
            Family(
                "dogwatch_store_dropped_rows_total",
                "counter",
                "Rows that could not be written",
                [('dogwatch_store_dropped_rows_total{table="results"}', 0.0)],
            )
        ]

    async def close(self) -> None:
        self.closed = True
