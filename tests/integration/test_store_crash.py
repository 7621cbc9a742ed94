"""kill -9 at any instant: nothing acknowledged is lost, a second of results at most, nothing is counted twice."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from dogwatch.core.clock import SystemClock
from dogwatch.store.limits import StoreLimits
from dogwatch.store.sqlite import open_store

PROGRAM = Path(__file__).with_name("store_under_load.py")
TARGETS = 5
ROUNDS = 14
# A batch a second, and what a busy machine adds to it.
LOSS_S = 1.0 + 0.5


@dataclass
class Life:
    """What one process said before it was killed."""

    transitions: list[int] = field(default_factory=list)
    pings: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    results: list[tuple[int, float]] = field(default_factory=list)
    killed_s: float = 0.0


def live(path: Path, first: int, record: int, seconds: float) -> Life:
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), str(path), str(first), str(record)], stdout=subprocess.PIPE, text=True
    ) as process:
        life = Life()
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"

        def kill() -> None:
            life.killed_s = time.monotonic()
            process.kill()

        killer = threading.Timer(seconds, kill)
        killer.start()
        for line in process.stdout:
            words = line.split()
            if not line.endswith("\n") or len(words) < 2:
                continue
            if words[0] == "result" and len(words) == 3:
                life.results.append((int(words[1]), float(words[2])))
            elif words[0] in ("transition", "ping", "document"):
                getattr(life, f"{words[0]}s").append(int(words[1]))
        killer.join()
    return life


async def look(path: Path, life: Life) -> tuple[set[int], int]:
    """Check the store after a kill; return the numbers of the results that are there, and the newest record's."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    store = await open_store(path, SystemClock(), StoreLimits(pings_per_target=100_000))
    try:
        transitions = [int(one.reason) for one in await store.transitions("t", limit=100_000)]
        pings = [one.exit_status for one in await store.pings("p", limit=100_000)]
        assert len(transitions) == len(set(transitions)), "a transition is there twice"
        assert len(pings) == len(set(pings)), "a ping is there twice"
        assert set(life.transitions) <= set(transitions)
        assert set(life.pings) <= set(pings)
        assert int(await store.document("number") or b"-1") >= max(life.documents, default=-1)
        assert (await store.states())["t"].since_s == transitions[0]
        numbers: list[int] = []
        for target in range(TARGETS):
            rows = await store.results(f"r{target}", limit=1_000_000)
            numbers += [round(row.duration_s * 1e6) for row in rows]
            now_s = time.time()
            # A week in 24 points comes from the hourly roll-up.
            points = await store.chart(f"r{target}", since_s=now_s - 7 * 86400, until_s=now_s + 3600, points=24)
            assert sum(point.count for point in points) == len(rows), "rolled up more or less than once"
        assert len(numbers) == len(set(numbers)), "a result is there twice"
        (samples,) = await store.series(
            "host", ["number"], since_s=time.time() - 3600, until_s=time.time() + 60, points=10_000
        )
        assert samples.points
        return set(numbers), max(transitions[0], pings[0] or 0)
    finally:
        await store.close()


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    chance = random.Random(20260)
    path = tmp_path / "dogwatch.db"
    first, record = 0, 0
    gone: set[int] = set()
    sealed = 0
    acknowledged = Life()
    for _ in range(ROUNDS):
        life = await asyncio.to_thread(live, path, first, record, chance.uniform(0.05, 2.2))
        acknowledged.transitions += life.transitions
        acknowledged.pings += life.pings
        life.transitions, life.pings = acknowledged.transitions, acknowledged.pings
        there, record = await look(path, life)
        said = [number for number, at_s in life.results if at_s < life.killed_s - LOSS_S]
        last_old = max(said, default=first - 1)
        missing = set(range(last_old + 1)) - there - gone
        assert not missing, f"{len(missing)} results older than {LOSS_S} s are lost"
        # What came within the last second may be lost, but only as a whole tail.
        newest = life.results[-1][0] + 4 if life.results else first
        lost = {number for number in range(first, newest + 1) if number not in there}
        assert not lost or there.isdisjoint(range(min(lost), newest + 1)), "a hole"
        gone |= lost
        first, record = newest + 1, record + 1
        connection = sqlite3.connect(path)
        sealed = connection.execute("SELECT count(*) FROM result_block").fetchone()[0]
        connection.close()
    assert sealed > TARGETS, "the rounds never sealed a block: the test shows too little"
