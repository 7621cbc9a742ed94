"""What the rest of the program sees of this host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from dogwatch.core.metrics import Family


class CollectorView(msgspec.Struct, frozen=True, kw_only=True):
    """One collector as it is now. ok: its last run ended well and in time. message: why not, or what is missing."""

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
    state: str = ""


class FilesystemView(msgspec.Struct, frozen=True, kw_only=True):
    """One mounted filesystem. error: why it gives no numbers (it hangs, no permission); sizes are 0 then."""

    mountpoint: str
    device: str
    fstype: str
    size_bytes: int
    available_bytes: int
    used_ratio: float
    inodes_used_ratio: float | None = None
    error: str = ""


class ContainerView(msgspec.Struct, frozen=True, kw_only=True):
    container_id: str
    name: str
    image: str
    state: str
    health: str
    cpu_ratio: float | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    restarts: int | None = None
    network_receive_bytes_per_s: float | None = None
    network_transmit_bytes_per_s: float | None = None


class Glance(msgspec.Struct, kw_only=True):
    """What samplers know of a host. Ratios are 0 to 1 of the whole machine; None where it is not known (yet).

    pressure: share of time in which something waited, by resource: cpu, io, memory; io_full and memory_full where
    everything did.
    """

    kernel: str = ""
    os: str = ""
    cores: int = 0
    uptime_s: float | None = None
    cpu_ratio: float | None = None
    load1: float | None = None
    load5: float | None = None
    load15: float | None = None
    memory_used_ratio: float | None = None
    memory_total_bytes: int | None = None
    swap_used_ratio: float | None = None
    network_receive_bytes_per_s: float | None = None
    network_transmit_bytes_per_s: float | None = None
    disk_read_bytes_per_s: float | None = None
    disk_written_bytes_per_s: float | None = None
    filesystems: Sequence[FilesystemView] = ()
    processes: Sequence[ProcessView] = ()
    process_count: int | None = None
    containers: Sequence[ContainerView] = ()
    pressure: Mapping[str, float] = {}


class HostView(Glance, kw_only=True):
    """A host at a glance."""

    name: str
    collectors: Sequence[CollectorView] = ()


class HostsView(Protocol):
    def hosts(self) -> Sequence[HostView]: ...

    def host(self, name: str) -> HostView:
        """Raises: NotFound."""
        ...

    def metrics(self) -> Iterable[Family]:
        """Return what node_exporter would show."""
        ...
