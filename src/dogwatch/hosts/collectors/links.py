"""Whether network devices are up, from /sys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from dogwatch.core.metrics import Family
from dogwatch.hosts.collector import Absent, Collector, Metric, Moment, Sampler, Table
from dogwatch.hosts.machine import KernelFile, Machine

_FILES = ("operstate", "mtu", "carrier_changes", "tx_queue_len")
_METRICS = (
    Metric("node_network_up", "gauge", "Value is 1 if operstate is 'up', 0 otherwise.", ("device",)),
    Metric("node_network_mtu_bytes", "gauge", "Network device property: mtu_bytes", ("device",)),
    Metric(
        "node_network_carrier_changes_total", "counter", "Network device property: carrier_changes_total", ("device",)
    ),
    Metric(
        "node_network_transmit_queue_length", "gauge", "Network device property: transmit_queue_length", ("device",)
    ),
)


class LinksCollector(Collector, frozen=True, kw_only=True):
    """Whether each network device is up, its MTU, its queue, and how often its carrier changed.

    max_devices: of more devices (a host of a thousand containers) only the first, by name, are read.
    """

    kind: ClassVar[str] = "links"
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    max_devices: Annotated[int, Meta(ge=1)] = 256

    def open(self, machine: Machine) -> Sampler:
        return LinksSampler(machine, self.max_devices)


class LinksSampler(Sampler):
    """Reads only what the kernel answers without the lock of its network configuration (speed and carrier need it)."""

    def __init__(self, machine: Machine, max_devices: int) -> None:
        self._path = machine.path("sys/class/net")
        self._max_devices = max_devices
        self._files: dict[str, tuple[KernelFile, ...]] = {}
        self._rows: dict[str, tuple[float, ...]] = {}
        self._note = ""
        self._table: Table[str] = Table(_METRICS)

    def sample(self, _at: Moment, /) -> None:
        try:
            devices = sorted(os.listdir(self._path))  # noqa: PTH208 # three times as fast
        except FileNotFoundError as error:
            raise Absent("no /sys/class/net") from error
        beyond = len(devices) - self._max_devices
        self._note = f"{beyond} devices beyond max_devices are left out" if beyond > 0 else ""
        devices = devices[: self._max_devices]
        for gone in self._files.keys() - set(devices):
            _close(self._files.pop(gone))
        self._rows = {device: row for device in devices if (row := self._row(device)) is not None}

    def _row(self, device: str) -> tuple[float, ...] | None:
        files = self._files.get(device)
        if files is None:
            files = self._files[device] = tuple(KernelFile(f"{self._path}/{device}/{name}") for name in _FILES)
        try:
            state, *numbers = [file.read() for file in files]
        except OSError:
            # It went away meanwhile, or it is no device (bonding_masters is a file).
            _close(self._files.pop(device))
            return None
        return (float(state.startswith(b"up")), *map(int, numbers))

    def families(self) -> Iterator[Family]:
        return self._table.families(self._rows, {device: {"device": device} for device in self._rows})

    def note(self) -> str:
        return self._note

    def close(self) -> None:
        for files in self._files.values():
            _close(files)
        self._files = {}


def _close(files: tuple[KernelFile, ...]) -> None:
    for file in files:
        file.close()
