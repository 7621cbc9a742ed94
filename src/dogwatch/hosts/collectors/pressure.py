"""Pressure stall information: how long work waited for CPU, memory and I/O."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family, series
from dogwatch.hosts.collector import Absent, Collector, CollectorError, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.rates import Rates
from dogwatch.hosts.view import Glance

_RESOURCES = ("cpu", "io", "memory")
_METRICS = {
    "cpu": Metric(
        "node_pressure_cpu_waiting_seconds_total",
        "counter",
        "Total time in seconds that processes have waited for CPU time",
    ),
    "io": Metric(
        "node_pressure_io_waiting_seconds_total",
        "counter",
        "Total time in seconds that processes have waited due to IO congestion",
    ),
    "io_full": Metric(
        "node_pressure_io_stalled_seconds_total",
        "counter",
        "Total time in seconds no process could make progress due to IO congestion",
    ),
    "memory": Metric(
        "node_pressure_memory_waiting_seconds_total",
        "counter",
        "Total time in seconds that processes have waited for memory",
    ),
    "memory_full": Metric(
        "node_pressure_memory_stalled_seconds_total",
        "counter",
        "Total time in seconds no process could make progress due to memory congestion",
    ),
}
_HISTORY = {
    key: series(
        "dogwatch_host_pressure_ratio",
        {"resource": key.removesuffix("_full"), "kind": "stalled" if key.endswith("_full") else "waiting"},
    )
    for key in _METRICS
}


class PressureCollector(Collector, frozen=True, kw_only=True):
    """How long work waited (some of it, or all of it) for CPU, memory and I/O. Kernels without PSI have none."""

    kind: ClassVar[str] = "pressure"
    metrics: ClassVar[tuple[Metric, ...]] = tuple(_METRICS.values())

    def open(self, machine: Machine) -> Sampler:
        return PressureSampler(machine)


class PressureSampler(Sampler):
    def __init__(self, machine: Machine) -> None:
        # File, key of what some waited for, key of what all waited for; the CPU has no meaning for the latter.
        self._files = [
            (machine.proc(f"pressure/{resource}"), resource, f"{resource}_full" if resource != "cpu" else "")
            for resource in _RESOURCES
        ]
        # In microseconds, as the kernel counts.
        self._waited: dict[str, tuple[float, ...]] = {}
        self._rates: Rates[str] = Rates()

    def sample(self, at: Moment, /) -> None:
        waited: dict[str, tuple[float, ...]] = {}
        try:
            for file, some, full in self._files:
                words = file.read().split(b"total=")
                if len(words) < (3 if full else 2) or not words[0].startswith(b"some "):
                    raise CollectorError(f"{file.path} has no totals")
                waited[some] = (int(words[1].partition(b"\n")[0]),)
                if full:
                    waited[full] = (int(words[2]),)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Absent("this kernel has no pressure files") from error
        except OSError as error:
            # Built in but switched off: opening succeeds, reading does not.
            if error.errno == errno.EOPNOTSUPP:
                raise Absent("pressure is switched off (psi=0)") from error
            raise
        self._waited = waited
        self._rates.update(at.monotonic_s, waited)

    def families(self) -> Iterator[Family]:
        for key, (micros,) in self._waited.items():
            yield single(_METRICS[key], micros / 1e6)

    def history(self) -> Iterator[tuple[str, float]]:
        for key, (rate,) in self._rates.by_key.items():
            yield _HISTORY[key], rate / 1e6

    def show(self, glance: Glance) -> None:
        glance.pressure = {key: min(rate / 1e6, 1.0) for key, (rate,) in self._rates.by_key.items()}

    def close(self) -> None:
        for file, _, _ in self._files:
            file.close()
