"""The host metrics have node_exporter's names, types, help, labels and values: compared with the real one."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from dogwatch.core.clock import SystemClock
from dogwatch.core.metrics import render
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Entry, Runner
from dogwatch.hosts.section import HostSpec

PROGRAM = shutil.which("prometheus-node-exporter")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="prometheus-node-exporter is not installed")

# node_exporter's collectors that ours stand for.
COLLECTORS = (
    *(
        "conntrack",
        "cpu",
        "diskstats",
        "entropy",
        "filefd",
        "filesystem",
        "loadavg",
        "meminfo",
        "netclass",
        "netdev",
        "netstat",
    ),
    *("os", "pressure", "processes", "sockstat", "stat", "time", "uname", "vmstat"),
)
# Upstream's defaults, which are ours; Debian's leave out lo, and everything below /mnt and /run.
UPSTREAM = (
    "--collector.netdev.device-exclude=",
    (
        "--collector.filesystem.mount-points-exclude="
        r"^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)"
    ),
)
# What it has and we have not, each for a reason.
NOT_OURS = re.compile(
    r"go_.*|process_.*|promhttp_.*|node_exporter_build_info|node_scrape_collector_.*"
    # One file in /sys for each disk and each read of udev's database: it never changes.
    r"|node_disk_info|node_disk_filesystem_info|node_disk_device_mapper_info|node_disk_ata_.*"
    # Only netlink knows it.
    r"|node_network_receive_nohandler_total"
    # Reading some of them waits for the kernel's network lock; the others never change.
    r"|node_network_(address_assign_type|carrier|carrier_(up|down)_changes_total|device_id|dormant|flags|iface_.*|info"
    r"|name_assign_type|net_dev_group|protocol_type|speed_bytes)"
    # Needs every thread of every process.
    r"|node_processes_threads_state"
    # One read for each CPU.
    r"|node_nf_conntrack_stat_.*"
    # The zone of the program, and clock sources: neither is a measurement.
    r"|node_time_zone_offset_seconds|node_time_clocksource_.*"
)
# Values that another process may change between the two readings, by how much (share, plus a number).
MOVING = {
    "node_cpu": (0.05, 2.0),
    "node_load": (0.5, 3.0),
    "node_memory": (0.5, 256e6),
    "node_vmstat": (0.3, 500_000),
    "node_disk": (0.3, 200e6),
    "node_network": (0.3, 5e6),
    "node_netstat": (0.5, 5e6),
    "node_sockstat": (1.0, 1e8),
    "node_filefd_allocated": (0.5, 5000),
    "node_filesystem": (0.1, 500e6),
    "node_pressure": (0.2, 5.0),
    "node_time_seconds": (0.0, 10.0),
    "node_context_switches_total": (0.2, 1e6),
    "node_intr_total": (0.2, 1e6),
    "node_forks_total": (0.2, 5000),
    "node_procs": (1.0, 50),
    "node_processes_pids": (0.5, 200),
    "node_processes_threads": (0.5, 1000),
    "node_processes_state": (1.0, 500),
    "node_nf_conntrack_entries": (1.0, 10_000),
}
# Series that come and go with what runs: the states that processes happen to be in.
FLEETING = {"node_processes_state"}


@pytest.fixture(scope="module")
def theirs() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert PROGRAM
    flags = [f"--collector.{name}" for name in COLLECTORS]
    process = subprocess.Popen(
        [PROGRAM, f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults", *flags, *UPSTREAM],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield _scrape(f"http://127.0.0.1:{port}/metrics")
    finally:
        process.terminate()
        process.wait(60)


def _scrape(url: str) -> str:
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.05)  # it is starting
    pytest.fail("node_exporter did not start")


async def ours() -> str:
    machine = Machine()
    entries = {
        kind: Entry(collector, collector.open(machine), every_s=15.0)
        for kind, collector in HostSpec().enabled().items()
        if kind != "containers"
    }
    runner = Runner(SystemClock(), lambda _at, _entries: None)
    runner.replace(entries)
    runner.run_due()
    for entry in entries.values():
        while entry.task is not None:
            await asyncio.wait([entry.task])
    text = render(runner.families())
    for entry in entries.values():
        await entry.close()
    return text


def by_name(text: str) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def close_enough(name: str, mine: float, other: float) -> bool:
    key = next((prefix for prefix in sorted(MOVING, key=len, reverse=True) if name.startswith(prefix)), None)
    if key is None:
        return float(mine) == float(other)  # a large number is read as a whole one where no exponent says otherwise
    share, number = MOVING[key]
    return abs(mine - other) <= share * max(abs(mine), abs(other)) + number


async def test_names_types_help_labels_and_values_are_the_same(theirs: str) -> None:
    mine, peer = by_name(await ours()), by_name(theirs)
    wanted = {name: metric for name, metric in peer.items() if not NOT_OURS.fullmatch(_full(metric))}
    assert len(wanted) > 150, "node_exporter shows what it should"
    missing = sorted(wanted.keys() - mine.keys())
    assert not missing, f"node_exporter has them, we do not: {missing}"
    for name, metric in wanted.items():
        own = mine[name]
        assert own.type == metric.type, name
        assert own.documentation == metric.documentation, name
        if name in FLEETING:
            continue
        series = {(s.name, frozenset(s.labels.items())): s.value for s in own.samples}
        other = {(s.name, frozenset(s.labels.items())): s.value for s in metric.samples}
        assert series.keys() == other.keys(), name
        for key, value in other.items():
            assert close_enough(_full(metric), series[key], value), (key, series[key], value)


async def test_nothing_of_ours_takes_a_name_of_theirs_in_vain(theirs: str) -> None:
    """What we show under node_* exists there, too, or is one of the newer names listed here."""
    newer = {"node_netstat_TcpExt_TCPOFOQueue", "node_netstat_TcpExt_TCPRcvQDrop"}  # node_exporter 1.6 and 1.7
    mine, peer = by_name(await ours()), by_name(theirs)
    extra = {name for name in mine if name.startswith("node_")} - peer.keys() - newer
    assert not extra


def _full(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name
