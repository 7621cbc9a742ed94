"""Which series of a host are kept in the store: few enough that a year of a thousand hosts fits, and no more.

node_exporter's full set is some 700 series a host; a Prometheus that scrapes `/metrics` keeps those.
"""

from __future__ import annotations

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """One metric that is kept. labels: one series for each value of them."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


# Devices and mounts beyond these are shown, and exposed to Prometheus, but have no history of their own.
MAX_DEVICES = 32
MAX_MOUNTS = 64

KEPT = (
    Kept("dogwatch_host_cpu_ratio", "Share of all CPU time in a mode, idle left out.", ("mode",)),
    Kept("node_load1", "Load average over 1 minute."),
    Kept("node_load5", "Load average over 5 minutes."),
    Kept("node_load15", "Load average over 15 minutes."),
    Kept("dogwatch_host_memory_used_ratio", "Share of memory that is not available to programs."),
    Kept("node_memory_MemAvailable_bytes", "Memory available to programs without swapping."),
    Kept("dogwatch_host_swap_used_ratio", "Share of swap in use; 0 where there is none."),
    Kept("dogwatch_host_filesystem_used_ratio", "Used space as df shows it.", ("mountpoint",)),
    Kept("node_filesystem_avail_bytes", "Space available to non-root users.", ("mountpoint",)),
    Kept("dogwatch_host_filesystem_inodes_used_ratio", "Share of file nodes in use.", ("mountpoint",)),
    Kept("dogwatch_host_network_receive_bytes_per_s", "Bytes received in a second.", ("device",)),
    Kept("dogwatch_host_network_transmit_bytes_per_s", "Bytes sent in a second.", ("device",)),
    Kept("dogwatch_host_disk_read_bytes_per_s", "Bytes read in a second.", ("device",)),
    Kept("dogwatch_host_disk_written_bytes_per_s", "Bytes written in a second.", ("device",)),
    Kept("dogwatch_host_pressure_ratio", "Share of time in which something waited.", ("resource", "kind")),
    Kept("dogwatch_host_processes", "Number of processes."),
    Kept("dogwatch_host_descriptors_used_ratio", "Share of the system's file descriptors in use."),
)
