"""Every collector, one file each, and the list of them.

Belongs here: what reads one thing of the machine. Does not: when that happens and what becomes of it (runner.py).
"""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.hosts.collector import Collector
from dogwatch.hosts.collectors.containers import ContainersCollector
from dogwatch.hosts.collectors.cpu import CpuCollector
from dogwatch.hosts.collectors.descriptors import DescriptorsCollector
from dogwatch.hosts.collectors.disk_io import DiskIoCollector
from dogwatch.hosts.collectors.filesystem import FilesystemCollector
from dogwatch.hosts.collectors.kernel import KernelCollector
from dogwatch.hosts.collectors.links import LinksCollector
from dogwatch.hosts.collectors.load import LoadCollector
from dogwatch.hosts.collectors.memory import MemoryCollector
from dogwatch.hosts.collectors.network import NetworkCollector
from dogwatch.hosts.collectors.pressure import PressureCollector
from dogwatch.hosts.collectors.processes import ProcessesCollector
from dogwatch.hosts.collectors.sockets import SocketsCollector
from dogwatch.hosts.collectors.system import SystemCollector
from dogwatch.hosts.collectors.uptime import UptimeCollector

COLLECTORS: Registry[Collector] = Registry(
    "collector",
    CpuCollector,
    LoadCollector,
    MemoryCollector,
    DiskIoCollector,
    FilesystemCollector,
    NetworkCollector,
    LinksCollector,
    SocketsCollector,
    PressureCollector,
    DescriptorsCollector,
    ProcessesCollector,
    UptimeCollector,
    SystemCollector,
    KernelCollector,
    ContainersCollector,
)
