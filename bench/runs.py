"""Durable runs a second, how soon they start, failover and memory: beside bare DBOS, procrastinate and Celery.

No-op: a run without steps (a workflow without steps, an empty task); one-step: a run with one step, which is written
before it begins and after it ended. Each figure is of a process of its own, 50 runs at the same time, all systems on
the same disk, PostgreSQL and Redis; the order alternates, and figures are medians. DBOS's SQLite is measured as it
comes, and with its journal and durability lowered (WAL, synchronous NORMAL); ours is always WAL with FULL. DBOS polls
its queue every 50 ms; "direct" is DBOS without a queue, in the process that starts the workflow. Peers are counted when
their work has run, ours when the database says that it has ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.e2e.lives import Lives
from tests.postgres import Postgres, server

from dogwatch.engine.section import EngineOptions

NAME = "runs"
# Name, system, database, steps of a run, options of runs_peers.
CONTENDERS: list[tuple[str, str, str, int, dict[str, Any]]] = [
    ("ours sqlite no-op", "ours", "sqlite", 0, {}),
    ("dbos sqlite no-op", "dbos", "sqlite", 0, {}),
    ("dbos sqlite WAL NORMAL no-op", "dbos", "sqlite", 0, {"wal": True}),
    ("dbos sqlite WAL NORMAL direct no-op", "dbos", "sqlite", 0, {"wal": True, "direct": True}),
    ("ours sqlite one-step", "ours", "sqlite", 1, {}),
    ("dbos sqlite one-step", "dbos", "sqlite", 1, {}),
    ("dbos sqlite WAL NORMAL one-step", "dbos", "sqlite", 1, {"wal": True}),
    ("ours postgresql no-op", "ours", "postgresql", 0, {}),
    ("dbos postgresql no-op", "dbos", "postgresql", 0, {}),
    ("dbos postgresql direct no-op", "dbos", "postgresql", 0, {"direct": True}),
    ("ours postgresql one-step", "ours", "postgresql", 1, {}),
    ("dbos postgresql one-step", "dbos", "postgresql", 1, {}),
    ("procrastinate postgresql", "procrastinate", "postgresql", 0, {}),
    ("celery redis", "celery", "redis", 0, {}),
]
# Ours, and those of whom the best is the measure.
RATES = [
    ("ours sqlite no-op", ("dbos sqlite no-op", "dbos sqlite WAL NORMAL no-op")),
    ("ours sqlite one-step", ("dbos sqlite one-step", "dbos sqlite WAL NORMAL one-step")),
    ("ours postgresql no-op", ("dbos postgresql no-op",)),
    ("ours postgresql one-step", ("dbos postgresql one-step",)),
]


@contextmanager
def _url(database: str, postgres: Postgres, folder: Path) -> Iterator[str]:
    if database == "postgresql":
        url = postgres.create()
        try:
            yield url
        finally:
            postgres.drop(url)
    else:
        yield f"sqlite:{folder / 'state.db'}"


def _measure(postgres: Postgres, system: str, database: str, **options: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dogwatch-bench-") as name, _url(database, postgres, Path(name)) as url:
        given = json.dumps({"system": system, "url": url, "folder": name, **options})
        done = subprocess.run(
            [sys.executable, "-m", "bench.runs_peers", given], check=False, capture_output=True, text=True, timeout=240
        )
        if done.returncode:
            raise RuntimeError(f"{system} on {database} failed:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _throughput(postgres: Postgres, quick: bool) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name, *_ in CONTENDERS}
    runs, rounds = (200, 1) if quick else (600, 3)
    for turn in range(rounds):
        for name, system, database, steps, options in CONTENDERS if turn % 2 == 0 else reversed(CONTENDERS):
            if system == "celery" and not shutil.which("redis-server"):
                continue
            own = runs * 4 if system == "ours" else runs
            found[name].append(_measure(postgres, system, database, steps=steps, runs=own, **options))
    return [
        {
            "name": name,
            "starts_s": statistics.median(one["starts_s"] for one in own),
            "queue_p50_ms": statistics.median(one["queue_p50_ms"] for one in own),
            "all_starts_s": [round(one["starts_s"]) for one in own],
        }
        for name, own in found.items()
        if own
    ]


def _failover(postgres: Postgres, ttl_s: float) -> float:
    """Return the seconds from kill -9 of a worker until the step that it was in is begun again by another."""
    jobs = {"j": {"steps": [{"name": "a", "needs": [], "effect": {"hold_s": 300.0}}]}}
    url = postgres.create()
    with tempfile.TemporaryDirectory(prefix="dogwatch-bench-") as name:
        lives = Lives(Path(name))
        try:
            life = {"url": url, "jobs": jobs, "start": [["j", "j"]], "ttl_s": ttl_s}
            first = lives.begin(**life)
            lives.saw("j", "a")
            lives.begin(**life)
            time.sleep(1.5)
            os.kill(first, signal.SIGKILL)
            killed_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            return lives.saw("j", "a", times=2).at_s - killed_s
        finally:
            with suppress(AssertionError):
                lives.close()
            postgres.drop(url)


def run(*, quick: bool) -> dict[str, Any]:
    with server() as postgres:
        rows = _throughput(postgres, quick)
        tries = 1 if quick else 5
        slow = [_failover(postgres, EngineOptions().ttl) for _ in range(tries)]
        fast = [_failover(postgres, 2.0) for _ in range(tries)]
        memory = {
            kind: _measure(postgres, "ours", kind, steps=1, runs=1000, ask=True) for kind in ("sqlite", "postgresql")
        }
        idle = {
            kind: _measure(postgres, "ours", kind, steps=1, runs=0, idle_s=3.0 if quick else 20.0)
            for kind in ("sqlite", "postgresql")
        }
    by_name = {row["name"]: row for row in rows}
    for ours, peers in RATES:
        best = max(by_name[peer]["starts_s"] for peer in peers)
        by_name[ours]["times_dbos"] = by_name[ours]["starts_s"] / best
    targets = [
        {
            "what": f"{ours}, starts a second, times the best of bare DBOS",
            "measured": by_name[ours]["times_dbos"],
            "target": ">= 0.85",
            "met": by_name[ours]["times_dbos"] >= 0.85,
        }
        for ours, _ in RATES
    ]
    targets += [
        _most(f"{name}: start to first instruction, p50 ms", by_name[name]["queue_p50_ms"], 150)
        for name in ("ours sqlite one-step", "ours postgresql one-step")
    ]
    targets += [
        _most("failover after kill -9, default, longest, s", max(slow), 8),
        _most("failover after kill -9, time-out 2 s, longest, s", max(fast), 4),
    ]
    targets += [
        _most(f"1,000 runs that wait for approval, {kind}, MiB", found["approvals_mib"], 100)
        for kind, found in memory.items()
    ]
    return {
        "rows": rows,
        "targets": targets,
        "failover_s": {"default": slow, "configured_2s": fast},
        "approvals": memory,
        "idle": idle,
    }


def _most(what: str, measured: float, target: float) -> dict[str, Any]:
    return {"what": what, "measured": measured, "target": f"<= {target}", "met": measured <= target}
