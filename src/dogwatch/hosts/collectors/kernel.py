"""Tables of the kernel that can run full: connection tracking, entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family
from dogwatch.hosts.collector import Absent, Collector, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine

_FILES = {
    "sys/net/netfilter/nf_conntrack_count": Metric(
        "node_nf_conntrack_entries", "gauge", "Number of currently allocated flow entries for connection tracking."
    ),
    "sys/net/netfilter/nf_conntrack_max": Metric(
        "node_nf_conntrack_entries_limit", "gauge", "Maximum size of connection tracking table."
    ),
    "sys/kernel/random/entropy_avail": Metric("node_entropy_available_bits", "gauge", "Bits of available entropy."),
    "sys/kernel/random/poolsize": Metric("node_entropy_pool_size_bits", "gauge", "Bits of entropy pool."),
}


class KernelCollector(Collector, frozen=True, kw_only=True):
    """Connection tracking entries and their limit; entropy."""

    kind: ClassVar[str] = "kernel"
    metrics: ClassVar[tuple[Metric, ...]] = tuple(_FILES.values())

    def open(self, machine: Machine) -> Sampler:
        return KernelSampler(machine)


class KernelSampler(Sampler):
    def __init__(self, machine: Machine) -> None:
        self._files = {machine.proc(name): metric for name, metric in _FILES.items()}
        self._values: list[tuple[Metric, int]] = []

    def sample(self, _at: Moment, /) -> None:
        values = []
        for file, metric in self._files.items():
            try:
                values.append((metric, int(file.read())))
            except FileNotFoundError:
                continue  # a module that is not loaded
        self._values = values
        if not values:
            raise Absent("this kernel shows neither connection tracking nor entropy")

    def families(self) -> Iterator[Family]:
        for metric, value in self._values:
            yield single(metric, value)

    def close(self) -> None:
        for file in self._files:
            file.close()
