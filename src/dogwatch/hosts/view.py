"""What the rest of the program sees of this host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from dogwatch.core.metrics import Family


class CollectorView(msgspec.Struct, frozen=True, kw_only=True):
    """One collector as it is now. ok: its last run ended in time. message: why not."""

    name: str
    every_s: float
    ok: bool
    message: str = ""
    last_time_s: float | None = None
    duration_s: float | None = None


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    name: str
    user: str
    cpu_ratio: float
    resident_bytes: int
    threads: int = 0
    descriptors: int | None = None


class FilesystemView(msgspec.Struct, frozen=True, kw_only=True):
    mountpoint: str
    device: str
    fstype: str
    size_bytes: int
    available_bytes: int
    used_ratio: float


class ContainerView(msgspec.Struct, frozen=True, kw_only=True):
    container_id: str
    name: str
    image: str
    state: str
    health: str
    cpu_ratio: float | None = None
    memory_bytes: int | None = None


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """A host at a glance. Ratios are 0 to 1 of the whole machine; None where it is not known (yet)."""

    name: str
    kernel: str = ""
    cores: int = 0
    uptime_s: float | None = None
    cpu_ratio: float | None = None
    load1: float | None = None
    memory_used_ratio: float | None = None
    memory_total_bytes: int | None = None
    swap_used_ratio: float | None = None
    network_receive_bytes_per_s: float | None = None
    network_transmit_bytes_per_s: float | None = None
    disk_read_bytes_per_s: float | None = None
    disk_written_bytes_per_s: float | None = None
    filesystems: Sequence[FilesystemView] = ()
    processes: Sequence[ProcessView] = ()
    containers: Sequence[ContainerView] = ()
    collectors: Sequence[CollectorView] = ()
    pressure: Mapping[str, float] = {}


class HostsView(Protocol):
    def hosts(self) -> Sequence[HostView]: ...

    def host(self, name: str) -> HostView:
        """Raises: NotFound."""
        ...

    def metrics(self) -> Iterable[Family]:
        """Return what node_exporter would show."""
        ...
