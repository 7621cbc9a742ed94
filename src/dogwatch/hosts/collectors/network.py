"""Bytes, packets and errors of network devices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family, series
from dogwatch.hosts.collector import Collector, CollectorError, Metric, Moment, Sampler, Table
from dogwatch.hosts.history import MAX_DEVICES
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.rates import Rates
from dogwatch.hosts.view import Glance

_FIELDS = (
    *(f"receive_{word}" for word in ("bytes", "packets", "errs", "drop", "fifo", "frame", "compressed", "multicast")),
    *(f"transmit_{word}" for word in ("bytes", "packets", "errs", "drop", "fifo", "colls", "carrier", "compressed")),
)
_METRICS = tuple(
    Metric(f"node_network_{field}_total", "counter", f"Network device statistic {field}.", ("device",))
    for field in _FIELDS
)
# What these carry goes through a physical device, too, or never leaves the machine.
_VIRTUAL = re.compile(r"^(lo|ifb\d|veth|docker|podman|br|virbr|cni|flannel|cali|vnet|tun|tap|dummy|bond|team|wg)|[.@]")


class NetworkCollector(Collector, frozen=True, kw_only=True):
    """Bytes, packets and errors by network device. exclude_devices: regular expression of devices left out."""

    kind: ClassVar[str] = "network"
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    patterns: ClassVar[tuple[str, ...]] = ("exclude_devices",)
    exclude_devices: str = ""

    def open(self, machine: Machine) -> Sampler:
        return NetworkSampler(machine, self.exclude_devices)


class NetworkSampler(Sampler):
    def __init__(self, machine: Machine, exclude: str) -> None:
        self._file = machine.proc("net/dev")
        self._exclude = re.compile(exclude) if exclude else None
        self._known: dict[bytes, str] = {}
        self._rows: dict[str, bytes] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._texts: dict[str, tuple[str, str]] = {}
        self._physical: list[str] = []
        self._rates: Rates[str] = Rates()
        self._table: Table[str] = Table(_METRICS)

    def sample(self, at: Moment, /) -> None:
        lines = self._file.read().splitlines()
        if len(lines) < 2 or b"|" not in lines[1]:
            raise CollectorError(f"{self._file.path} has no heading")
        rows: dict[str, bytes] = {}
        counters: dict[str, tuple[float, ...]] = {}
        for line in lines[2:]:
            # Old kernels leave no space after the colon; an alias has a colon of its own.
            raw, _, rest = line.rpartition(b":")
            device = self._known.get(raw)
            if device is None:
                device = self._learn(raw)
            if not device:
                continue
            row = rest.split(None, 9)
            if len(row) < 10:
                raise CollectorError(f"{self._file.path} has {len(row)} numbers for {device}")
            rows[device] = rest
            counters[device] = (int(row[0]), int(row[8]))
        if rows.keys() != self._rows.keys():
            self._devices(rows)
        self._rows = rows
        self._rates.update(at.monotonic_s, counters)

    def _devices(self, rows: dict[str, bytes]) -> None:
        self._labels = {device: {"device": device} for device in rows}
        self._physical = [device for device in rows if not _VIRTUAL.search(device)]
        # Of hundreds of containers' devices, the physical ones are worth keeping first.
        kept = sorted(rows, key=lambda device: (device not in self._physical, device))[:MAX_DEVICES]
        self._texts = {device: _text(device) for device in kept}

    def _learn(self, raw: bytes) -> str:
        """Return the device's name, "" for one that is left out."""
        if len(self._known) > 10_000:
            self._known.clear()
        device = raw.strip().decode("utf-8", "backslashreplace")
        self._known[raw] = "" if self._exclude and self._exclude.match(device) else device
        return self._known[raw]

    def families(self) -> Iterator[Family]:
        rows = {device: [int(word) for word in row.split()[:16]] for device, row in self._rows.items()}
        return self._table.families(rows, self._labels)

    def history(self) -> Iterator[tuple[str, float]]:
        for device, (received, transmitted) in self._rates.by_key.items():
            if device in self._texts:
                texts = self._texts[device]
                yield texts[0], received
                yield texts[1], transmitted

    def show(self, glance: Glance) -> None:
        glance.network_receive_bytes_per_s = self._rates.total(0, self._physical)
        glance.network_transmit_bytes_per_s = self._rates.total(1, self._physical)

    def close(self) -> None:
        self._file.close()


def _text(device: str) -> tuple[str, str]:
    labels = {"device": device}
    return (
        series("dogwatch_host_network_receive_bytes_per_s", labels),
        series("dogwatch_host_network_transmit_bytes_per_s", labels),
    )
