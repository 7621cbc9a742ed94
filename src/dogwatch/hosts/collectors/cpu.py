"""CPU time by mode, and the totals that /proc/stat holds beside it."""

from __future__ import annotations

from collections.abc import Iterator
from operator import lt
from typing import ClassVar

from dogwatch.core.metrics import Family, series
from dogwatch.hosts.collector import Collector, CollectorError, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.view import Glance

MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_GUEST_MODES = ("user", "nice")
_SECONDS = Metric("node_cpu_seconds_total", "counter", "Seconds the CPUs spent in each mode.", ("cpu", "mode"))
_GUEST = Metric(
    "node_cpu_guest_seconds_total",
    "counter",
    "Seconds the CPUs spent in guests (VMs) for each mode.",
    ("cpu", "mode"),
)
_TOTALS = {
    b"intr": Metric("node_intr_total", "counter", "Total number of interrupts serviced."),
    b"ctxt": Metric("node_context_switches_total", "counter", "Total number of context switches."),
    b"btime": Metric("node_boot_time_seconds", "gauge", "Node boot time, in unixtime."),
    b"processes": Metric("node_forks_total", "counter", "Total number of forks."),
    b"procs_running": Metric("node_procs_running", "gauge", "Number of processes in runnable state."),
    b"procs_blocked": Metric("node_procs_blocked", "gauge", "Number of processes blocked waiting for I/O to complete."),
}
# Idle and iowait may step back a little (the kernel documents it); more than this is a CPU that was taken out.
_STEP_BACK_S = 3.0
_HISTORY = tuple((mode, series("dogwatch_host_cpu_ratio", {"mode": mode})) for mode in MODES if mode != "idle")


class CpuCollector(Collector, frozen=True, kw_only=True):
    """CPU time by CPU and mode; context switches, interrupts, forks, boot time, runnable and blocked processes."""

    kind: ClassVar[str] = "cpu"
    metrics: ClassVar[tuple[Metric, ...]] = (_SECONDS, _GUEST, *_TOTALS.values())

    def open(self, machine: Machine) -> Sampler:
        return CpuSampler(machine)


class CpuSampler(Sampler):
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._file = machine.proc("stat")
        self._raw = b""
        self._before: list[bytes] = []
        self._now: list[bytes] = []
        self._ratios: dict[str, float] | None = None
        self._cpus: dict[bytes, list[float]] = {}
        self._texts: dict[bytes, tuple[str, ...]] = {}
        self._decoded = b""
        self._cores = 0

    def sample(self, _at: Moment, /) -> None:
        raw = self._file.read()
        end = raw.find(b"\n")
        if not raw.startswith(b"cpu ") or end < 0:
            raise CollectorError(f"{self._file.path} does not begin with a cpu line")
        words = raw[4:end].split()
        if len(words) < 4:
            raise CollectorError(f"{self._file.path} has {len(words)} CPU modes")
        self._before, self._now, self._ratios = self._now, words[:8], None
        self._raw = raw
        self._cores = self._machine.cores = raw.count(b"\ncpu")

    def _shares(self) -> dict[str, float]:
        """Return the share of each mode between the last two samples; none before there are two."""
        if self._ratios is None:
            self._ratios = {}
            if len(self._before) == len(self._now):
                # A mode that stepped back counts as nothing; a reset of all leaves no elapsed time and no ratio.
                grown = [max(int(new) - int(old), 0) for new, old in zip(self._now, self._before, strict=True)]
                elapsed = sum(grown)
                if elapsed:
                    self._ratios = {mode: ticks / elapsed for mode, ticks in zip(MODES, grown, strict=False)}
        return self._ratios

    def families(self) -> Iterator[Family]:
        if not self._raw:
            return
        if self._decoded is not self._raw:
            self._decode(self._raw)
        yield Family(_SECONDS.name, _SECONDS.kind, _SECONDS.help, self._pairs(0, 8))
        yield Family(_GUEST.name, _GUEST.kind, _GUEST.help, self._pairs(8, 10))
        yield from self._totals(self._raw)

    def _pairs(self, start: int, stop: int) -> list[tuple[str, float]]:
        texts = self._texts
        return [
            pair
            for cpu, row in self._cpus.items()
            for pair in zip(texts[cpu][start:stop], row[start:stop], strict=False)
        ]

    def _decode(self, raw: bytes) -> None:
        ticks = self._machine.ticks_per_s
        cpus: dict[bytes, list[float]] = {}
        start = raw.find(b"\ncpu") + 1
        while start > 0 and raw.startswith(b"cpu", start):
            end = raw.find(b"\n", start)
            if end < 0:
                end = len(raw)
            name, *words = raw[start:end].split()
            cpu = name[3:]
            cpus[cpu] = self._forward(cpu, [int(word) / ticks for word in words[:10]])
            start = end + 1
        if self._texts.keys() != cpus.keys():
            self._texts = {cpu: self._texts.get(cpu) or _text(cpu.decode("ascii")) for cpu in cpus}
        self._cpus = cpus
        self._decoded = raw

    def _forward(self, cpu: bytes, new: list[float]) -> list[float]:
        """Return the values so that none goes backwards, unless the CPU was taken out and came back."""
        old = self._cpus.get(cpu)
        if old is None or not any(map(lt, new, old)):
            return new
        if old[3] - new[3] > _STEP_BACK_S:
            return new
        return [max(pair) for pair in zip(new, old, strict=False)]

    @staticmethod
    def _totals(raw: bytes) -> Iterator[Family]:
        for key, metric in _TOTALS.items():
            start = raw.find(b"\n" + key + b" ")
            if start < 0:
                continue
            start += len(key) + 2
            # The intr line has a number for each interrupt; only its first, the total, is wanted.
            word = raw[start : start + 24].split(maxsplit=1)[0]
            yield single(metric, int(word))

    def history(self) -> Iterator[tuple[str, float]]:
        shares = self._shares()
        for mode, text in _HISTORY:
            if mode in shares:
                yield text, shares[mode]

    def show(self, glance: Glance) -> None:
        glance.cores = self._cores
        shares = self._shares()
        if shares:
            glance.cpu_ratio = max(0.0, 1.0 - shares.get("idle", 0.0) - shares.get("iowait", 0.0))

    def close(self) -> None:
        self._file.close()


def _text(cpu: str) -> tuple[str, ...]:
    seconds = tuple(series(_SECONDS.name, {"cpu": cpu, "mode": mode}) for mode in MODES)
    return seconds + tuple(series(_GUEST.name, {"cpu": cpu, "mode": mode}) for mode in _GUEST_MODES)
