"""Load averages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family
from dogwatch.hosts.collector import Collector, CollectorError, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.view import Glance

_METRICS = (
    Metric("node_load1", "gauge", "1m load average."),
    Metric("node_load5", "gauge", "5m load average."),
    Metric("node_load15", "gauge", "15m load average."),
)


class LoadCollector(Collector, frozen=True, kw_only=True):
    """Load averages over 1, 5 and 15 minutes."""

    kind: ClassVar[str] = "load"
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS

    def open(self, machine: Machine) -> Sampler:
        return LoadSampler(machine)


class LoadSampler(Sampler):
    def __init__(self, machine: Machine) -> None:
        self._file = machine.proc("loadavg")
        self._loads: tuple[float, float, float] | None = None

    def sample(self, _at: Moment, /) -> None:
        words = self._file.read().split(maxsplit=3)
        if len(words) < 3:
            raise CollectorError(f"{self._file.path} has {len(words)} words")
        self._loads = (float(words[0]), float(words[1]), float(words[2]))

    def families(self) -> Iterator[Family]:
        if self._loads:
            yield from map(single, _METRICS, self._loads)

    def history(self) -> Iterator[tuple[str, float]]:
        if self._loads:
            yield "node_load1", self._loads[0]
            yield "node_load5", self._loads[1]
            yield "node_load15", self._loads[2]

    def show(self, glance: Glance) -> None:
        if self._loads:
            glance.load1, glance.load5, glance.load15 = self._loads

    def close(self) -> None:
        self._file.close()
