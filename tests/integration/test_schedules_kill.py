"""Schedulers killed at random moments around fires, in real time: every fire of every second is one run."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.schedules_under_kill import SPECS, open_there
from tests.schedules import started

from dogwatch.engine.schedules import records
from dogwatch.engine.schedules.decide import upcoming
from dogwatch.engine.schedules.plan import build_plan, shared_zones
from dogwatch.engine.schedules.records import fire_text

LASTS_S = 12.0


@contextlib.contextmanager
def victims(where: str, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [start(where) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def start(where: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.schedules_under_kill", where],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill_for(where: str, count: int) -> int:
    """Kill one after another, within a few milliseconds of a fire; return how often."""
    kills, random_ = 0, random.Random(7)
    end_s = time.monotonic() + LASTS_S
    with victims(where, count) as processes:
        # On a busy machine a start takes seconds.
        while time.monotonic() < end_s or kills < 4:
            now_s = time.time()
            at_s = int(now_s) + random_.choice([1.0, 1.5, 2.0]) + random_.uniform(-0.003, 0.02)
            time.sleep(max(0.0, at_s - now_s))
            place = kills % count
            processes[place].kill()
            processes[place].wait()
            assert processes[place].stdout is not None
            processes[place].stdout.close()  # type: ignore[union-attr]
            processes[place] = start(where)
            kills += 1
        time.sleep(1.2)
    return kills


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_each_fire_is_one_run_whatever_is_killed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = request.getfixturevalue("postgres").create() if kind == "postgresql" else str(tmp_path / "state.db")
    # One process owns a file; on a server two schedulers race.
    kills = kill_for(where, 2 if kind == "postgresql" else 1)
    database = await open_there(where)
    try:
        found = await database.read(started)
        known = await database.read(records.all_records)
    finally:
        await database.close()
    assert kills >= 4
    for spec in SPECS:
        prefix = f"schedule/{spec.name}/"
        seen = [key.removeprefix(prefix) for key in found if key.startswith(prefix)]
        assert len(seen) == len(set(seen)), "a fire ran twice"
        plan, cursor_s = build_plan(spec, shared_zones()), known[spec.name].cursor_s
        wanted = []
        for fire in upcoming(plan, cursor_s - 60):
            if fire.fire_s > cursor_s:
                break
            wanted.append(fire_text(fire.fire_s))
        first = min(seen, key=wanted.index)
        assert sorted(seen) == sorted(wanted[wanted.index(first) :]), "a fire was lost"
        assert len(seen) >= LASTS_S / 2 - 1
        assert known[spec.name].missed == 0
