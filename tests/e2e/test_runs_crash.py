"""Runs whose workers are killed, stopped and restarted, on both databases: what was begun ends, and once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
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
ON_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("place", ["postgresql"], indirect=True)


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


@pytest.mark.parametrize("seed", range(6))
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


@pytest.mark.soak
@ON_POSTGRESQL
@pytest.mark.parametrize("seed", range(5))
def test_a_herd_of_workers_that_are_killed_all_the_time(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    jobs = {f"j{number}": random_job(chance) for number in range(60)}
    for job in jobs.values():
        for spec in job["steps"]:
            spec["effect"]["hold_s"] = chance.uniform(0.0, 1.5)
    herd = [place.begin(jobs) for _ in range(3)]
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.2, 1.0))
        number = chance.randrange(3)
        if place.lives.kill(herd[number]) == 0:
            break
        herd[number] = place.begin(jobs)
    herd = [life for life in herd if life not in place.lives.codes] + [place.begin(jobs)]
    assert {place.lives.ended(life) for life in herd} == {0}
    place.check(jobs)


def test_killed_at_every_boundary_of_a_small_run(place: Place) -> None:
    """Claim, begin, output, end: before and after each, and in the middle of the effects."""
    jobs = jobs_of({"name": "a", "effect": {}}, {"name": "b", "effect": {}, "needs": ["a"]})
    instants = list(range(1, 18)) if not place.together else list(range(1, 18, 4))
    for kill_at in instants:
        start = [["one", f"k{kill_at}"]]
        life = place.begin(jobs, kill_at=kill_at, start=start)
        if place.lives.ended(life) == 0:
            assert kill_at > 12, "a run has more instants than this"
            continue
        assert place.lives.ended(place.begin(jobs, start=start)) == 0
    ends = {(line.run, line.step) for line in place.lives.lines() if line.what == "end"}
    assert len(ends) == 2 * len(instants)


def test_the_lives_really_die(place: Place) -> None:
    jobs = jobs_of({"name": "a", "effect": {"hold_s": 0.01}})
    codes = [place.lives.ended(place.begin(jobs, kill_at=number)) for number in (1, 3, 5)]
    assert codes == [-signal.SIGKILL] * 3
    assert place.lives.ended(place.begin(jobs)) == 0
    assert place.check(jobs)["one", "a"].state == "succeeded"


@ON_POSTGRESQL
def test_a_worker_is_killed_while_others_work(place: Place) -> None:
    """Two that stay look for it, and each of its runs goes to one of them."""
    jobs = {f"j{number}": {"steps": [step("a"), step("b", needs=["a"])]} for number in range(6)}
    first = place.begin(jobs)
    place.lives.saw("j0", "a")
    others = [place.begin(jobs), place.begin(jobs)]
    os.kill(first, signal.SIGKILL)
    assert [place.lives.ended(other) for other in others] == [0, 0]
    rows = place.check(jobs)
    assert {row.state.value for row in rows.values()} == {"succeeded"}


def step(name: str, *, needs: list[str] | None = None, **effect: Any) -> dict[str, Any]:
    return {"name": name, "needs": needs or [], "effect": {"hold_s": 0.2} | effect}


@ON_POSTGRESQL
def test_a_worker_that_was_stopped_for_too_long_does_nothing_when_it_goes_on(place: Place) -> None:
    jobs = jobs_of(step("a", hold_s=0.5), step("b", needs=["a"]))
    stopped = place.begin(jobs)
    place.lives.saw("one", "a")
    os.kill(stopped, signal.SIGSTOP)
    other = place.begin(jobs)
    taken = place.lives.saw("one", "a", times=2)
    assert taken.pid == other
    went_on_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.kill(stopped, signal.SIGCONT)
    assert place.lives.ended(other) == 0
    assert place.lives.ended(stopped) == 0
    late = [line for line in place.lives.lines() if line.pid == stopped and line.at_s >= went_on_s]
    assert [line.what for line in late] == ["cut"], "it finished nothing and began nothing"
    rows = place.rows()
    assert [row.outputs["by"] for row in rows.values()] == [other, other]


@ON_SQLITE
def test_a_process_that_was_stopped_alone_on_its_database_goes_on(place: Place) -> None:
    jobs = jobs_of(step("a"), step("b", needs=["a"]))
    life = place.begin(jobs, ttl_s=0.6)
    place.lives.saw("one", "a")
    os.kill(life, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(life, signal.SIGCONT)
    assert place.lives.ended(life) == 0
    place.check(jobs)
    assert len(place.lives.lines()) == 4


@ON_POSTGRESQL
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_postgresql_restarted_in_the_middle_repeats_nothing(
    place: Place, request: pytest.FixtureRequest, how: signal.Signals
) -> None:
    server: Postgres = request.getfixturevalue("postgres")
    jobs = {f"j{number}": {"steps": [step("a", hold_s=0.6), step("b", needs=["a"])]} for number in range(3)}
    lives = [place.begin(jobs, ttl_s=20.0), place.begin(jobs, ttl_s=20.0)]
    place.lives.saw("j2", "a")
    server.stop(how)
    time.sleep(0.8)  # the steps end while it is gone
    server.start()
    assert [place.lives.ended(life) for life in lives] == [0, 0]
    rows = place.check(jobs)
    assert {row.state.value for row in rows.values()} == {"succeeded"}
    assert len(place.lives.lines()) == 2 * len(rows), "each began once and ended once"


@ON_POSTGRESQL
def test_postgresql_gone_for_longer_than_the_lease_ends_the_steps_in_time(
    place: Place, request: pytest.FixtureRequest
) -> None:
    server: Postgres = request.getfixturevalue("postgres")
    jobs = jobs_of(step("a", hold_s=5.0), step("b", needs=["a"]))
    life = place.begin(jobs, ttl_s=4.2)
    place.lives.saw("one", "a")
    server.stop(signal.SIGQUIT)
    gone_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    cut = place.lives.saw("one", "a", "cut")
    assert cut.at_s - gone_s <= 4.2
    server.start()
    assert place.lives.ended(life) == 0
    place.check(jobs)
    assert [line.what for line in place.lives.lines()] == ["begin", "cut", "begin", "end", "begin", "end"]


def test_a_graceful_stop_lets_steps_end_and_repeats_nothing(place: Place) -> None:
    jobs = jobs_of(step("a"), step("b", needs=["a"]), step("c", needs=["b"]))
    life = place.begin(jobs, ttl_s=60.0)
    place.lives.saw("one", "a")
    os.kill(life, signal.SIGTERM)
    assert place.lives.ended(life) == 0
    assert [line.what for line in place.lives.lines()] == ["begin", "end"]
    started = time.monotonic()
    assert place.lives.ended(place.begin(jobs)) == 0
    assert time.monotonic() - started < 20.0, "it was given back, nobody had to wait for a lost worker"
    place.check(jobs)
    assert [line.what for line in place.lives.lines()] == ["begin", "end"] * 3


def test_a_step_that_outlasts_the_grace_is_cut_and_made_again(place: Place) -> None:
    jobs = jobs_of(step("a", hold_s=0.6), step("b", needs=["a"]))
    life = place.begin(jobs, grace_s=0.05)
    place.lives.saw("one", "a")
    os.kill(life, signal.SIGTERM)
    assert place.lives.ended(life) == 0
    assert place.lives.ended(place.begin(jobs)) == 0
    place.check(jobs)
    assert [line.what for line in place.lives.lines()] == ["begin", "cut", "begin", "end", "begin", "end"]


def test_a_cancel_reaches_children_and_cleanup_runs(place: Place) -> None:
    jobs = {
        "parent": {
            "steps": [
                step("work", hold_s=30.0),
                {"name": "call", "needs": [], "child": "below"},
                step("stop", needs=[], hold_s=0.5, cancels=True),
                {**step("clean", needs=["work", "call", "stop"]), "always": True},
            ]
        },
        "below": {"steps": [step("deep", hold_s=30.0), {**step("sweep", needs=["deep"]), "always": True}]},
    }
    life = place.begin(jobs, start=[["parent", "parent"]])
    assert place.lives.ended(life) == 0
    rows = place.rows()
    assert {job: run.state.value for job, run in place.runs.items() if run.parent} == {"below": "cancelled"}
    said = {(line.step, line.what) for line in place.lives.lines()}
    assert {("work", "cut"), ("deep", "cut"), ("sweep", "end"), ("clean", "end")} <= said
    assert rows["parent", "clean"].state == "succeeded"


def test_a_step_that_gives_up_ends_what_it_called(place: Place) -> None:
    jobs = {
        "parent": {
            "steps": [
                {"name": "call", "needs": [], "child": "below", "timeout": 0.4, "allow_failure": True},
                step("after", needs=["call"], hold_s=0.5),
            ]
        },
        "below": {"steps": [step("deep", hold_s=30.0)]},
    }
    assert place.lives.ended(place.begin(jobs, start=[["parent", "parent"]])) == 0
    rows = place.rows()
    assert rows["parent", "call"].reason == "took longer than 400ms"
    assert place.runs["below"].state == "cancelled"
    assert place.runs["parent"].state == "succeeded"
    assert place.lives.saw("below", "deep", "cut").at_s < place.lives.saw("parent", "after", "end").at_s


# Says whether the process of the attempt before it, or what that one started, is still there.
SCRIPT = """
cd {folder}
for before in $(cat pids 2>/dev/null); do
    if kill -0 "$before" 2>/dev/null; then echo "alive $before" >> said; fi
done
setsid sleep 60 &
echo "$$ $!" > pids
echo begin >> said
sleep 60
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_lost_step_left_behind_is_gone_before_it_is_made_again(
    place: Place, tmp_path: Path, how: signal.Signals
) -> None:
    if how is signal.SIGSTOP and not place.together:
        how = signal.SIGKILL  # nobody takes over from a process that is only stopped
    jobs = jobs_of({"name": "a", "script": SCRIPT.format(folder=tmp_path)})
    said = tmp_path / "said"
    first = place.begin(jobs)
    _wait(lambda: said.exists() and said.read_text().split() == ["begin"], place)
    before = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    os.kill(first, how)
    if how is signal.SIGKILL:
        place.lives.ended(first)
    place.begin(jobs)
    _wait(lambda: said.read_text().count("begin") == 2, place)
    assert "alive" not in said.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in before)
    after = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    place.lives.close_lives()
    _wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in after), place)


def _wait(holds: Any, place: Place) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, place.lives.log.read_text()[-4000:]
        time.sleep(0.01)
