"""A watch of made-up targets."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.component import nearest
from dogwatch.core.metrics import Family, series
from dogwatch.core.values import Event, Status, Transition
from dogwatch.errors import NotFound
from dogwatch.probes.probe import Phases, ProbeResult
from dogwatch.probes.view import TargetView
from dogwatch.store.protocol import (
    Ping,
)

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
