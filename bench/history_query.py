"""A day of history of 1,000 probes at 15 s: how large it is, and how long a chart takes, beside two plain layouts.

The day is written through the store's own calls, on a clock that runs fast. The peers are one table with an index, as
Uptime Kuma has, and one table clustered by target and time; both are filled by executemany and asked in SQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import tempfile
import time
from pathlib import Path

from dogwatch.core.clock import ManualClock
from dogwatch.store import files
from dogwatch.store.limits import StoreLimits
from dogwatch.store.protocol import ResultRow
from dogwatch.store.sqlite import SqliteStore, open_store

NAME = "history_query"
EVERY_S = 15
DAY_S = 86_400
POINTS = 300
_RANDOM = random.Random(11)
_POOL = [_RANDOM.lognormvariate(-3.5, 0.4) for _ in range(9973)]
_HEARTBEAT = """
CREATE TABLE heartbeat (id INTEGER PRIMARY KEY AUTOINCREMENT, important BOOLEAN, monitor_id INTEGER, status SMALLINT,
    msg TEXT, time DATETIME, ping INTEGER, duration INTEGER, down_count INTEGER);
CREATE INDEX monitor_time ON heartbeat (monitor_id, time); CREATE INDEX monitor ON heartbeat (monitor_id);
CREATE INDEX important ON heartbeat (important);
"""
_CLUSTERED = """
CREATE TABLE heartbeat (monitor_id INTEGER, time_ms INTEGER, status INTEGER, duration_us INTEGER, resolve_us INTEGER,
    connect_us INTEGER, tls_us INTEGER, first_byte_us INTEGER, transfer_us INTEGER, reason TEXT,
    PRIMARY KEY (monitor_id, time_ms)) WITHOUT ROWID;
