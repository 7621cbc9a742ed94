"""5,000 targets every 5 s on one core: how late attempts start, and whether any is skipped.

Run once with a kind that answers at once, which shows what the watch itself costs, and once with real HTTP probes, a
new connection each, against a loopback server on another core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import uvloop

from dogwatch.core.bus import Bus
from dogwatch.core.clock import SystemClock
from dogwatch.core.component import Registry
from dogwatch.core.metrics import render
from dogwatch.probes.engine import Engine
from dogwatch.probes.env import close_env, new_env
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.lateness import LatenessHistogram
from dogwatch.probes.probe import Attempt, Cancel, Done, Probe, ProbeResult
from dogwatch.probes.spec import ProbeSpec, probes_section
from dogwatch.probes.watch import Watch

NAME = "lateness"
TARGETS = 5000
EVERY_S = 5.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\nConnection: close\r\n\r\nall is ok"
EXPECT = 'status == 200 && body.contains("ok")'


class InstantProbe(Probe, frozen=True, kw_only=True):
    """Answers before launch returns."""

    kind: ClassVar[str] = "instant"
    variables: ClassVar[Mapping[str, str]] = {"status": "int", "body": "string"}

    def launch(self, attempt: Attempt, done: Done) -> Cancel:  # noqa: ARG002
        done(ProbeResult(success=True, duration_s=0.001, values={"status": 200, "body": "all is ok"}))
        return lambda: None


class Lateness(LatenessHistogram):
    """Keeps every value, too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def observe(self, seconds: float) -> None:
        self.seen.append(seconds)
        super().observe(seconds)


class CountingStore:
    """Counts what a store would be given."""

    def __init__(self) -> None:
        self.rows = self.failed = 0

    def add_result(self, row: Any) -> None:
        self.rows += 1
        self.failed += not row.success

    def add_successes(self, ended: Any) -> None:
        self.rows += len(ended.targets)

    def add_failure(self, failure: Any) -> None:
        """Counted with the row."""

    def add_state(self, state: Any) -> None:
        """Not part of this figure."""

    async def commit_transition(self, transition: Any, state: Any) -> None:
        """Not part of this figure."""

    async def states(self) -> dict[str, Any]:
        return {}

    async def flush(self) -> None:
        """Nothing is held."""


class Specs:
    def __init__(self, specs: list[ProbeSpec]) -> None:
        self._specs = specs

    def get(self, _section: Any) -> Any:
        return self._specs


class Served(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        self._transport.write(ANSWER)
        self._transport.close()


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Served, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def specs_of(kind: str, port: int) -> list[ProbeSpec]:
    def check(number: int) -> Probe:
        if kind == "http":
            return HttpProbe(url=f"http://127.0.0.1:{port}/{number}", expect=EXPECT)
        return InstantProbe(expect=EXPECT)

    return [ProbeSpec(name=f"target-{n}", check=check(n), every=EVERY_S, timeout=2.0) for n in range(TARGETS)]


async def measure(kind: str, port: int, seconds: float) -> dict[str, Any]:
    """Run the watch for a while; the first interval is not counted."""
    engine = Engine()
    engine.open()
    env = new_env(engine)
    store = CountingStore()
    registry: Registry[Probe] = Registry("probe", InstantProbe, *PROBES)
    watch = Watch(
        env=env,
        store=store,  # type: ignore[arg-type]
        bus=Bus(),
        clock=SystemClock(),
        section=probes_section(registry),
        concurrency=8000,
    )
    started_s = time.perf_counter()
    change = watch.prepare(Specs(specs_of(kind, port)))
    await change.start()
    change.swap()
    await change.finish()
    load_s = time.perf_counter() - started_s
    # As the daemon does after a configuration was applied: full collections need not walk what stays.
    gc.collect()
    gc.freeze()
    await asyncio.sleep(EVERY_S)
    late = watch.lateness = Lateness()
    cpu_s, rows, stalls = time.process_time(), store.rows, watch.schedule.stalls
    await asyncio.sleep(seconds)
    cpu_s = time.process_time() - cpu_s
    rows = store.rows - rows
    render(watch.metrics())  # makes the series' text
    longest_s = scrape_s = 0.0
    parts = []
    started_s = time.process_time()
    for family in watch.metrics():
        parts.append(render((family,)))
        held_s = time.process_time() - started_s
        longest_s, scrape_s, started_s = max(longest_s, held_s), scrape_s + held_s, time.process_time()
    text = "".join(parts)
    skipped = sum(target.skipped for target in watch.all.values())
    await watch.stop()
    await close_env(env)
    seen = sorted(late.seen)
    return {
        "kind": kind,
        "targets": TARGETS,
        "attempts": rows,
        "failed": store.failed,
        "skipped": skipped,
        "stalls": watch.schedule.stalls - stalls,
        "queued": watch.queued_total,
        "late_p50_ms": seen[len(seen) // 2] * 1000,
        "late_p99_ms": seen[int(len(seen) * 0.99)] * 1000,
        "late_max_ms": seen[-1] * 1000,
        "cpu_us_per_attempt": cpu_s / rows * 1e6,
        "core_ratio": cpu_s / seconds,
        "load_ms": load_s * 1000,
        "scrape_cpu_ms": scrape_s * 1000,
        "scrape_longest_family_ms": longest_s * 1000,
        "scrape_bytes": len(text),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def worker(kind: str, seconds: float) -> dict[str, Any]:
    """Run one measurement in a process of its own, on one core."""
    cores = sorted(os.sched_getaffinity(0))
    server = None
    port = 0
    if kind == "http":
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.lateness", "--serve", "--core", str(cores[-2 if len(cores) > 1 else -1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        port = int(server.stdout.readline())
    arguments = ["--core", str(cores[-1]), "--worker", kind, "--port", str(port), "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.lateness", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    if server is not None:
        server.communicate()
    return dict(json.loads(done.stdout))


def run(quick: bool) -> dict[str, Any]:
    seconds = 10.0 if quick else 30.0
    rows = [worker(kind, seconds) for kind in ("instant", "http")]
    targets = []
    for row in rows:
        late, lost = row["late_p99_ms"], row["skipped"] + row["stalls"]
        what = f"{TARGETS} {row['kind']} targets every {EVERY_S:g} s on one core"
        targets.append({"what": f"{what}: p99 lateness, ms", "target": 100, "measured": late, "met": late < 100})
        targets.append({"what": f"{what}: skipped or stalled", "target": 0, "measured": lost, "met": lost == 0})
    return {"name": NAME, "rows": rows, "targets": targets}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lateness", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=30.0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.serve:
        uvloop.run(serve())
    elif options.worker:
        print(json.dumps(uvloop.run(measure(options.worker, options.port, options.seconds))))
    else:
        print(json.dumps(run(options.quick), indent=2))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


if __name__ == "__main__":
    main()
