"""The values that rules may read: their names, types and meaning; and signals made of what the watch keeps.

Only what history keeps is here, so that a backtest reads what the live rules read, to the last digit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from dogwatch.core.values import Signal, Status, Transition, Value
from dogwatch.store.columns import quantise
from dogwatch.store.protocol import ResultRow


def in_order(values: Iterable[float]) -> float:
    """Return the sum of values, one added after the other: what `sum` rounds is another matter from Python 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


class Known(msgspec.Struct, frozen=True):
    """A value of signals. kind: its CEL type. series: what it is made of, for values of hosts; label: which of its
    labels an index chooses by (`host.filesystem_used_ratio["/data"]`). fold: what becomes of several series.
    """

    kind: str
    meaning: str
    series: str = ""
    label: str = ""
    fold: Callable[[Iterable[float]], float] = max


PROBE_NAMES: Mapping[str, Known] = {
    "probe.success": Known("bool", "Whether the newest attempt succeeded; over time 1 or 0."),
    "probe.status": Known("string", "pending, up, degraded, down, paused or maintenance."),
    "probe.reason": Known("string", "The short word for why it failed, as in metrics; empty where it succeeded."),
    "probe.duration_s": Known("double", "How long the attempt took."),
    "probe.resolve_s": Known("double", "Of that, looking the name up."),
    "probe.connect_s": Known("double", "Connecting."),
    "probe.tls_s": Known("double", "The TLS handshake."),
    "probe.first_byte_s": Known("double", "Waiting for the first byte."),
    "probe.transfer_s": Known("double", "Reading the answer."),
}
_HOST = (
    ("cpu_ratio", Known("double", "Share of all CPU time in use.", "dogwatch_host_cpu_ratio", "mode", in_order)),
    ("load1", Known("double", "Load average over 1 minute.", "node_load1")),
    ("load5", Known("double", "Load average over 5 minutes.", "node_load5")),
    ("load15", Known("double", "Load average over 15 minutes.", "node_load15")),
    ("memory_used_ratio", Known("double", "Share of memory in use.", "dogwatch_host_memory_used_ratio")),
    ("memory_available_bytes", Known("double", "Memory for programs.", "node_memory_MemAvailable_bytes")),
    ("swap_used_ratio", Known("double", "Share of swap in use.", "dogwatch_host_swap_used_ratio")),
    (
        "filesystem_used_ratio",
        Known("double", "The fullest file system.", "dogwatch_host_filesystem_used_ratio", "mountpoint"),
    ),
    (
        "filesystem_available_bytes",
        Known("double", "Free space where there is least.", "node_filesystem_avail_bytes", "mountpoint", min),
    ),
    (
        "inodes_used_ratio",
        Known("double", "File nodes in use, where most.", "dogwatch_host_filesystem_inodes_used_ratio", "mountpoint"),
    ),
    (
        "network_receive_bytes_per_s",
        Known("double", "Received by all devices.", "dogwatch_host_network_receive_bytes_per_s", "device", in_order),
    ),
    (
        "network_transmit_bytes_per_s",
        Known("double", "Sent by all devices.", "dogwatch_host_network_transmit_bytes_per_s", "device", in_order),
    ),
    (
        "disk_read_bytes_per_s",
        Known("double", "Read from all disks.", "dogwatch_host_disk_read_bytes_per_s", "device", in_order),
    ),
    (
        "disk_written_bytes_per_s",
        Known("double", "Written to all disks.", "dogwatch_host_disk_written_bytes_per_s", "device", in_order),
    ),
    ("pressure_ratio", Known("double", "The highest pressure.", "dogwatch_host_pressure_ratio", "resource")),
    ("processes", Known("double", "Number of processes.", "dogwatch_host_processes")),
    (
        "descriptors_used_ratio",
        Known("double", "Share of file descriptors in use.", "dogwatch_host_descriptors_used_ratio"),
    ),
)
HOST_NAMES: Mapping[str, Known] = {f"host.{name}": known for name, known in _HOST}
ALERT_NAMES: Mapping[str, Known] = {
    "alert.firing": Known("bool", "Whether others have an alert out about it, or about its host.", label="name"),
}
NAMES: Mapping[str, Known] = {**PROBE_NAMES, **HOST_NAMES, **ALERT_NAMES}
HOST_SERIES: tuple[str, ...] = tuple(known.series for _, known in _HOST)
_BY_SERIES = {known.series: (name, known) for name, known in HOST_NAMES.items()}
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def indexed(name: str, key: str) -> str:
    """Return the name of one series of a value: `host.filesystem_used_ratio["/data"]`."""
    return f'{name}["{key}"]'


@lru_cache(maxsize=10_000)
def values_of_series(series: str) -> tuple[str, ...]:
    """Return the names of the values that a series of a host's is a part of."""
    metric, _, labels = series.partition("{")
    if metric not in _BY_SERIES:
        return ()
    name, known = _BY_SERIES[metric]
    if not known.label:
        return (name,)
    key = dict(_LABEL.findall(labels)).get(known.label, "")
    return name, indexed(name, _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], key))


def host_values(samples: Iterable[tuple[str, float]]) -> dict[str, Value]:
    """Return the values that rules read of a host's samples, by series. What is no number is left out."""
    parts: dict[str, list[float]] = {}
    for series, value in samples:
        if math.isfinite(value):
            for name in values_of_series(series):
                parts.setdefault(name, []).append(value)
    # Sorted: floats added in another order are another sum.
    return {name: HOST_NAMES[name.partition("[")[0]].fold(sorted(values)) for name, values in parts.items()}


def host_signal(host: str, time_s: float, samples: Iterable[tuple[str, float]], labels: Mapping[str, str]) -> Signal:
    return Signal(
        source="host",
        target=host,
        time_s=round(time_s, 3),
        values=host_values(samples),
        labels={"host": host, **labels},
    )


def probe_signal(row: ResultRow, labels: Mapping[str, str]) -> Signal:
    """Return the signal of a result, made of what the store gives back for it."""
    kept = quantise(row)
    values: dict[str, Value] = {
        "probe.success": kept.success,
        "probe.status": Status(kept.status).word,
        "probe.reason": kept.reason,
        "probe.duration_s": kept.duration_s,
        "probe.resolve_s": kept.resolve_s,
        "probe.connect_s": kept.connect_s,
        "probe.tls_s": kept.tls_s,
        "probe.first_byte_s": kept.first_byte_s,
        "probe.transfer_s": kept.transfer_s,
    }
    return Signal(source="probe", target=row.target, time_s=kept.time_s, values=values, labels=labels)


def transition_signal(transition: Transition, labels: Mapping[str, str]) -> Signal:
    """Return the signal of a status that changed without a result: pause, resume, maintenance."""
    return Signal(
        source="probe",
        target=transition.target,
        time_s=round(transition.time_s, 3),
        values={"probe.status": transition.after.word},
        labels=labels,
    )


def by_time(signals: Sequence[Signal]) -> list[Signal]:
    """Return signals as both live rules and backtests take them: equal times in order of the target's name."""
    return sorted(signals, key=lambda signal: (signal.time_s, signal.target, signal.source))
