"""Disk reads, writes, discards and flushes, by device."""

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

_SECTOR_BYTES = 512.0  # of /proc/diskstats, whatever the device's own
_MS = 0.001
# (metric without node_disk_, kind, help, what the field is multiplied with), in the order of the fields.
_COLUMNS = (
    ("reads_completed_total", "counter", "The total number of reads completed successfully.", 1),
    ("reads_merged_total", "counter", "The total number of reads merged.", 1),
    ("read_bytes_total", "counter", "The total number of bytes read successfully.", _SECTOR_BYTES),
    ("read_time_seconds_total", "counter", "The total number of seconds spent by all reads.", _MS),
    ("writes_completed_total", "counter", "The total number of writes completed successfully.", 1),
    ("writes_merged_total", "counter", "The number of writes merged.", 1),
    ("written_bytes_total", "counter", "The total number of bytes written successfully.", _SECTOR_BYTES),
    ("write_time_seconds_total", "counter", "This is the total number of seconds spent by all writes.", _MS),
    ("io_now", "gauge", "The number of I/Os currently in progress.", 1),
    ("io_time_seconds_total", "counter", "Total seconds spent doing I/Os.", _MS),
    ("io_time_weighted_seconds_total", "counter", "The weighted # of seconds spent doing I/Os.", _MS),
    ("discards_completed_total", "counter", "The total number of discards completed successfully.", 1),
    ("discards_merged_total", "counter", "The total number of discards merged.", 1),
    ("discarded_sectors_total", "counter", "The total number of sectors discarded successfully.", 1),
    ("discard_time_seconds_total", "counter", "This is the total number of seconds spent by all discards.", _MS),
    ("flush_requests_total", "counter", "The total number of flush requests completed successfully", 1),
    (
        "flush_requests_time_seconds_total",
        "counter",
        "This is the total number of seconds spent by all flush requests.",
        _MS,
    ),
)
_FACTORS = tuple(column[3] for column in _COLUMNS)
_METRICS = tuple(Metric(f"node_disk_{name}", kind, text, ("device",)) for name, kind, text, _ in _COLUMNS)
# What lies on other disks would count twice in the host's total.
_STACKED = ("dm-", "md", "loop", "zram", "ram", "drbd", "bcache", "sr", "fd")


class DiskIoCollector(Collector, frozen=True, kw_only=True):
    """Reads, writes, discards and flushes by device.

    exclude_devices: regular expression of devices left out; the default leaves out partitions and loop devices.
    """

    kind: ClassVar[str] = "disk_io"
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    patterns: ClassVar[tuple[str, ...]] = ("exclude_devices",)
    exclude_devices: str = r"^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$"

    def open(self, machine: Machine) -> Sampler:
        return DiskIoSampler(machine, self.exclude_devices)


class DiskIoSampler(Sampler):
    def __init__(self, machine: Machine, exclude: str) -> None:
        self._file = machine.proc("diskstats")
        self._exclude = re.compile(exclude) if exclude else None
        self._keys: dict[str, bytes] = {}
        self._lines = 0
        self._rows: dict[str, bytes] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._texts: dict[str, tuple[str, str]] = {}
        self._rates: Rates[str] = Rates()
        self._table: Table[str] = Table(_METRICS)

    def sample(self, at: Moment, /) -> None:
        raw = self._file.read()
        rows = self._known_rows(raw)
        if rows is None:
            rows = self._all_rows(raw)
            self._keys = {device: b" " + device.encode("utf-8", "backslashreplace") + b" " for device in rows}
            self._lines = raw.count(b"\n")
            self._labels = {device: {"device": device} for device in rows}
            self._texts = {device: _text(device) for device in sorted(rows)[:MAX_DEVICES]}
        counters: dict[str, tuple[float, ...]] = {}
        for device, text in rows.items():
            row = text.split(None, 7)
            if len(row) < 8:
                raise CollectorError(f"{self._file.path} has {len(row)} numbers for {device}")
            counters[device] = (int(row[2]) * _SECTOR_BYTES, int(row[6]) * _SECTOR_BYTES)
        self._rows = rows
        self._rates.update(at.monotonic_s, counters)

    def _known_rows(self, raw: bytes) -> dict[str, bytes] | None:
        """Return the rows of the devices that are known, without reading the others (loop devices, partitions).

        None where a device came or went: then there is another number of lines, or one is not found.
        """
        if not self._keys or raw.count(b"\n") != self._lines:
            return None
        rows: dict[str, bytes] = {}
        for device, key in self._keys.items():
            start = raw.find(key)
            if start < 0:
                return None
            start += len(key)
            rows[device] = raw[start : raw.find(b"\n", start)]
        return rows

    def _all_rows(self, raw: bytes) -> dict[str, bytes]:
        rows: dict[str, bytes] = {}
        for line in raw.splitlines():
            words = line.split(None, 3)
            device = self._learn(words[2])
            if device:
                rows[device] = words[3]
        return rows

    def _learn(self, raw: bytes) -> str:
        """Return the device's name, "" for one that is left out."""
        device = raw.decode("utf-8", "backslashreplace")
        return "" if self._exclude and self._exclude.match(device) else device

    def families(self) -> Iterator[Family]:
        rows = {
            device: [int(word) * factor for word, factor in zip(row.split(), _FACTORS, strict=False)]
            for device, row in self._rows.items()
        }
        return self._table.families(rows, self._labels)

    def history(self) -> Iterator[tuple[str, float]]:
        for device, rates in self._rates.by_key.items():
            if device in self._texts:
                texts = self._texts[device]
                yield texts[0], rates[0]
                yield texts[1], rates[1]

    def show(self, glance: Glance) -> None:
        whole = [device for device in self._rows if not device.startswith(_STACKED)]
        glance.disk_read_bytes_per_s = self._rates.total(0, whole)
        glance.disk_written_bytes_per_s = self._rates.total(1, whole)

    def close(self) -> None:
        self._file.close()


def _text(device: str) -> tuple[str, str]:
    labels = {"device": device}
    return (
        series("dogwatch_host_disk_read_bytes_per_s", labels),
        series("dogwatch_host_disk_written_bytes_per_s", labels),
    )
