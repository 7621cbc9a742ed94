"""What keeping history costs: results a second through the store, beside a plain heartbeat table as Uptime Kuma has."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sqlite3
import tempfile
import time
from pathlib import Path

from dogwatch.core.clock import SystemClock
from dogwatch.core.values import Status, Transition
from dogwatch.store.limits import StoreLimits
from dogwatch.store.protocol import ResultRow, TargetState
from dogwatch.store.sqlite import SqliteStore, open_store

NAME = "store_write"
# Each has several results a second, so that blocks are sealed and rolled up within the run, as on a long day.
TARGETS = 100
_RANDOM = random.Random(7)


def _rows(count: int, now_s: float) -> list[ResultRow]:
    rows = []
    for number in range(count):
        total = _RANDOM.lognormvariate(-3.5, 0.4)
        good = _RANDOM.random() > 0.002
        rows.append(
            ResultRow(
                f"target-{number % TARGETS}", now_s + number / 1000, good, 1 if good else 3, total,
                total * 0.05, total * 0.2, total * 0.4, total * 0.3, total * 0.05, "" if good else "timeout",
            )
        )  # fmt: skip
    return rows


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _sustained(store: SqliteStore, seconds: float, rate: int) -> tuple[float, float]:
    """Return the share of a core, and the median wait of a transition in ms, at `rate` results a second."""
    rows = _rows(int(rate * seconds), time.time())
    waits = []
    loop = asyncio.get_running_loop()
    started, cpu = loop.time(), _cpu_s()
    step = rate // 20
    for tick in range(int(seconds * 20)):
        for row in rows[tick * step : tick * step + step]:
            store.add_result(row)
        if tick % 10 == 0:
            begin = time.perf_counter()
            change = Transition(target="target-1", time_s=time.time(), before=Status.UP, after=Status.DOWN)
            state = TargetState(target="target-1", status=Status.DOWN, since_s=0.0, fingerprint="", decider=b"")
            await store.commit_transition(change, state)
            waits.append(time.perf_counter() - begin)
        await asyncio.sleep(max(0.0, started + (tick + 1) / 20 - loop.time()))
    await store.flush()
    waits.sort()
    return (_cpu_s() - cpu) / (loop.time() - started), waits[len(waits) // 2] * 1000


async def _burst(store: SqliteStore, seconds: float, rate: int) -> dict[str, float]:
    """Offer `rate` a second; return what was kept a second, what was lost, and the loop's longest pause in ms."""
    rows = _rows(rate, time.time())
    loop = asyncio.get_running_loop()
    before = _lost(store)
    started, cpu = loop.time(), _cpu_s()
    pause = 0.0
    ticks = int(seconds * 50)
    step = rate // 50
    for tick in range(ticks):
        at = tick % 50 * step
        for row in rows[at : at + step]:
            store.add_result(row)
        due = started + (tick + 1) / 50
        await asyncio.sleep(max(0.0, due - loop.time()))
        pause = max(pause, loop.time() - due)
    await store.flush()
    took = loop.time() - started
    lost = _lost(store) - before
    return {
        "kept_per_s": (ticks * step - lost) / took,
        "lost": lost,
        "core_share": (_cpu_s() - cpu) / took,
        "longest_pause_ms": pause * 1000,
    }


def _lost(store: SqliteStore) -> float:
    families = {family.name: family for family in store.metrics()}
    return sum(value for name, value in families["dogwatch_store_rows_lost_total"].series if '"results"' in name)


async def _ours(folder: Path, quick: bool) -> dict[str, object]:
    store = await open_store(folder / "ours.db", SystemClock(), StoreLimits())
    try:
        share, wait_ms = await _sustained(store, 6 if quick else 20, 1000)
        burst = await _burst(store, 2 if quick else 10, 20_000)
    finally:
        await store.close()
    return {"what": "dogwatch", "core_share_at_1000": share, "transition_ms": wait_ms, **burst}


def _peer(folder: Path, quick: bool) -> dict[str, object]:
    """One insert and one commit for each heartbeat into an indexed table, WAL and NORMAL, as Uptime Kuma does."""
    connection = sqlite3.connect(folder / "peer.db", isolation_level=None)
    connection.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        "CREATE TABLE heartbeat (id INTEGER PRIMARY KEY AUTOINCREMENT, important BOOLEAN, monitor_id INTEGER, "
        "status SMALLINT, msg TEXT, time DATETIME, ping INTEGER, duration INTEGER, down_count INTEGER);"
        "CREATE INDEX monitor_time ON heartbeat (monitor_id, time); CREATE INDEX monitor ON heartbeat (monitor_id);"
        "CREATE INDEX important ON heartbeat (important);"
    )
    rows = _rows(5_000 if quick else 30_000, time.time())
    cpu, started = _cpu_s(), time.perf_counter()
    for number, row in enumerate(rows):
        connection.execute(
            "INSERT INTO heartbeat (important, monitor_id, status, msg, time, ping, duration, down_count) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (0, number % TARGETS, 1, "200 - OK", f"2026-01-01 00:00:{row.time_s % 60:06.3f}", 20, 15, 0),
        )
    took, cpu = time.perf_counter() - started, _cpu_s() - cpu
    connection.close()
    return {"what": "heartbeat table", "core_share_at_1000": cpu / len(rows) * 1000, "kept_per_s": len(rows) / took}


def run(quick: bool) -> dict[str, object]:
    rows = []
    for _ in range(1 if quick else 2):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(asyncio.run(_ours(Path(folder), quick)))
            rows.append(_peer(Path(folder), quick))
    ours = [row for row in rows if row["what"] == "dogwatch"]
    share = min(float(str(row["core_share_at_1000"])) for row in ours)
    kept = max(float(str(row["kept_per_s"])) for row in ours)
    lost = min(float(str(row["lost"])) for row in ours)
    return {
        "name": NAME,
        "rows": rows,
        "targets": [
            {"what": "share of a core at 1,000 results/s", "target": 0.03, "measured": share, "met": share <= 0.03},
            {"what": "burst of 20,000 results/s kept", "target": 19_000, "measured": kept, "met": kept >= 19_000},
            {"what": "lost in the burst", "target": 0, "measured": lost, "met": lost == 0},
        ],
    }


if __name__ == "__main__":
    print(json.dumps(run(quick=False), indent=1))
