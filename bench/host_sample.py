"""What a sample of all host metrics costs, against psutil; and what 1,200 processes cost."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from dogwatch.core.metrics import render
from dogwatch.hosts.collector import Moment, Sampler
from dogwatch.hosts.collectors import COLLECTORS
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Runner
from dogwatch.hosts.section import HostSpec

NAME = "host_sample"

# What psutil gives, too; sockets (protocol counters) and kernel (entropy, connection tracking) it has not.
_COMMON = ("cpu", "load", "memory", "disk_io", "network", "filesystem", "pressure", "uptime", "descriptors")
_PROCESSES = 1200


def _psutil_sample() -> None:
    import psutil

    psutil.cpu_times(percpu=True)
    psutil.cpu_stats()
    psutil.virtual_memory()
    psutil.swap_memory()
    psutil.disk_io_counters(perdisk=True)
    psutil.net_io_counters(pernic=True)
    psutil.disk_usage("/")
    psutil.getloadavg()
    psutil.boot_time()


def _psutil_processes() -> None:
    import psutil

    for process in psutil.process_iter(["cpu_times", "memory_info", "num_threads", "status", "name"]):
        process.info["name"]


def _cpu_us(function: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - started) / times * 1e6


def _sampler_call(samplers: list[Sampler]) -> Callable[[], None]:
    def sample() -> None:
        at = Moment(time.time(), time.monotonic())
        for sampler in samplers:
            pending = sampler.sample(at)
            if pending is not None:
                asyncio.run(pending)  # a machine with remote mounts, or many processes

    return sample


def _open(kinds: tuple[str, ...]) -> list[Sampler]:
    machine = Machine()
    return [COLLECTORS.get(kind)().open(machine) for kind in kinds]


def _decode(samplers: list[Sampler]) -> Callable[[], None]:
    sample = _sampler_call(samplers)

    def both() -> None:
        sample()
        render(family for sampler in samplers for family in sampler.families())

    return both


def _processes(quick: bool) -> dict[str, float]:
    """Return milliseconds of CPU for a sample of some 1,200 processes."""
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(_PROCESSES)]
    try:
        sampler = COLLECTORS.get("processes")().open(Machine())

        async def ours() -> None:
            pending = sampler.sample(Moment(time.time(), time.monotonic()))
            if pending is not None:
                await pending

        with asyncio.Runner() as runner:
            runner.run(ours())
            mine, theirs = [], []
            for _ in range(3 if quick else 10):
                mine.append(_cpu_us(lambda: runner.run(ours()), 3))
                theirs.append(_cpu_us(_psutil_processes, 1))
        sampler.close()
    finally:
        for sleeper in sleepers:
            sleeper.kill()
        for sleeper in sleepers:
            sleeper.wait()
    return {"dogwatch_ms": statistics.median(mine) / 1e3, "psutil_ms": statistics.median(theirs) / 1e3}


_MEMORY = """
import json, sys
def resident():
    with open('/proc/self/statm') as f: return int(f.read().split()[1]) * 4096
before = resident()
import {module}
print(json.dumps(resident() - before))
"""


def _import_bytes(module: str) -> int:
    """Return how much resident memory an import adds to a bare interpreter."""
    text = _MEMORY.format(module=module)
    return int(json.loads(subprocess.run([sys.executable, "-c", text], capture_output=True, check=True).stdout))


def run(quick: bool) -> dict[str, object]:
    """Measure both alternately; figures are medians of rounds, CPU time of this process."""
    rounds, times = (5, 200) if quick else (15, 1000)
    common, everything = _open(_COMMON), _open((*_COMMON, "links", "sockets", "kernel"))
    calls: dict[str, Callable[[], object]] = {
        "psutil": _psutil_sample,
        "dogwatch": _sampler_call(common),
        "dogwatch, with text for a scrape": _decode(common),
        "dogwatch, with links, sockets and kernel": _sampler_call(everything),
    }
    calls |= {
        f"dogwatch: {sampler_name}": _sampler_call([sampler])
        for sampler_name, sampler in zip(_COMMON, common, strict=True)
    }
    figures: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            figures[name].append(_cpu_us(call, times))
    medians = {name: round(statistics.median(values), 1) for name, values in figures.items()}
    for sampler in common + everything:
        sampler.close()
    processes = _processes(quick)
    rows: list[dict[str, object]] = [{"what": name, "cpu_us_per_sample": value} for name, value in medians.items()]
    rows.append({"what": f"{_PROCESSES} processes", **{key: round(value, 2) for key, value in processes.items()}})
    rows.append(
        {
            "what": "resident bytes that an import adds",
            "dogwatch.hosts.hosts": _import_bytes("dogwatch.hosts.hosts"),
            "psutil": _import_bytes("psutil"),
        }
    )
    rows.append({"what": "a tick of the runner, history included", "cpu_us": round(_tick_us(times), 1)})
    return {
        "name": NAME,
        "rows": rows,
        "targets": [
            {
                "what": "all host metrics, CPU µs a sample",
                "target": 80,
                "measured": medians["dogwatch"],
                "met": medians["dogwatch"] <= 80,
            },
            _ratio("all host metrics, CPU against psutil", 80 / 169, medians["dogwatch"], medians["psutil"]),
            _ratio(
                f"{_PROCESSES} processes, CPU against psutil", 0.15, processes["dogwatch_ms"], processes["psutil_ms"]
            ),
        ],
    }


def _ratio(what: str, target: float, ours: float, theirs: float) -> dict[str, object]:
    return {
        "what": what,
        "target": round(target, 3),
        "measured": round(ours / theirs, 3),
        "met": ours / theirs <= target,
    }


def _tick_us(times: int) -> float:
    """Return what one tick costs with the runner's own work: the schedule, the history, the records."""
    from dogwatch.core.clock import ManualClock
    from dogwatch.hosts.runner import Entry

    clock = ManualClock()
    machine = Machine()
    spec = HostSpec()
    runner = Runner(clock, lambda _at, entries: runner.history(entries) and None)
    chosen = {kind: collector for kind, collector in spec.enabled().items() if kind in _COMMON}
    entries = {kind: Entry(collector, collector.open(machine), every_s=15.0) for kind, collector in chosen.items()}
    runner.replace(entries)

    def tick() -> None:
        clock.advance(15)
        runner.run_due()

    try:
        tick()
        return _cpu_us(tick, times)
    finally:
        for entry in entries.values():
            entry.sampler.close()


if __name__ == "__main__":
    print(f"process {os.getpid()}", file=sys.stderr)
    print(json.dumps(run("--quick" in sys.argv), indent=2))
