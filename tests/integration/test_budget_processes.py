"""Budgets claimed by several processes on one PostgreSQL, one of which is killed: never more than the budget says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.postgres import Postgres

from dogwatch.access.tables import access_tables
from dogwatch.rules.remedy.tables import remedy_tables
from dogwatch.store.state_postgres import open_postgres

LASTS_S = 1.0
CLAIMER = Path(__file__).with_name("budget_claimer.py")


def begin(claimers: list[subprocess.Popen[bytes]], before: list[str], after: list[str]) -> None:
    """Start three claimers, and wait until all of them claim."""
    for name in ("one", "two", "three"):
        command = [sys.executable, str(CLAIMER), *before, name, *after]
        claimers.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    for claimer in claimers:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == b"ready\n"


@pytest.mark.parametrize(("most", "per_s", "at_once"), [(3, 0.7, 2), (20, 1.0, 3), (5, 60.0, 100)])
async def test_processes_never_overspend(postgres: Postgres, most: int, per_s: float, at_once: int) -> None:
    url = postgres.create()
    claimers: list[subprocess.Popen[bytes]] = []
    try:
        database = await open_postgres(url, (access_tables(), remedy_tables()))
        await database.write(
            lambda tx: tx.run("CREATE TABLE claim_log (seq BIGSERIAL, verb TEXT, claim_key TEXT, at_s FLOAT8)")
        )
        begin(claimers, [url], [str(most), str(per_s), str(at_once)])
        # Long enough for several rounds of the budget; what is shown does not depend on how many there are.
        await asyncio.sleep(1.5)
        claimers[1].kill()
        await asyncio.sleep(2.5)
        rows, log = await database.read(
            lambda tx: (
                tx.rows("SELECT claim_key, claimed_s FROM budget_claims"),
                tx.rows("SELECT verb, claim_key, at_s FROM claim_log ORDER BY seq"),
            )
        )
        await database.close()
    finally:
        for claimer in claimers:
            claimer.kill()
            claimer.wait()
            if claimer.stdout is not None:
                claimer.stdout.close()
        postgres.drop(url)
    times = [float(claimed or 0) for _key, claimed in rows]
    assert len(times) >= most
    # Where it comes back, more than one of them had a part of it.
    assert per_s > 10.0 or len({str(row[0]).split("-")[0] for row in rows}) >= 2
    for time_s in times:
        assert sum(time_s - per_s < other <= time_s for other in times) <= most
    going: dict[str, float] = {}
    for verb, key, at in log:
        at_s = float(at or 0)
        going = {name: until_s for name, until_s in going.items() if until_s > at_s}
        if verb == "claim":
            going[str(key)] = at_s + LASTS_S
        else:
            going.pop(str(key), None)
        assert len(going) <= at_once
