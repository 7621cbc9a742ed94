"""A running program that does not run: every protocol of app.Services, with believable and repeatable data."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.app import Readiness, Services
from dogwatch.config.status import STEPS, Difference, ReloadPlan, ReloadRecord, ReloadStep
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock, ManualClock
from dogwatch.core.component import nearest
from dogwatch.core.metrics import Family, series
from dogwatch.core.values import Event, Status, Transition
from dogwatch.errors import NotFound, TransientError
from dogwatch.hosts.view import CollectorView, ContainerView, FilesystemView, HostView, ProcessView
from dogwatch.probes.probe import Phases, ProbeResult
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
from tests.fakes_runs import FakeRuns

# name, kind, address, group, status, typical seconds, message
SMALL = (
    ("shop", "http", "https://shop.example/health", "web", "up", 0.084, ""),
    ("shop/checkout", "http", "https://shop.example/checkout", "web", "down", 0.410, "status is 503, expected 200"),
    ("blog", "http", "https://blog.example/", "web", "degraded", 1.720, "answered in 1.72 s, over 1 s"),
    ("login", "http", "https://login.example/", "web", "up", 0.121, ""),
    ("db-1", "tcp", "db-1:5432", "data", "up", 0.0021, ""),
    ("db-2", "tcp", "db-2:5432", "data", "maintenance", 0.0023, ""),
    ("queue", "grpc", "queue:50051", "data", "up", 0.0063, ""),
    ("resolver", "dns", "10.0.0.53 A shop.example", "network", "up", 0.0118, ""),
    ("edge-lb", "icmp", "192.0.2.1", "network", "up", 0.0009, ""),
    ("certificate", "tls", "shop.example:443", "network", "paused", 0.044, ""),
    ("nightly-backup", "heartbeat", "every 1d, grace 1h", "jobs", "up", 0.0, ""),
    ("größe 数据 <b>&", "exec", "/usr/lib/checks/größe --all", "jobs", "pending", 0.0, ""),
)


def _noise(*of: object) -> float:
    return zlib.crc32(repr(of).encode()) / 2**32


def view(
    name: str, kind: str, address: str, group: str, status: str, typical_s: float, message: str, now_s: float
) -> TargetView:
    seen = status != "pending"
    failed = status == "down"
    phases = Phases(0.004, 0.011, 0.024, typical_s * 0.4, typical_s * 0.1) if kind == "http" else None
    return TargetView(
        name=name,
        kind=kind,
        address=address,
        group=group,
        labels={"team": "shop"} if group == "web" else {},
        status=status,
        since_s=now_s - 300 - 90_000 * _noise(name),
        every_s=15.0,
        timeout_s=5.0,
        last_time_s=now_s - 4 if seen else None,
        last_success=not failed if seen else None,
        last_duration_s=typical_s if seen else None,
        last_phases=phases if seen else None,
        last_reason="status" if failed else "",
        last_message=message,
        consecutive_failures=7 if failed else 0,
        lateness_s=0.0004,
        next_s=None if status == "paused" else 11.0,
        depends_on=("edge-lb",) if group == "web" else (),
        values={"status": 503 if failed else 200, "tls_days_left": 41.5, "ip": "192.0.2.7"} if kind == "http" else {},
    )


def few(now_s: float) -> list[TargetView]:
    return [view(*one, now_s) for one in SMALL]


def many(count: int, now_s: float, *, groups: int = 25) -> list[TargetView]:
    statuses = ("up",) * 60 + ("down", "degraded", "paused")
    return [
        view(
            f"service-{index:05}",
            ("http", "tcp", "icmp")[index % 3],
            f"https://service-{index:05}.example/health",
            f"group-{index * groups // count:03}",
            statuses[int(_noise("status", index) * len(statuses))],
            0.02 + 0.2 * _noise("typical", index),
            "connection refused",
            now_s,
        )
        for index in range(count)
    ]


class FakeWatch:
    """Implements WatchView. pings: what was taken; ping_error: raised instead of taking one."""

    def __init__(self, views: Iterable[TargetView], bus: Bus, clock: Clock) -> None:
        self._views = {one.name: one for one in views}
        self._bus = bus
        self._clock = clock
        self.pings: list[Ping] = []
        self.ping_error: Exception | None = None

    def targets(self) -> Sequence[TargetView]:
        return list(self._views.values())

    def target(self, name: str) -> TargetView:
        if name not in self._views:
            raise NotFound(f"no target is called '{name}'", hint=nearest(name, list(self._views)))
        return self._views[name]

    def replace(self, name: str, **changes: Any) -> TargetView:
        """Change what is known of a target, as a result does, and announce a change of status."""
        before = self.target(name)
        after = self._views[name] = msgspec.structs.replace(before, **changes)
        if before.status != after.status:
            self._bus.publish(
                Event(
                    topic="transition",
                    time_s=self._clock.now_s(),
                    data=Transition(
                        target=name,
                        time_s=self._clock.now_s(),
                        before=Status[before.status.upper()],
                        after=Status[after.status.upper()],
                        reason=after.last_message,
                    ),
                )
            )
        return after

    def remove(self, name: str) -> None:
        del self._views[name]

    async def pause(self, name: str) -> TargetView:
        return self.replace(name, status="paused", next_s=None, since_s=self._clock.now_s())

    async def resume(self, name: str) -> TargetView:
        return self.replace(name, status="up", next_s=0.5, since_s=self._clock.now_s())

    async def run_now(self, name: str) -> ProbeResult:
        one = self.target(name)
        return ProbeResult(
            success=one.status != "down",
            duration_s=one.last_duration_s or 0.01,
            reason=one.last_reason,
            message=one.last_message,
            phases=one.last_phases,
            values=one.values,
        )

    async def run_ad_hoc(
        self, kind: str, options: Mapping[str, Any], *, timeout_s: float
    ) -> tuple[ProbeResult, list[Family]]:
        return ProbeResult(success=True, duration_s=0.01), [
            Family("probe_success", "gauge", "Displays whether or not the probe was a success", [("probe_success", 1)])
        ]

    async def ping(
        self, name: str, *, signal: str, exit_status: int | None, body: str, remote: str, rid: str = ""
    ) -> None:
        if self.ping_error is not None:
            raise self.ping_error
        known = self.target(name)
        if known.kind != "heartbeat":
            raise NotFound(f"'{name}' is no heartbeat")
        self.pings.append(
            Ping(
                target=name,
                time_s=self._clock.now_s(),
                signal=signal,
                exit_status=exit_status,
                body=body,
                remote=remote,
                rid=rid,
            )
        )

    def metrics(self) -> Iterable[Family]:
        for name, value in (
            ("probe_success", 1.0),
            ("probe_duration_seconds", 0.083),
            ("probe_http_status_code", 200.0),
        ):
            yield Family(
                name,
                "gauge",
                f"{name} of each target",
                [(series(name, {"target": one.name, "group": one.group}), value) for one in self._views.values()],
            )
        yield Family(
            "dogwatch_probe_attempts_total", "counter", "Attempts ended", [("dogwatch_probe_attempts_total", 12345.0)]
        )


class FakeHosts:
    """Implements HostsView for two machines, the second of which has a collector that fails."""

    def __init__(self, names: Sequence[str] = ("watch-1", "build-2")) -> None:
        self._names = names

    def hosts(self) -> Sequence[HostView]:
        return [self._host(name, index) for index, name in enumerate(self._names)]

    def host(self, name: str) -> HostView:
        for one in self.hosts():
            if one.name == name:
                return one
        raise NotFound(f"no host is called '{name}'", hint=nearest(name, list(self._names)))

    def _host(self, name: str, index: int) -> HostView:
        gib = 2**30
        return HostView(
            name=name,
            kernel="6.12.48-amd64",
            cores=8,
            uptime_s=1_234_567.0 + index,
            cpu_ratio=(0.23, 0.91)[index % 2],
            load1=(1.84, 9.20)[index % 2],
            memory_used_ratio=(0.47, 0.88)[index % 2],
            memory_total_bytes=32 * gib,
            swap_used_ratio=0.02,
            network_receive_bytes_per_s=1_840_000.0,
            network_transmit_bytes_per_s=640_000.0,
            disk_read_bytes_per_s=0.0,
            disk_written_bytes_per_s=5_300_000.0,
            filesystems=[
                FilesystemView(
                    mountpoint=mountpoint,
                    device=f"/dev/nvme0n1p{number}",
                    fstype="ext4",
                    size_bytes=200 * gib,
                    available_bytes=int(200 * gib * (1 - ratio)),
                    used_ratio=ratio,
                )
                for number, (mountpoint, ratio) in enumerate((("/", 0.52), ("/var/lib/docker", 0.87), ("/srv", 0.961)))
            ],
            processes=[
                ProcessView(pid=700 + at, name=program, user=user, cpu_ratio=cpu, resident_bytes=size, threads=8)
                for at, (program, user, cpu, size) in enumerate(
                    (
                        ("postgres", "postgres", 0.112, 2 * gib),
                        ("dogwatch", "dogwatch", 0.008, 61 * 2**20),
                        ("nginx", "www-data", 0.004, 38 * 2**20),
                    )
                )
            ],
            containers=[
                ContainerView(
                    container_id="0f3ab2",
                    name="registry",
                    image="registry:3",
                    state="running",
                    health="healthy",
                    cpu_ratio=0.01,
                    memory_bytes=48 * 2**20,
                )
            ],
            collectors=[
                CollectorView(name="cpu", every_s=15, ok=True),
                CollectorView(
                    name="filesystem",
                    every_s=60,
                    ok=index == 0,
                    message="" if index == 0 else "/mnt/nfs did not answer",
                ),
            ],
            pressure={"cpu": 0.012, "io": 0.034},
        )

    def metrics(self) -> Iterable[Family]:
        return [Family("node_load1", "gauge", "1m load average.", [("node_load1", 1.84)])]


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


class FakeReload:
    """Implements ReloadControl. `problems`: what the next reload finds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.problems: tuple[str, ...] = ()
        self._records = [self._record(1, "start")]

    def _record(self, number: int, trigger: str) -> ReloadRecord:
        failed = bool(self.problems)
        return ReloadRecord(
            number=number,
            trigger=trigger,
            time_s=self._clock.now_s(),
            outcome="failed" if failed else "applied",
            steps=[ReloadStep(name=name, duration_s=0.002) for name in (STEPS[:3] if failed else STEPS)],
            problems=self.problems,
            changed=() if failed else ("+shop",),
        )

    def history(self) -> Sequence[ReloadRecord]:
        return self._records

    async def plan(self) -> ReloadPlan:
        found = [
            Difference(section="probes", name="<b>new</b>", what="added"),
            Difference(section="rules", name="slow", what="changed", keys=("when", "for")),
            Difference(section="schedules", name="nightly", what="removed"),
        ]
        return ReloadPlan(
            outcome="fails" if self.problems else "applies",
            differences=found,
            total=len(found),
            counts={one.section: {"added": 0, "changed": 0, "removed": 0, one.what: 1} for one in found},
            problems=self.problems,
            files=("dogwatch.yaml",),
        )

    async def reload(self, trigger: str) -> ReloadRecord:
        record = self._record(self._records[0].number + 1, trigger)
        self._records.insert(0, record)
        return record


