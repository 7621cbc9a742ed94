"""Runs whose workers are killed, stopped and restarted, on both databases: what was begun ends, and once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.lives import Lives, check_effects, lives, random_job
from tests.postgres import Postgres, server
from tests.runs import book

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunFilter, StepRun
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

TTL_S = 1.2


@pytest.fixture(scope="module")
def postgres(leaks: Any) -> Iterator[Postgres]:
    leaks.allow("process:postgres*", reason="the server lives for the whole module")
    with server() as running:
        yield running


class Place:
    """A database and the processes on it. together: several can use it at the same time."""

    def __init__(self, lives: Lives, url: str) -> None:
        self.lives, self.url = lives, url
        self.together = not url.startswith("sqlite:")

    def begin(self, jobs: Any, **life: Any) -> int:
        start = life.pop("start", [[job, job] for job in jobs])
        return self.lives.begin(url=self.url, jobs=jobs, start=start, **{"ttl_s": TTL_S} | life)

    def rows(self) -> dict[tuple[str, str], StepRun]:
        return asyncio.run(self._rows())

    async def _rows(self) -> dict[tuple[str, str], StepRun]:
        tables = (access_tables(), engine_tables())
        if self.together:
            database: Any = await open_postgres(self.url, tables)
        else:
            database = await open_sqlite(Path(self.url.removeprefix("sqlite:")), tables, SystemClock())
        try:
            runs = book(database)
            found = (await runs.find(RunFilter(limit=100))).items
            self.runs = {run.job: run for run in found}
            return {(run.job, row.name): row for run in found for row in await runs.steps(run.run_id)}
        finally:
            await database.close()

    def check(self, jobs: Any) -> dict[tuple[str, str], StepRun]:
        rows = self.rows()
        assert all(row.state.ended for row in rows.values()), rows
        check_effects(self.lives, jobs, rows)
        return rows


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with lives(tmp_path) as running:
        if request.param == "sqlite":
            yield Place(running, f"sqlite:{tmp_path / 'state.db'}")
            return
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create()
        try:
            yield Place(running, url)
        finally:
            running.close_lives()
            server.drop(url)


def jobs_of(*steps: dict[str, Any], **job: Any) -> dict[str, Any]:
    return {"one": {"steps": [{"needs": [], **step} for step in steps], **job}}


def kill_again_and_again(place: Place, jobs: Any, kills: list[int]) -> None:
    """Let lives die at those instants, and the last one live on. Where it can be, another worker is always there."""
    beside = [place.begin(jobs)] if place.together and random.Random(len(kills)).random() < 0.5 else []
    for kill_at in kills:
        life = place.begin(jobs, kill_at=kill_at)
        if place.lives.ended(life) == 0:
            break
    else:
        life = place.begin(jobs)
        assert place.lives.ended(life) == 0
    for other in beside:
        assert place.lives.ended(other) == 0


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random_instants(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    jobs = {f"j{number}": random_job(chance) for number in range(4)}
    kill_again_and_again(place, jobs, [chance.randint(1, 60) for _ in range(chance.randint(1, 4))])
    place.check(jobs)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 300))
def test_killed_at_random_instants_for_long(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    jobs = {f"j{number}": random_job(chance) for number in range(chance.randint(1, 6))}
    kill_again_and_again(place, jobs, [chance.randint(1, 80) for _ in range(chance.randint(1, 6))])
    place.check(jobs)


def test_killed_at_every_boundary_of_a_small_run(place: Place) -> None:
    """Claim, begin, output, end: before and after each, and in the middle of the effects."""
    jobs = jobs_of({"name": "a", "effect": {}}, {"name": "b", "effect": {}, "needs": ["a"]})
    instants = list(range(1, 18)) if not place.together else list(range(1, 18, 3))
    for kill_at in instants:
        start = [["one", f"k{kill_at}"]]
        life = place.begin(jobs, kill_at=kill_at, start=start)
        if place.lives.ended(life) == 0:
            assert kill_at > 12, "a run has more instants than this"
            continue
        assert place.lives.ended(place.begin(jobs, start=start)) == 0
    ends = {(line.run, line.step) for line in place.lives.lines() if line.what == "end"}
    assert len(ends) == 2 * len(instants)
