"""How long the machine has run, and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family
from dogwatch.hosts.collector import Collector, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.view import Glance

_TIME = Metric("node_time_seconds", "gauge", "System time in seconds since epoch (1970).")


class UptimeCollector(Collector, frozen=True, kw_only=True):
    """Seconds since the machine started, and its wall clock. The boot time is the cpu collector's."""

    kind: ClassVar[str] = "uptime"
    metrics: ClassVar[tuple[Metric, ...]] = (_TIME,)

    def open(self, machine: Machine) -> Sampler:
        return UptimeSampler(machine)


class UptimeSampler(Sampler):
    def __init__(self, machine: Machine) -> None:
        # The same number as in the file, for a tenth of the cost; another root may be another machine's copy.
        self._ask_kernel = not machine.root
        self._file = machine.proc("uptime")
        self._uptime_s: float | None = None
        self._time_s = 0.0

    def sample(self, at: Moment, /) -> None:
        if self._ask_kernel:
            self._uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        else:
            raw = self._file.read()
            self._uptime_s = float(raw[: raw.index(b" ")])
        self._time_s = at.time_s

    def families(self) -> Iterator[Family]:
        if self._uptime_s is not None:
            yield single(_TIME, self._time_s)

    def show(self, glance: Glance) -> None:
        glance.uptime_s = self._uptime_s

    def close(self) -> None:
        self._file.close()
