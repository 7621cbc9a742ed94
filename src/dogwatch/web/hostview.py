"""What templates are given of hosts: tiles with their last hour, and the page of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from dogwatch.hosts.view import CollectorView, FilesystemView, HostView
from dogwatch.store.protocol import SeriesPoints
from dogwatch.web.context import WebContext
from dogwatch.words import Phrase

_SPARK_S = 3600.0
_SPARK_LEAST_S = 300.0
_SPARK_POINTS = 120
SPARK_WIDTH = 120
SPARK_HEIGHT = 24
_CPU = "dogwatch_host_cpu_ratio"
_MEMORY = "dogwatch_host_memory_used_ratio"
_TILE_MOUNTS = 6
# A filesystem smaller than this is a kernel's or a container's fixture, and nobody watches it fill.
_MOUNT_LEAST_BYTES = 1024 * 1024


class ChartSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A chart of the host page. unit: ratio, bytes, rate or number. stack: series lie upon each other.

    rows: at most so many series, the largest first.
    """

    title: str
    metrics: tuple[str, ...]
    unit: str
    stack: bool = False
    rows: int = 6


CHARTS = (
    ChartSpec(title=Phrase("CPU"), metrics=(_CPU,), unit="ratio", stack=True, rows=8),
    ChartSpec(
        title=Phrase("Memory and swap in use"),
        metrics=(_MEMORY, "dogwatch_host_swap_used_ratio"),
        unit="ratio",
    ),
    ChartSpec(title=Phrase("Load"), metrics=("node_load1", "node_load5", "node_load15"), unit="number"),
    ChartSpec(title=Phrase("Filesystems in use"), metrics=("dogwatch_host_filesystem_used_ratio",), unit="ratio"),
    ChartSpec(
        title=Phrase("Network"),
        metrics=("dogwatch_host_network_receive_bytes_per_s", "dogwatch_host_network_transmit_bytes_per_s"),
        unit="rate",
    ),
    ChartSpec(
        title=Phrase("Disks"),
        metrics=("dogwatch_host_disk_read_bytes_per_s", "dogwatch_host_disk_written_bytes_per_s"),
        unit="rate",
    ),
    ChartSpec(
        title=Phrase("Stalled: time in which something waited"), metrics=("dogwatch_host_pressure_ratio",), unit="ratio"
    ),
    ChartSpec(title=Phrase("Processes"), metrics=("dogwatch_host_processes",), unit="number"),
)

# What collects, by the names that the configuration has.
COLLECTORS = {
    "cpu": Phrase("CPU"),
    "load": Phrase("Load"),
    "memory": Phrase("Memory"),
    "disk_io": Phrase("Disks"),
    "filesystem": Phrase("Filesystems"),
    "network": Phrase("Network"),
    "links": Phrase("Network links"),
    "sockets": Phrase("Sockets"),
    "pressure": Phrase("Stalls"),
    "descriptors": Phrase("Descriptors"),
    "processes": Phrase("Processes"),
    "uptime": Phrase("Uptime"),
    "system": Phrase("System"),
    "kernel": Phrase("Kernel"),
    "containers": Phrase("Containers"),
}
# What a host can be stalled on.
RESOURCES = {"cpu": Phrase("CPU"), "io": Phrase("disks"), "memory": Phrase("memory"), "irq": Phrase("interrupts")}

# What hosts are compared by: measures that a host has one of. (title, metric, unit)
COMPARED = (
    (Phrase("CPU"), _CPU, "ratio"),
    (Phrase("Memory in use"), _MEMORY, "ratio"),
    (Phrase("Load"), "node_load1", "number"),
    (Phrase("Network in"), "dogwatch_host_network_receive_bytes_per_s", "rate"),
    (Phrase("Network out"), "dogwatch_host_network_transmit_bytes_per_s", "rate"),
    (Phrase("Disk written"), "dogwatch_host_disk_written_bytes_per_s", "rate"),
)


class Spark(msgspec.Struct, frozen=True, kw_only=True):
    """A small picture of a ratio over time. line: SVG path of it; area: of what is below. label: in words."""

    line: str
    area: str
    label: str


class HostTile(msgspec.Struct, frozen=True, kw_only=True):
    """more_mounts: filesystems that the tile leaves out. failing: collectors that do not work."""

    host: HostView
    filesystems: Sequence[FilesystemView]
    more_mounts: int
    failing: Sequence[CollectorView]
    cpu: Spark | None
    memory: Spark | None


def spark(points: Sequence[tuple[float, float]], until_s: float, what: str) -> Spark | None:
    """Return the picture of (time, ratio) pairs, oldest first; None for fewer than two.

    It begins with the first of them, so that a young history fills its width.
    """
    known = [(time_s, min(max(ratio, 0.0), 1.0)) for time_s, ratio in points if math.isfinite(ratio)]
    if len(known) < 2:
        return None
    begin_s = min(known[0][0], until_s - _SPARK_LEAST_S)
    width_s = max(until_s - begin_s, 1.0)
    places = [
        (f"{(time_s - begin_s) / width_s * SPARK_WIDTH:.1f}", f"{(1 - ratio) * SPARK_HEIGHT:.1f}")
        for time_s, ratio in known
    ]
    line = "M" + "L".join(f"{x} {y}" for x, y in places)
    ratios = [ratio for _time_s, ratio in known]
    return Spark(
        line=line,
        area=f"{line}V{SPARK_HEIGHT}H{places[0][0]}Z",
        label=Phrase(
            "{0} in the last {1} min: {2} to {3} %",
            what,
            max(1, round((until_s - known[0][0]) / 60)),
            f"{min(ratios) * 100:.0f}",
            f"{max(ratios) * 100:.0f}",
        ),
    )


def summed(series: Sequence[SeriesPoints]) -> list[tuple[float, float]]:
    """Return the sum of series at each time, oldest first; where one has no value the others count."""
    sums: dict[float, float] = {}
    for one in series:
        for time_s, value in one.points:
            if math.isfinite(value):
                sums[time_s] = sums.get(time_s, 0.0) + value
    return sorted(sums.items())


def shown_mounts(host: HostView) -> list[FilesystemView]:
    """Return the filesystems worth a look, those that do not answer and the fullest first."""
    worth = [one for one in host.filesystems if one.error or one.size_bytes >= _MOUNT_LEAST_BYTES]
    return sorted(worth, key=lambda one: (not one.error, -one.used_ratio))


async def tile(ctx: WebContext, host: HostView) -> HostTile:
    cpu, memory = await _sparks(ctx, host.name)
    mounts = shown_mounts(host)
    return HostTile(
        host=host,
        filesystems=mounts[:_TILE_MOUNTS],
        more_mounts=max(0, len(mounts) - _TILE_MOUNTS),
        failing=[one for one in host.collectors if not one.ok],
        cpu=cpu,
        memory=memory,
    )


async def tiles(ctx: WebContext) -> list[HostTile]:
    return [await tile(ctx, host) for host in ctx.services.hosts.hosts()]


async def _sparks(ctx: WebContext, name: str) -> tuple[Spark | None, Spark | None]:
    until_s = ctx.services.clock.now_s()
    found = await ctx.host_series(name, (_CPU, _MEMORY), since_s=until_s - _SPARK_S, points=_SPARK_POINTS)
    cpu = summed([one for one in found if one.series.startswith(_CPU) and "iowait" not in one.series])
    memory = summed([one for one in found if one.series.startswith(_MEMORY)])
    return spark(cpu, until_s, Phrase("CPU")), spark(memory, until_s, Phrase("Memory"))
