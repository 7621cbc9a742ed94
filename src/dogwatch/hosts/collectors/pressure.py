"""Pressure stall information: how long work waited for CPU, memory and I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family, series
from dogwatch.hosts.collector import Absent, Collector, CollectorError, Glance, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.rates import Rates

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
_FULL = {resource: f"{resource}_full" for resource in _RESOURCES}
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
        self._files = {resource: machine.proc(f"pressure/{resource}") for resource in _RESOURCES}
        self._waited_s: dict[str, tuple[float, ...]] = {}
        self._rates: Rates[str] = Rates()

    def sample(self, at: Moment, /) -> None:
        waited: dict[str, tuple[float, ...]] = {}
        for resource, file in self._files.items():
            try:
                raw = file.read()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise Absent("this kernel has no pressure files") from error
            except OSError as error:
                # Built in but switched off (psi=0): opening succeeds, reading does not.
                if error.errno == 95:  # EOPNOTSUPP
                    raise Absent("pressure is switched off (psi=0)") from error
                raise
            words = raw.split(b"total=")
            if len(words) < 2 or not raw.startswith(b"some ") or (resource != "cpu" and len(words) < 3):
                raise CollectorError(f"{file.path} has no totals")
            waited[resource] = (int(words[1].partition(b"\n")[0]) / 1e6,)
            if resource != "cpu":
                # Kernels before 5.13 have no such line for the CPU, and later ones no meaning for it.
                waited[_FULL[resource]] = (int(words[2]) / 1e6,)
        self._waited_s = waited
        self._rates.update(at.monotonic_s, waited)

    def families(self) -> Iterator[Family]:
        for key, (seconds,) in self._waited_s.items():
            yield single(_METRICS[key], seconds)

    def history(self) -> Iterator[tuple[str, float]]:
        for key, (rate,) in self._rates.by_key.items():
            yield _HISTORY[key], rate

    def show(self, glance: Glance) -> None:
        glance.pressure = {key: min(rate, 1.0) for key, (rate,) in self._rates.by_key.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()
