"""CPU per HTTP probe: our engine, a Go worker pool (net/http, httptrace, GOMAXPROCS=1) and blackbox_exporter.

Every client probes the same load server (bench/go, a separate process that is not measured), takes every phase,
matches the body, has a deadline of 5 s and keeps a record. Runs alternate; a ratio is that of neighbouring runs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from dogwatch.daemon.compiled import activate, status

if __name__ == "__main__" and "--interpreted" not in sys.argv:
    activate()  # as `dogwatch up` does, before anything else is imported

from dogwatch.probes.engine import Engine, EngineOptions
from dogwatch.probes.kinds.http import HttpProbe, TlsOptions
from dogwatch.probes.probe import Attempt, ProbeEnv, ProbeResult

NAME = "http_probes"
HERE = Path(__file__).parent
BINARY = HERE / "bin" / "httpprobes"
WANTS = frozenset({"status", "body"})
EXPECT = re.compile(r'"status":\s*"ok"')
TIMEOUT_S = 5.0


# -- our side: one process per run, so that nothing of the bench itself is counted ------------------------------


class Load:
    """Keeps `workers` attempts in flight until `count` have ended; what the watch does is a trivial stand-in."""

    def __init__(self, env: ProbeEnv, probe: HttpProbe, targets: int) -> None:
        self.env = env
        self.probes = [(probe, dict[str, Any]()) for _ in range(targets)]
        self.records: deque[tuple[float, float, bool]] = deque(maxlen=4096)
        self.failed = 0
        self._next = 0
        self._left = 0
        self._running = 0
        self._ended: asyncio.Future[None] | None = None

    async def run(self, count: int, workers: int) -> None:
        self.failed = 0
        self._left = count
        self._ended = asyncio.get_running_loop().create_future()
        for _ in range(min(count, workers)):
            self._launch()
        await self._ended

    def _launch(self) -> None:
        self._left -= 1
        self._running += 1
        probe, memory = self.probes[self._next]
        self._next = (self._next + 1) % len(self.probes)
        attempt = Attempt(target="bench", timeout_s=TIMEOUT_S, env=self.env, wants=WANTS, memory=memory)
        probe.launch(attempt, self._done)

    def _done(self, result: ProbeResult) -> None:
        values = result.values
        good = result.success and values["status"] == 200 and EXPECT.search(values["body"]) is not None
        self.records.append((time.time(), result.duration_s, good))
        self.failed += not good
        self._running -= 1
        if self._left:
            self._launch()
        elif not self._running and self._ended is not None:
            self._ended.set_result(None)


async def engine_load(options: argparse.Namespace) -> Any:
    """The engine and HttpProbe.launch, with a trivial expectation."""
    env = ProbeEnv(engine=Engine(EngineOptions(tls=options.provider)), tasks=set(), extra={})
    env.engine.open()
    return Load(env, probe_of(options), options.workers)


async def full_load(options: argparse.Namespace) -> Any:
    """The whole watch: scheduling, expectation, state, history, metrics. What the targets speak of."""
    from bench.watch_load import watch_load

    return await watch_load(probe_of(options), options.workers, options.provider)


async def bare_load(options: argparse.Namespace) -> Any:
    """The floor: a bare loop in Python, without anything around it."""
    from bench.bare_load import BareLoad

    return BareLoad(options.url, keep_alive=options.keep_alive)


LOADS: dict[str, Callable[[argparse.Namespace], Any]] = {"engine": engine_load, "full": full_load, "bare": bare_load}


def probe_of(options: argparse.Namespace) -> HttpProbe:
    return HttpProbe(
        url=options.url,
        keep_alive=options.keep_alive,
        tls=TlsOptions(ca_file=options.ca),
        full_handshake_every=0.0 if options.full_handshakes else 300.0,
    )


def client(options: argparse.Namespace) -> None:
    """Run one measured load and print its figures as JSON."""

    async def work() -> None:
        load = await LOADS[options.mode](options)
        await load.run(options.workers * 2, options.workers)
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF)
        started_s = time.perf_counter()
        await load.run(options.count, options.workers)
        wall_s = time.perf_counter() - started_s
        after = resource.getrusage(resource.RUSAGE_SELF)
        used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        figures = {
            "cpu_us": used_s * 1e6 / options.count,
            "user_us": (after.ru_utime - before.ru_utime) * 1e6 / options.count,
            "wall_s": wall_s,
            "failed": load.failed,
            "rss_mib": after.ru_maxrss / 1024,
            "modules": status(),
        }
        print(json.dumps(figures))

    uvloop.run(work())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def silent(options: argparse.Namespace) -> None:
    """Start probes at a listener that never answers; print when each ended and how many descriptors stayed."""

    async def work() -> None:
        env = ProbeEnv(engine=Engine(), tasks=set(), extra={})
        env.engine.open()
        ends: list[float] = []
        ended = asyncio.get_running_loop().create_future()
        before = open_descriptors()
        # Built before, as a watch builds them when it reads its configuration.
        probes = [HttpProbe(url=options.url) for _ in range(options.count)]
        started_s = time.perf_counter()

        def done(result: ProbeResult) -> None:
            assert result.reason == "timeout", result
            ends.append(time.perf_counter() - started_s)
            if len(ends) == options.count:
                ended.set_result(None)

        for probe in probes:
            probe.launch(Attempt(target="silent", timeout_s=1.0, env=env, memory={}), done)
        await ended
        left = open_descriptors() - before
        env.engine.close()
        print(json.dumps({"first_s": min(ends), "worst_s": max(ends), "descriptors_left": left}))

    uvloop.run(work())


# -- the runs ---------------------------------------------------------------------------------------------------


def build_go() -> str:
    """Build the Go reference; return why it cannot be, or ""."""
    go = shutil.which("go") or ("/usr/local/go/bin/go" if Path("/usr/local/go/bin/go").exists() else None)
    if go is None:
        return "no go on this machine"
    BINARY.parent.mkdir(exist_ok=True)
    built = subprocess.run(
        [go, "build", "-o", str(BINARY), "."], check=False, cwd=HERE / "go", capture_output=True, text=True
    )
    return "" if built.returncode == 0 else f"go build failed: {built.stderr[:300]}"


@contextmanager
def server(directory: str) -> Iterator[dict[str, int]]:
    command = [str(BINARY), "serve", "-dir", directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def blackbox(directory: str) -> Iterator[tuple[int, str] | None]:
    """Yield (process id, /probe URL) of Debian's blackbox_exporter, None where it is not installed."""
    program = shutil.which("prometheus-blackbox-exporter")
    if program is None:
        yield None
        return
    config = Path(directory) / "blackbox.yml"
    config.write_text(
        "modules:\n  ok:\n    prober: http\n    timeout: 5s\n    http:\n      preferred_ip_protocol: ip4\n"
        f"      tls_config: {{ca_file: {directory}/ca.pem}}\n"
        '      fail_if_body_not_matches_regexp: [\'"status":\\s*"ok"\']\n'
    )
    address = "127.0.0.1:19115"
    command = [program, f"--config.file={config}", f"--web.listen-address={address}", "--log.level=error"]
    environment = {**os.environ, "GOMAXPROCS": "1"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as process:
        try:
            for _ in range(100):
                try:
                    with urllib.request.urlopen(f"http://{address}/-/healthy"):
                        break
                except OSError:
                    time.sleep(0.05)
            yield process.pid, f"http://{address}/probe?module=ok&target="
        finally:
            process.terminate()


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def output_of(command: list[str], **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **environment}, cwd=HERE.parent
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    if figures.get("failed"):
        raise RuntimeError(f"{command}: {figures['failed']} probes failed")
    return figures


class Case:
    """One comparison: what we run, what Go runs, how often."""

    def __init__(
        self, name: str, scheme: str, workers: int, count: int, ours: list[str], go: list[str], path: str = ""
    ) -> None:
        self.name = name
        self.scheme = scheme
        self.workers = workers
        self.count = count
        self.ours = ours
        self.go = go
        self.path = path


def cases(quick: bool) -> list[Case]:
    n = 4000 if quick else 15000
    t = 1500 if quick else 4000
    found = []
    for workers in (50, 500):
        found += [
            Case(f"plain, new connection, c={workers}", "plain", workers, n, [], []),
            Case(f"keep-alive, c={workers}", "plain", workers, n * 2, ["--keep-alive"], ["-keep-alive"]),
            Case(f"HTTPS, default policy, c={workers}", "tls", workers, t, [], []),
            Case(f"HTTPS, full handshakes, c={workers}", "tls", workers, t, ["--full-handshakes"], []),
        ]
    # What explains the others, where it shows most.
    standard, x25519 = ["--provider", "standard"], ["-x25519"]
    changing = "keep-alive, answers change, c=50"
    return [
        *found,
        Case("HTTPS, default policy, standard ssl, c=50", "tls", 50, t, standard, []),
        Case("HTTPS, full handshakes, both X25519 only, c=50", "tls", 50, t, ["--full-handshakes"], x25519),
        Case(changing, "plain", 50, n * 2, ["--keep-alive"], ["-keep-alive"], "changing"),
    ]


def compare(case: Case, ports: dict[str, int], directory: str, rounds: int) -> dict[str, Any]:
    """Run us and Go alternately; medians, and the median of neighbouring runs' ratios.

    ours: the whole watch. For information: engine: without it; interpreted: the whole watch from its sources, where
    `scripts/compile` has built nothing; bare: the floor, where nothing is encrypted.
    """
    url = (
        f"http://127.0.0.1:{ports['plain']}/{case.path}"
        if case.scheme == "plain"
        else f"https://localhost:{ports['tls']}/"
    )
    shared = ["--url", url, "--count", str(case.count), "--workers", str(case.workers), "--ca", f"{directory}/ca.pem"]
    ours = [sys.executable, "-m", "bench.http_probes", "client", *shared, *case.ours, "--mode"]
    theirs = [str(BINARY), "client", "-url", url, "-n", str(case.count), "-c", str(case.workers)]
    theirs += ["-ca", f"{directory}/ca.pem", *case.go]
    parts = ("engine", "interpreted", "bare") if case.scheme == "plain" else ("engine", "interpreted")
    pairs = []
    beside: dict[str, list[float]] = {part: [] for part in parts}
    for number in range(rounds):
        go = output_of(theirs, GOMAXPROCS="1")
        pairs.append((output_of([*ours, "full"]), go))
        if number >= 2:
            continue  # what is only for information need not be that sure
        for part in parts:
            mode = ["full", "--interpreted"] if part == "interpreted" else [part]
            beside[part].append(output_of([*ours, *mode])["cpu_us"])
    row = {
        "case": case.name,
        "modules": pairs[0][0]["modules"],
        "ours_cpu_us": round(statistics.median(mine["cpu_us"] for mine, _ in pairs), 1),
        "ours_user_us": round(statistics.median(mine["user_us"] for mine, _ in pairs), 1),
        "go_cpu_us": round(statistics.median(go["cpu_us"] for _, go in pairs), 1),
        "ratio": round(statistics.median(mine["cpu_us"] / go["cpu_us"] for mine, go in pairs), 3),
        **{f"{part}_cpu_us": round(statistics.median(found), 1) for part, found in beside.items()},
        **{
            f"{part}_ratio": round(
                statistics.median(us / go["cpu_us"] for us, (_, go) in zip(found, pairs, strict=False)), 3
            )
            for part, found in beside.items()
        },
        "ours_per_s": round(case.count / statistics.median(mine["wall_s"] for mine, _ in pairs)),
        "go_per_s": round(case.count / statistics.median(go["wall_s"] for _, go in pairs)),
        "ours_rss_mib": round(max(mine["rss_mib"] for mine, _ in pairs), 1),
        "go_rss_mib": round(max(go["rss_mib"] for _, go in pairs), 1),
    }
    print(f"{case.name}: {row['ours_cpu_us']} us, {row['ratio']} x Go", file=sys.stderr, flush=True)
    return row


def against_blackbox(rows: list[dict[str, Any]], ports: dict[str, int], directory: str, count: int) -> None:
    """Add a row per concurrency with blackbox_exporter's CPU beside ours."""
    with blackbox(directory) as running:
        if running is None:
            rows.append({"case": "blackbox_exporter", "skipped": "prometheus-blackbox-exporter is not installed"})
            return
        pid, prefix = running
        for workers in (50, 500):
            drive = [str(BINARY), "drive", "-url", f"{prefix}http://127.0.0.1:{ports['plain']}/"]
            drive += ["-n", str(count), "-c", str(workers)]
            output_of(drive)
            before_s = cpu_of(pid)
            output_of(drive)
            theirs_us = (cpu_of(pid) - before_s) * 1e6 / count
            ours = next(row for row in rows if row["case"] == f"plain, new connection, c={workers}")
            rows.append(
                {
                    "case": f"blackbox_exporter, plain, c={workers}",
                    "ours_cpu_us": ours["ours_cpu_us"],
                    "blackbox_cpu_us": round(theirs_us, 1),
                    "ratio": round(ours["ours_cpu_us"] / theirs_us, 3),
                }
            )


def targets_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    limits = (
        ("plain, new connection", 0.65),
        ("HTTPS, default policy, c", 1.0),
        ("HTTPS, full handshakes, c", 1.0),
        ("keep-alive, c", 0.5),
        ("blackbox_exporter", 0.15),
    )
    found = []
    for prefix, limit in limits:
        for row in rows:
            if row["case"].startswith(prefix) and "ratio" in row:
                peer = "blackbox_exporter" if prefix == "blackbox_exporter" else "Go"
                what = f"{row['case']}: CPU per probe ÷ {peer}'s"
                met = row["ratio"] <= limit
                found.append({"what": what, "target": limit, "measured": row["ratio"], "met": met})
                if peer == "Go":  # what is left, or missing if below 0
                    row["headroom_us"] = round(limit * row["go_cpu_us"] - row["ours_cpu_us"], 1)
    for row in rows:
        if "worst_s" in row:
            met = row["worst_s"] <= 1.05 and row["descriptors_left"] == 0
            what = "500 probes at a silent listener: the last ends, s (and every descriptor returns)"
            found.append({"what": what, "target": 1.05, "measured": row["worst_s"], "met": met})
    return found


def run(quick: bool) -> dict[str, Any]:
    """Run everything; the targets are those of the whole watch."""
    missing = build_go()
    if missing:
        return {"name": NAME, "rows": [{"skipped": missing}], "targets": []}
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ports = stack.enter_context(server(directory))
        rows.extend(compare(case, ports, directory, 3 if quick else 5) for case in cases(quick))
        against_blackbox(rows, ports, directory, 500 if quick else 2000)
        url = f"http://127.0.0.1:{ports['silent']}/"
        command = [sys.executable, "-m", "bench.http_probes", "silent", "--url", url, "--count", "500"]
        rows.append({"case": "500 probes at a silent listener, 1 s", **output_of(command)})
    return {"name": NAME, "rows": rows, "targets": targets_of(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs="?", default="run", choices=["run", "client", "silent"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--mode", default="full", choices=list(LOADS))
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--url", default="")
    parser.add_argument("--ca", default="")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument("--full-handshakes", action="store_true")
    parser.add_argument("--interpreted", action="store_true")
    options = parser.parse_args()
    if options.command == "client":
        client(options)
    elif options.command == "silent":
        silent(options)
    else:
        print(json.dumps(run(options.quick), indent=1))


if __name__ == "__main__":
    main()
