"""File descriptors of the whole system."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family
from dogwatch.hosts.collector import Collector, CollectorError, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine

_ALLOCATED = Metric("node_filefd_allocated", "gauge", "File descriptor statistics: allocated.")
_MAXIMUM = Metric("node_filefd_maximum", "gauge", "File descriptor statistics: maximum.")


class DescriptorsCollector(Collector, frozen=True, kw_only=True):
    """File descriptors in use on the whole system, and their limit."""

    kind: ClassVar[str] = "descriptors"
    metrics: ClassVar[tuple[Metric, ...]] = (_ALLOCATED, _MAXIMUM)

    def open(self, machine: Machine) -> Sampler:
        return DescriptorsSampler(machine)


class DescriptorsSampler(Sampler):
    def __init__(self, machine: Machine) -> None:
        self._file = machine.proc("sys/fs/file-nr")
        self._values: tuple[int, int] | None = None

    def sample(self, _at: Moment, /) -> None:
        words = self._file.read().split()
        if len(words) < 3:
            raise CollectorError(f"{self._file.path} has {len(words)} numbers")
        self._values = (int(words[0]), int(words[2]))

    def families(self) -> Iterator[Family]:
        if self._values:
            yield single(_ALLOCATED, self._values[0])
            yield single(_MAXIMUM, self._values[1])

    def history(self) -> Iterator[tuple[str, float]]:
        if self._values and self._values[1]:
            yield "dogwatch_host_descriptors_used_ratio", self._values[0] / self._values[1]

    def close(self) -> None:
        self._file.close()
