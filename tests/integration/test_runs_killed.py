"""A process that starts, claims and ends runs is killed again and again: what was answered is there, once."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.postgres import Postgres
from tests.runs import book, finish, identity, job, start, step

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.engine.spec import Concurrency
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunFilter, RunState
from dogwatch.store.database import Database
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

ROOT = Path(__file__).parents[2]
_CHILD = """
import asyncio, sys
from tests.integration.test_runs_killed import work
asyncio.run(work(sys.argv[1], int(sys.argv[2])))
"""
SPECS = (job("build"), job("locked", locks=["x"]), job("keyed", concurrency=Concurrency(limit=2)))


async def _open(where: str) -> Database:
    tables = (engine_tables(), access_tables())
    if where.startswith("postgresql:"):
        return await open_postgres(where, tables)
    return await open_sqlite(Path(where), tables, SystemClock())


async def work(where: str, number: int) -> None:
    """Do this for ever, and say on stdout what was answered."""
    database = await _open(where)
    runs = book(database, *SPECS)
    worker = f"w{number}"
    await runs.register(identity(worker, ttl_s=0.5))
    print("ready", flush=True)

    async def starts(lane: int) -> None:
        for count in range(10_000):
            key = f"{number}-{lane}-{count}"
            await start(runs, SPECS[count % 3].name, key=key)
            print("started", key, flush=True)

    async def ends() -> None:
        while True:
            for one in await runs.claim(worker, 5):
                await finish(runs, one, RunState.SUCCEEDED, step(attempt=one.fence))
                print("ended", one.run.key, flush=True)
            await asyncio.sleep(0)

    await asyncio.gather(starts(0), starts(1), ends())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_was_answered_survives_kill_9(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "sqlite":
        await _killed(str(tmp_path / "state.db"))
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    await _killed(postgres.create())


async def _killed(where: str) -> None:
    chance = random.Random(7)
    started: set[str] = set()
    ended: list[str] = []
    # On a busy machine a life may be too short for a word.
    for number in range(50):
        if number >= 5 and len(started) > 20:
            break
        said = await asyncio.to_thread(_one_life, where, number, 0.1 + chance.random() * 0.4)
        started |= {line.split()[1] for line in said if line.startswith("started ") and len(line.split()) == 2}
        ended += [line.split()[1] for line in said if line.startswith("ended ") and len(line.split()) == 2]
    assert len(started) > 20
    assert len(ended) == len(set(ended))
    database = await _open(where)
    runs = book(database, *SPECS)
    found = []
    cursor = ""
    while True:
        page = await runs.find(RunFilter(limit=1000, cursor=cursor))
        found += page.items
        if not (cursor := page.cursor):
            break
    keys = [run.key for run in found]
    assert len(keys) == len(set(keys))
    assert started <= set(keys)
    assert set(ended) <= {run.key for run in found if run.state is RunState.SUCCEEDED}
    # Whatever was held by those who died can be carried out now, gates and all.
    await runs.register(identity("last"))
    left = sum(not run.state.ended for run in found)
    deadline = time.monotonic() + 60
    while left and time.monotonic() < deadline:
        await runs.reap()
        for one in await runs.claim("last", 50):
            await finish(runs, one)
            left -= 1
    assert left == 0
    assert await database.read(lambda tx: tx.rows("SELECT name, used FROM gates WHERE used <> 0")) == []
    await database.close()


def _one_life(where: str, number: int, seconds: float) -> list[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, where, str(number)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        said = child.stdout.read().splitlines()
    child.wait()
    return said