"""


def _row(target: str, number: int, now_s: float) -> ResultRow:
    total = _POOL[number % len(_POOL)]
    parts = [_POOL[(number * 7 + part * 1009) % len(_POOL)] for part in range(5)]
    scale = total / sum(parts)
    good = number % 499 != 0
    return ResultRow(
        target, now_s + parts[0], good, 1 if good else 3, total, parts[0] * scale, parts[1] * scale,
        parts[2] * scale, parts[3] * scale, parts[4] * scale, "" if good else "timeout",
    )  # fmt: skip


async def _build(store: SqliteStore, clock: ManualClock, probes: int) -> float:
    started = time.perf_counter()
    names = [f"target-{number}" for number in range(probes)]
    number = 0
    for attempt in range(DAY_S // EVERY_S):
        for name in names:
            number += 1
            store.add_result(_row(name, number, clock.now_s()))
        clock.advance(EVERY_S)
        if attempt % max(1, 20_000 // probes) == 0:
            await store.flush()
    while store._intake.result_seals:
        await store.flush()
        await asyncio.sleep(0.01)
    return time.perf_counter() - started


def _forget_pages(path: Path) -> None:
    for name in (path, path.with_name(path.name + "-wal")):
        if name.exists():
            descriptor = os.open(name, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _percentiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[len(ordered) // 2] * 1000, ordered[int(len(ordered) * 0.99)] * 1000


async def _ours(path: Path, probes: int, rounds: int) -> dict[str, object]:
    clock = ManualClock()
    store = await open_store(path, clock, StoreLimits())
    try:
        build_s = await _build(store, clock, probes)
    finally:
        await store.close()
    count = probes * DAY_S // EVERY_S
    store = await open_store(path, clock, StoreLimits())
    try:
        figures = await _ask(store, path, clock, probes, rounds)
    finally:
        await store.close()
    size = files.size_bytes(path)
    return {"what": "dogwatch", "build_s": build_s, "bytes_per_result": size / count, "MiB": size / 2**20, **figures}


async def _ask(store: SqliteStore, path: Path, clock: ManualClock, probes: int, rounds: int) -> dict[str, float]:
    until_s = clock.now_s()

    async def chart(points: int, cold: bool) -> list[float]:
        times = []
        for _ in range(rounds):
            target = f"target-{_RANDOM.randrange(probes)}"
            if cold:
                _forget_pages(path)
            started = time.perf_counter()
            found = await store.chart(target, since_s=until_s - DAY_S, until_s=until_s, points=points)
            times.append(time.perf_counter() - started)
            assert len(found) > points * 0.4
        return times

    await chart(POINTS, cold=False)
    out: dict[str, float] = {}
    for name, points, cold in (("chart_cold", POINTS, True), ("chart", POINTS, False), ("chart_raw", 1000, False)):
        out[f"{name}_p50_ms"], out[f"{name}_p99_ms"] = _percentiles(await chart(points, cold))
    out["chart_raw_cold_p50_ms"], out["chart_raw_cold_p99_ms"] = _percentiles(await chart(1000, cold=True))
    bars = []
    for _ in range(max(5, rounds // 10)):
        targets = [f"target-{_RANDOM.randrange(probes)}" for _ in range(100)]
        started = time.perf_counter()
        await store.recent(targets, limit=60)
        bars.append(time.perf_counter() - started)
    out["recent_100x60_p50_ms"], out["recent_100x60_p99_ms"] = _percentiles(bars)
    return out


def _fill(connection: sqlite3.Connection, clustered: bool, probes: int) -> None:
    start_ms = 1_800_000_000_000
    marks = "?, ?, ?, ?, ?, ?, ?, ?, ?, ?" if clustered else "?, ?, ?, ?, ?, ?, ?, ?"
    into = (
        "heartbeat" if clustered else "heartbeat (important, monitor_id, status, msg, time, ping, duration, down_count)"
    )
    number = 0
    for attempt in range(DAY_S // EVERY_S):
        time_ms = start_ms + attempt * EVERY_S * 1000
        stamp = time.strftime("%Y-%m-%d %H:%M:%S.000", time.gmtime(time_ms / 1000))
        rows: list[tuple[object, ...]] = []
        for target in range(probes):
            number += 1
            us = int(_POOL[number % len(_POOL)] * 1e6)
            if clustered:
                noise = [int(_POOL[(number * 7 + part * 1009) % len(_POOL)] * 2e5) for part in range(5)]
                rows.append((target, time_ms, 1, us, *noise, ""))
            else:
                rows.append((0, target, 1, "200 - OK", stamp, us // 1000, EVERY_S, 0))
        connection.execute("BEGIN")
        connection.executemany(f"INSERT INTO {into} VALUES ({marks})", rows)
        connection.execute("COMMIT")


def _peer(path: Path, clustered: bool, probes: int, rounds: int) -> dict[str, object]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
    connection.executescript(_CLUSTERED if clustered else _HEARTBEAT)
    started = time.perf_counter()
    _fill(connection, clustered, probes)
    build_s = time.perf_counter() - started
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if clustered:
        query = (
            "SELECT time_ms / 288000 AS bucket, count(*), sum(status != 1), avg(duration_us), min(duration_us), "
            "max(duration_us) FROM heartbeat WHERE monitor_id = ? AND time_ms >= 1800000000000 GROUP BY bucket"
        )
    else:
        query = (
            "SELECT unixepoch(time) / 288 AS bucket, count(*), sum(status != 1), avg(ping), min(ping), max(ping) "
            "FROM heartbeat WHERE monitor_id = ? AND time >= '2027-01-15 08:00:00' GROUP BY bucket"
        )
    times: dict[bool, list[float]] = {True: [], False: []}
    for cold in (True, False):
        for _ in range(rounds):
            if cold:
                connection.close()
                _forget_pages(path)
                connection = sqlite3.connect(path, isolation_level=None)
            began = time.perf_counter()
            connection.execute(query, (_RANDOM.randrange(probes),)).fetchall()
            times[cold].append(time.perf_counter() - began)
    connection.close()
    cold_p50, cold_p99 = _percentiles(times[True])
    p50, p99 = _percentiles(times[False])
    size = path.stat().st_size
    return {
        "what": "clustered table" if clustered else "heartbeat table",
        "build_s": build_s,
        "bytes_per_result": size / (probes * DAY_S // EVERY_S),
        "MiB": size / 2**20,
        "chart_cold_p50_ms": cold_p50,
        "chart_cold_p99_ms": cold_p99,
        "chart_p50_ms": p50,
        "chart_p99_ms": p99,
    }


def run(quick: bool) -> dict[str, object]:
    probes, rounds = (50, 50) if quick else (1000, 100)
    with tempfile.TemporaryDirectory() as folder:
        ours = asyncio.run(_ours(Path(folder) / "ours.db", probes, rounds))
        rows = [
            ours,
            # A tenth of the probes is enough to see the figures of the peers, and is to their advantage.
            _peer(Path(folder) / "heartbeat.db", False, max(50, probes // 10), rounds),
            _peer(Path(folder) / "clustered.db", True, max(50, probes // 10), rounds),
        ]
    warm, cold = float(str(ours["chart_p99_ms"])), float(str(ours["chart_cold_p99_ms"]))
    share = float(str(ours["bytes_per_result"])) / float(str(rows[1]["bytes_per_result"]))
    return {
        "name": NAME,
        "rows": rows,
        "targets": [
            {"what": "chart of a day, warm, p99 ms", "target": 50, "measured": warm, "met": warm < 50},
            {"what": "chart of a day, cold, p99 ms", "target": 50, "measured": cold, "met": cold < 50},
            {"what": "size against a heartbeat table", "target": 0.5, "measured": share, "met": share <= 0.5},
        ],
    }


if __name__ == "__main__":
    print(json.dumps(run(quick=False), indent=1))
