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
        begin(claimers, [url], [str(most), str(per_s), str(at_once)])
        # Long enough for several rounds of the budget; what is shown does not depend on how many there are.
        await asyncio.sleep(1.5)
        claimers[1].kill()
        await asyncio.sleep(2.5)
        rows = await database.read(
            lambda tx: tx.rows("SELECT claim_key, claimed_s, COALESCE(ended_s, until_s) FROM budget_claims")
        )
        await database.close()
    finally:
        for claimer in claimers:
            claimer.kill()
            claimer.wait()
            if claimer.stdout is not None:
                claimer.stdout.close()
        postgres.drop(url)
    spans = sorted((float(begun or 0), float(ended or 0)) for _key, begun, ended in rows)
    assert len(spans) >= most
    # Where it comes back, more than one of them had a part of it.
    assert per_s > 10.0 or len({str(row[0]).split("-")[0] for row in rows}) >= 2
    for begun_s, _ended_s in spans:
        # Of each claim: how many counted with it, and how many were under way.
        assert sum(begun_s - per_s < other <= begun_s for other, _ in spans) <= most
        assert sum(other <= begun_s < ended for other, ended in spans) <= at_once