async def fake_blackbox(query: Mapping[str, str], _headers: Mapping[str, str]) -> tuple[int, str, str]:
    """Answer as blackbox_exporter does."""
    text = "text/plain; charset=utf-8"
    if query.get("module", "http_2xx") != "http_2xx":
        return 400, text, f'Unknown module "{query["module"]}"\n'
    if not query.get("target"):
        return 400, text, "Target parameter is missing\n"
    return (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        "# HELP probe_success x\n# TYPE probe_success gauge\nprobe_success 1\n",
    )


class FakeProgram:
    """All of it, with handles to change what is so."""

    def __init__(self, views: Sequence[TargetView] | None = None, *, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or ManualClock()
        self.bus = Bus()
        self.watch = FakeWatch(few(self.clock.now_s()) if views is None else views, self.bus, self.clock)
        self.store = FakeStore(self.watch, self.clock)
        self.hosts = FakeHosts()
        self.reload = FakeReload(self.clock)
        self.runs = FakeRuns(self.clock, self.bus)
        self.ready = [Readiness(name="store", ok=True), Readiness(name="watch", ok=True)]
        self.finding_list: list[dict[str, object]] = []
        self.services = Services(
            version="0.1.0",
            clock=self.clock,
            bus=self.bus,
            store=self.store,
            watch=self.watch,
            hosts=self.hosts,
            reload=self.reload,
            metrics=self._metrics,
            readiness=lambda: self.ready,
            findings=lambda: self.finding_list,
            blackbox=fake_blackbox,
            runs=self.runs,
            plan=self.runs.plan,
        )

    def _metrics(self) -> Iterable[Family]:
        for part in (self.watch, self.hosts, self.store):
            yield from part.metrics()

    def publish_result(self, name: str, *, success: bool = True, duration_s: float = 0.05, reason: str = "") -> None:
        """Announce a result as the watch does."""
        one = self.watch.target(name)
        row = ResultRow(
            name,
            self.clock.now_s(),
            success,
            int(Status[one.status.upper()]),
            duration_s,
            reason=reason,
        )
        self.bus.publish(Event(topic="result", time_s=row.time_s, data=row))

    def tick(self, chance: random.Random) -> None:
        """Let every target that is watched have a result now."""
        for one in self.watch.targets():
            if one.status in ("up", "down", "degraded"):
                typical_s = one.last_duration_s or 0.01
                self.publish_result(
                    one.name, success=one.status != "down", duration_s=typical_s * (0.8 + 0.4 * chance.random())
                )
