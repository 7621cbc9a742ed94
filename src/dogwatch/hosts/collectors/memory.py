"""Memory and swap (/proc/meminfo), and paging (/proc/vmstat)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family
from dogwatch.hosts.collector import Collector, CollectorError, Metric, Moment, Sampler, field_name
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.view import Glance

_MEMORY_HELP = "Memory information field {}."
_VMSTAT_HELP = "/proc/vmstat information field {}."
_METRICS = (
    Metric("node_memory_*", "gauge", _MEMORY_HELP.format("*")),
    Metric("node_vmstat_*", "untyped", _VMSTAT_HELP.format("*")),
)


class MemoryCollector(Collector, frozen=True, kw_only=True):
    """Every field of /proc/meminfo, and paging from /proc/vmstat.

    vmstat_fields: regular expression of the /proc/vmstat fields shown; "" for none.
    """

    kind: ClassVar[str] = "memory"
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    patterns: ClassVar[tuple[str, ...]] = ("vmstat_fields",)
    vmstat_fields: str = r"^(oom_kill|pgpg|pswp|pg.*fault).*"

    def open(self, machine: Machine) -> Sampler:
        return MemorySampler(machine, self.vmstat_fields)


class MemorySampler(Sampler):
    def __init__(self, machine: Machine, vmstat_fields: str) -> None:
        self._meminfo = machine.proc("meminfo")
        self._vmstat = machine.proc("vmstat")
        self._wanted = re.compile(vmstat_fields) if vmstat_fields else None
        self._raw = self._raw_vmstat = b""
        self._names: dict[bytes, tuple[str, str]] = {}
        self._picked: tuple[list[bytes], list[tuple[int, str, str]]] = ([], [])
        self._used_ratio = self._swap_ratio = 0.0
        self._total_bytes = self._available_bytes = 0

    def sample(self, _at: Moment, /) -> None:
        raw = self._meminfo.read()
        head = raw[:120].split(None, 8)
        if len(head) > 7 and head[0] == b"MemTotal:" and head[6] == b"MemAvailable:":
            # As every kernel since 3.14 writes it.
            total, available = int(head[1]), int(head[7])
        else:
            total, available = self._search(raw)
        self._used_ratio = max(0.0, 1 - available / total) if total else 0.0
        self._total_bytes, self._available_bytes = total * 1024, available * 1024
        swap = _field(raw, b"\nSwapTotal:")
        self._swap_ratio = max(0.0, 1 - (_field(raw, b"\nSwapFree:") or 0) / swap) if swap else 0.0
        self._raw = raw
        if self._wanted:
            self._raw_vmstat = b""
            self._raw_vmstat = self._vmstat.read()

    def _search(self, raw: bytes) -> tuple[int, int]:
        """Return total and available, kB, of a file in another order or of an old kernel."""
        total = _field(raw, b"MemTotal:")
        if not total:
            raise CollectorError(f"{self._meminfo.path} has no MemTotal")
        available = _field(raw, b"\nMemAvailable:")
        if available is None:
            # Kernels before 3.14 do not say; this is what `free` took then.
            available = sum(_field(raw, key) or 0 for key in (b"\nMemFree:", b"\nBuffers:", b"\nCached:"))
        return total, available

    def families(self) -> Iterator[Family]:
        for line in self._raw.splitlines():
            key, _, rest = line.partition(b":")
            words = rest.split(maxsplit=2)
            name, text = self._names.get(key) or self._name(key, is_size=len(words) > 1)
            value = int(words[0]) * 1024 if len(words) > 1 else int(words[0])
            yield Family(name, "gauge", text, ((name, value),))
        yield from self._paging()

    def _name(self, key: bytes, *, is_size: bool) -> tuple[str, str]:
        field = field_name(key.decode("ascii").replace("(", "_").replace(")", ""))
        field = f"{field}_bytes" if is_size else field
        # The kernel has some 60 fields; garbage must not fill the cache.
        if len(self._names) > 500:
            self._names.clear()
        self._names[key] = (f"node_memory_{field}", _MEMORY_HELP.format(field))
        return self._names[key]

    def _paging(self) -> Iterator[Family]:
        if not self._raw_vmstat or not self._wanted:
            return
        words = self._raw_vmstat.split()
        keys = words[::2]
        if self._picked[0] != keys:
            names = [key.decode("ascii") for key in keys]
            picked = [(index, name) for index, name in enumerate(names) if self._wanted.match(name)]
            self._picked = (
                keys,
                [
                    (2 * index + 1, f"node_vmstat_{field_name(name)}", _VMSTAT_HELP.format(name))
                    for index, name in picked
                ],
            )
        for index, name, text in self._picked[1]:
            yield Family(name, "untyped", text, ((name, int(words[index])),))

    def history(self) -> Iterator[tuple[str, float]]:
        if self._raw:
            yield "dogwatch_host_memory_used_ratio", self._used_ratio
            yield "node_memory_MemAvailable_bytes", self._available_bytes
            yield "dogwatch_host_swap_used_ratio", self._swap_ratio

    def show(self, glance: Glance) -> None:
        if self._raw:
            glance.memory_used_ratio = self._used_ratio
            glance.memory_total_bytes = self._total_bytes
            glance.swap_used_ratio = self._swap_ratio

    def close(self) -> None:
        self._meminfo.close()
        self._vmstat.close()


def _field(raw: bytes, key: bytes) -> int | None:
    start = raw.find(key)
    if start < 0:
        return None
    start += len(key)
    return int(raw[start : raw.find(b"k", start)])
