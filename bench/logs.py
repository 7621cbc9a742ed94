"""Log agents: CPU of one core per GiB for each job, ours beside rsyslog, syslog-ng and OpenTelemetry's collector, in
alternation.

Same file, same sink. Every run is a process of its own on one core; its CPU time is the kernel's, and what a run over
three lines costs is taken off. Ours is as shipped: `dogwatch logs run`, with acknowledgement, checkpoints and metrics.
Then ours alone: latency and cost at a moderate rate over 200 files, and idle with 1,000 files.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.log_agents import JOBS, RECORD_JOBS, command, does, environment, peers
from bench.log_following import followed, idle
from bench.log_memory import stored
from bench.log_servers import Requests, Server, serving

NAME = "logs"
_JSON = (
    b'{"time":"2026-11-21T07:00:00Z","level":"%s","service":"shop","message":"request handled","path":"/cart/%d",'
    b'"user":"bob%d@example.org","ms":%d}\n'
)
_NGINX = (
    b'10.1.%d.%d - - [21/Nov/2026:07:00:%02d +0000] "GET /cart/%d?step=2 HTTP/1.1" 200 %d "https://shop.example.org/p/%d"'
    b' "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"\n'
)
_AT_MOST = dict(zip(JOBS, (0.4, 0.35, 0.2, 0.3), strict=True))
# The same lines, but so many times fewer: it takes minutes where others take seconds.
_FEWER = {"collector": 4}
_CORE = str(max(os.sched_getaffinity(0)))


def _json_lines(count: int) -> bytes:
    levels = (b"info", b"debug", b"warn", b"info")
    return b"".join(_JSON % (levels[n % 4], n % 977, n % 313, n % 1009) for n in range(count))


def _nginx_lines(count: int) -> bytes:
    return b"".join(_NGINX % (n % 251, n % 241, n % 60, n % 977, 100 + n % 9000, n % 313) for n in range(count))


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _settled(process: subprocess.Popen[bytes], size: Callable[[], int], least: int, limit_s: float) -> float:
    """Wait until the output has at least so many bytes and neither it nor CPU time moves; return when it last did."""
    begun_s = moved_s = time.monotonic()
    last = (0, 0)
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the agent ended with {process.returncode}")
        now_s = time.monotonic()
        found = (size(), _cpu_ticks(process.pid))
        if found[0] != last[0] or found[1] > last[1] + 2:
            last, moved_s = found, now_s
        if found[0] >= least and now_s - moved_s > 1.2:
            return moved_s - begun_s
        if now_s - begun_s > limit_s:
            raise RuntimeError(f"not finished in {limit_s:g} s: {found[0]} of {least} bytes")
        time.sleep(0.03)


def measure(
    agent: str, job: str, source: Path, server: Server, programs: dict[str, str], least: int
) -> dict[str, float]:
    """Run one agent over one file; return CPU and wall seconds, memory, and how many lines came out."""
    with tempfile.TemporaryDirectory(dir=source.parent) as name:
        folder = Path(name)
        values = {"source": source, **server.reset()}
        arguments = command(agent, job, folder, values, programs)
        ours = agent.startswith("dogwatch")
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(
                ["taskset", "-c", _CORE, *arguments],
                cwd=folder,
                env=None if ours else environment(),
                stdout=said,
                stderr=said,
            )
        try:
            wall_s = _settled(process, server.size, least, 240)
        except RuntimeError as error:
            process.kill()
            process.wait()
            raise RuntimeError(f"{agent}, {job}: {error}: {(folder / 'said').read_text()[:700]}") from None
        # Not the kernel's ru_maxrss: that begins with what this process had when it forked.
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak_kib = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        process.send_signal(signal.SIGTERM)
        _pid, _status, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        time.sleep(0.3)  # the server notices the end of a connection
        return {
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "s": wall_s,
            "rss_mib": peak_kib / 1024,
            "lines": server.lines(),
        }


def _say(text: str) -> None:
    print(f"   {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class _Runs:
    """What was measured of one agent at one job: with three lines, and with many."""

    def __init__(self) -> None:
        self.small: list[dict[str, float]] = []
        self.large: list[dict[str, float]] = []

    def cpu_s(self) -> float:
        """Return what the lines cost over what starting and ending does: medians of each."""
        small, large = (statistics.median(one["cpu_s"] for one in runs) for runs in (self.small, self.large))
        return max(0.001, large - small)


def _job(
    job: str, agents: Sequence[str], lines: int, rounds: int, folder: Path, server: Server, programs: dict[str, str]
) -> list[dict[str, object]]:
    """Return a row for each agent: medians of rounds in alternation, over what starting and ending costs."""
    make = _nginx_lines if "nginx" in job else _json_lines
    counts = {agent: lines // _FEWER.get(agent, 1) for agent in agents}
    small = folder / "small.log"
    small.write_bytes(make(3))
    sources = {count: folder / f"in-{count}.log" for count in counts.values()}
    for count, source in sources.items():
        source.write_bytes(make(count))
    gibibytes = {agent: sources[count].stat().st_size / 2**30 for agent, count in counts.items()}
    found = {agent: _Runs() for agent in agents}
    for number in range(rounds):
        for agent, runs in found.items():
            # Ten times as slow as the best: once is enough to know that it is not it.
            if number and runs.cpu_s() / gibibytes[agent] > 10 * min(
                (one.cpu_s() / gibibytes[name] for name, one in found.items() if name in programs), default=math.inf
            ):
                continue
            if number < 2:
                runs.small.append(measure(agent, job, small, server, programs, 1))
            runs.large.append(measure(agent, job, sources[counts[agent]], server, programs, 1000))
            cost = f"{runs.cpu_s() / gibibytes[agent]:.2f} s of CPU per GiB, {runs.large[-1]['rss_mib']:.0f} MiB"
            _say(f"{job}, round {number + 1} of {rounds}: {agent} {cost}")
    rows: list[dict[str, object]] = []
    for agent, runs in found.items():
        per_gib = runs.cpu_s() / gibibytes[agent]
        # Every fourth is of the level that is dropped.
        expected = counts[agent] - (counts[agent] + 2) // 4 if "filter" in job else counts[agent]
        rows.append(
            {
                "job": job,
                "agent": agent,
                "cpu_s_per_gib": per_gib,
                "mb_per_cpu_s": 1073.7 / per_gib,
                "rss_mib": max(one["rss_mib"] for one in runs.large),
                "lines_missing": max(expected - one["lines"] for one in runs.large),
            }
        )
    return rows


def _compare(count: int, rounds: int) -> tuple[list[dict[str, object]], str]:
    """Return the rows of all jobs, and which peers are missing."""
    programs, missing = peers()
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        for job in JOBS:
            agents = ["dogwatch", *(one for one in programs if does(one, job))]
            # One peer looks at each line with ten patterns.
            lines = count // 4 if "nginx" in job else count
            server = Requests(out=folder / "out" if "file" in job else None)
            rows += _job(job, agents, lines, rounds, folder, server, programs)
        for kind, job in RECORD_JOBS.items():
            agents = ["dogwatch", *(one for one in programs if does(one, job))]
            with serving(kind) as started:
                if started is not None:
                    rows += _job(job, agents, count // 8, min(2, rounds), folder, started, programs)
    return rows, missing


def run(quick: bool) -> dict[str, object]:
    """Return the figures of each job and agent, and what following costs."""
    rows, missing = _compare(300_000 if quick else 1_200_000, 1 if quick else 3)
    targets: list[dict[str, object]] = []

    def target(what: str, measured: float, limit: float) -> None:
        targets.append({"what": what, "measured": measured, "target": f"<= {limit:g}", "met": measured <= limit})

    for job in JOBS:
        cost = {str(row["agent"]): float(str(row["cpu_s_per_gib"])) for row in rows if row["job"] == job}
        theirs = [value for agent, value in cost.items() if agent != "dogwatch"]
        if theirs:
            target(f"CPU per GiB against the best peer, {job}", cost["dogwatch"] / min(theirs), _AT_MOST[job])
            if "filter" in job:
                # Rows need no library of columns, so this is the light profile as well.
                target("the same, without a library of columns", cost["dogwatch"] / min(theirs), 0.35)
    ours = [row for row in rows if row["agent"] == "dogwatch"]
    target("lines missing while measured", max(float(str(row["lines_missing"])) for row in ours), 0)
    target("peak memory of the JSON job, MiB", max(float(str(r["rss_mib"])) for r in ours if r["job"] == JOBS[2]), 60)
    target("peak memory, MiB", max(float(str(row["rss_mib"])) for row in ours), 150)
    _say("a store that is filled, sealed and merged")
    storing = stored(100_000 if quick else 400_000)
    rows.append({"job": "json to the store", "agent": "dogwatch", **storing})
    target("peak memory with a store, the process that seals included, MiB", storing["together_mib"], 150)
    _say("20,000 lines/s over 200 files")
    following = followed(seconds=4 if quick else 20)
    rows.append({"job": "20,000 lines/s over 200 files", "agent": "dogwatch", **following})
    target("latency at 20,000 lines/s over 200 files, p99 ms", following["p99_ms"], 250)
    target("share of a core at 20,000 lines/s", following["core"], 0.06)
    target("lines missing at 20,000 lines/s", following["lines_missing"], 0)
    _say("idle with 1,000 files")
    resting = idle(seconds=4 if quick else 20)
    rows.append({"job": "idle, 1,000 files", "agent": "dogwatch", **resting})
    target("share of a core when idle with 1,000 files", resting["core"], 0.01)
    return {"rows": rows, "targets": targets, "peers_missing": missing}
