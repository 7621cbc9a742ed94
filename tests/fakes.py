"""A running program that does not run: every protocol of app.Services, with believable and repeatable data."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from dogwatch.app import Readiness, Services
from dogwatch.config.status import STEPS, Difference, ReloadPlan, ReloadRecord, ReloadStep
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock, ManualClock
from dogwatch.core.component import nearest
from dogwatch.core.metrics import Family
from dogwatch.core.values import Event, Status
from dogwatch.errors import NotFound
from dogwatch.hosts.view import CollectorView, ContainerView, FilesystemView, HostView, ProcessView
from dogwatch.probes.view import TargetView
from dogwatch.store.protocol import (
    ResultRow,
)
from tests.fakes_runs import FakeRuns
from tests.fakes_store import FakeStore
from tests.fakes_watch import FakeWatch, few


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
