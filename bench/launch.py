"""What a guard costs: a short program under the launcher, beside asyncio's subprocesses and subprocess.Popen.

Every run is a process of its own on uvloop (asyncio's own loop is a row, too), and runs `true` so many times, one after
the other or four at a time, with stdin from /dev/null and both outputs read. CPU is user and system time of everything:
the caller, what stands between, the program itself. The runs alternate. The peers leave all descendants of a program
behind when the caller is killed; the launcher does not: how long that takes is measured too, from kill -9 of a worker
with eight programs, each of them a double-forked, SIGTERM-ignoring tree, to the end of the last process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAME = "launch"
COUNT = 400
MODES = ("launcher", "asyncio on uvloop", "asyncio", "Popen")
TREE = "trap '' TERM; (trap '' TERM; setsid sh -c 'sleep 300 & sleep 300' &) ; echo ready; sleep 300 & wait"


def _cpu_s() -> float:
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


async def _asyncio_once() -> None:
    process = await asyncio.create_subprocess_exec(
        "true", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    await process.communicate()


async def _popen_once() -> None:
    with subprocess.Popen(  # noqa: ASYNC220 that it blocks is what is measured
        ["true"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        process.communicate()


async def _measure(mode: str, at_once: int) -> dict[str, float]:
    from dogwatch.engine.launch.command import Command
    from dogwatch.engine.launch.launcher import Launcher

    launcher = Launcher()

    async def launcher_once() -> None:
        status = await launcher.run(Command(args=["true"]), lambda _stream, _data: None)
        assert status.code == 0

    once = {"launcher": launcher_once, "Popen": _popen_once}.get(mode, _asyncio_once)

    async def some() -> None:
        for _ in range(COUNT // at_once):
            await once()

    before_s, started_s = _cpu_s(), time.perf_counter()
    await launcher.open()
    await asyncio.gather(*(some() for _ in range(at_once)))
    took_s = time.perf_counter() - started_s
    # Only when the guard has ended is its time, and its programs', in that of our children.
    await launcher.close()
    return {"programs_per_s": COUNT / took_s, "cpu_ms_each": (_cpu_s() - before_s) / COUNT * 1000}


async def _guard() -> dict[str, float]:
    """Return what a guard costs by itself."""
    from dogwatch.engine.launch.command import Command
    from dogwatch.engine.launch.launcher import Launcher

    launcher = Launcher()
    await launcher.open()
    started_s = time.perf_counter()
    await launcher.run(Command(args=["true"]), lambda _stream, _data: None)
    first_ms = (time.perf_counter() - started_s) * 1000
    pid = launcher.guard_pid
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])  # noqa: ASYNC240
    await launcher.close()
    memory = {name: int(fields[name].split()[0]) / 1024 for name in ("Rss", "Pss")}
    return {"first_program_ms": first_ms, "guard_rss_mib": memory["Rss"], "guard_pss_mib": memory["Pss"]}


async def _victim() -> None:
    from dogwatch.engine.launch.command import Command
    from dogwatch.engine.launch.launcher import Launcher

    def say(_stream: str, data: bytes) -> None:
        print(data.decode(), end="", flush=True)

    launcher = Launcher()
    await launcher.open()
    await asyncio.gather(*(launcher.run(Command(args=["bash", "-c", TREE]), say) for _ in range(8)))


def _below(pid: int) -> list[int]:
    from dogwatch.engine.launch import tree

    return tree.descendants(pid)


def _kill_s() -> tuple[int, float]:
    """Return how many processes there were, and how long it took from the worker's death to the last one's."""
    with subprocess.Popen(_spawn("victim"), stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for _ in range(8):
            worker.stdout.readline()
        time.sleep(0.2)
        pids = _below(worker.pid)
        started_s = time.perf_counter()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        while any(_lives(pid) for pid in pids):
            time.sleep(0.001)
        return len(pids), time.perf_counter() - started_s


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _spawn(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench.launch", *arguments]


def _child(*arguments: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            _spawn(*arguments), capture_output=True, text=True, check=True, env={**os.environ, "TMPDIR": folder}
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(quick: bool) -> dict[str, object]:
    """Run all, alternating, and return the medians."""
    rounds = 1 if quick else 5
    seen: dict[tuple[str, int], list[dict[str, float]]] = {(mode, n): [] for n in (1, 4) for mode in MODES}
    seen = {key: value for key, value in seen.items() if key != ("Popen", 4)}  # it blocks: there is no four at a time
    guards, kills = [], []
    for _ in range(rounds):
        for (mode, at_once), figures in seen.items():
            figures.append(_child("client", mode, str(at_once)))
        guards.append(_child("guard"))
        kills.append(_kill_s())
    rows: list[dict[str, object]] = [
        {"what": mode, "at_once": at_once} | {key: _median(figures, key) for key in figures[0]}
        for (mode, at_once), figures in seen.items()
    ]
    rows.append({"what": "guard"} | {key: _median(guards, key) for key in guards[0]})
    gone_ms = statistics.median(took_s for _, took_s in kills) * 1000
    rows.append({"what": "kill -9 of the worker", "processes": kills[0][0], "gone_after_ms": round(gone_ms, 1)})
    return {"name": NAME, "rows": rows, "targets": _targets(rows, gone_ms)}


def _median(figures: list[dict[str, float]], key: str) -> float:
    return round(statistics.median(one[key] for one in figures), 2)


def _targets(rows: list[dict[str, object]], gone_ms: float) -> list[dict[str, object]]:
    ours, uvloop = rows[0], rows[1]
    share = float(str(ours["cpu_ms_each"])) / float(str(uvloop["cpu_ms_each"]))
    return [
        {
            "what": "programs/s, one after the other",
            "target": ">= 200",
            "measured": ours["programs_per_s"],
            "met": float(str(ours["programs_per_s"])) >= 200,
        },
        {
            "what": "CPU of a program, launcher ÷ asyncio's subprocess on the same loop",
            "target": "<= 1",
            "measured": round(share, 3),
            "met": share <= 1,
        },
        {
            "what": "last process gone after kill -9 of the worker, ms",
            "target": "<= 1000",
            "measured": round(gone_ms, 1),
            "met": gone_ms <= 1000,
        },
    ]


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.launch")
    parser.add_argument("role", nargs="?", default="run", choices=["run", "quick", "client", "guard", "victim"])
    parser.add_argument("mode", nargs="?", default="launcher")
    parser.add_argument("at_once", nargs="?", type=int, default=1)
    options = parser.parse_args()
    import uvloop

    if options.role in ("run", "quick"):
        print(json.dumps(run(options.role == "quick"), indent=2, ensure_ascii=False))
    elif options.role == "victim":
        uvloop.run(_victim())
    elif options.role == "guard":
        print(json.dumps(uvloop.run(_guard())))
    else:
        runner = asyncio.run if options.mode == "asyncio" else uvloop.run
        print(json.dumps(runner(_measure(options.mode, options.at_once))))


if __name__ == "__main__":
    _main()
