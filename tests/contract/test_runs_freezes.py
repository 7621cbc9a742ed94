"""Deployments wait while a freeze is on, on SQLite and PostgreSQL: what is none goes on, and what has begun, too."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.contract.conftest import Open
from tests.runs import ALICE, book, finish, identity, job, park, start, step

from dogwatch.access.tables import access_tables
from dogwatch.engine.book.setting import Freeze
from dogwatch.engine.runs import RunBook
from dogwatch.engine.spec import Concurrency
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunState, StepState
from dogwatch.store.database import Database

JOBS = (
    job("deploy", deployment=True),
    job("labelled", labels={"deployment": "true", "team": "shop"}),
    job("one-by-one", deployment=True, concurrency=Concurrency()),
    job("build"),
)


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(engine_tables(), access_tables())


class Winter:
    """A freeze that tests switch."""

    def __init__(self) -> None:
        self.on, self.left_s, self.seen = True, 1000.0, list[tuple[str, Mapping[str, str]]]()

    def __call__(self, name: str, labels: Mapping[str, str], now_s: float) -> Freeze | None:
        self.seen.append((name, labels))
        return Freeze(name="winter", end_s=now_s + self.left_s) if self.on else None


async def working(database: Database, winter: Winter) -> RunBook:
    runs = book(database, *JOBS, frozen=winter)
    await runs.register(identity())
    return runs


async def taken(runs: RunBook) -> list[str]:
    claimed = await runs.claim("w1", 10)
    for one in claimed:
        await finish(runs, one)
    return sorted(one.run.job for one in claimed)


async def test_deployments_wait_until_it_ends(database: Database) -> None:
    winter = Winter()
    runs = await working(database, winter)
    ids = {spec.name: (await start(runs, spec.name)).run.run_id for spec in JOBS}
    await start(runs, "one-by-one")
    assert await taken(runs) == ["build"]
    assert {name for name, _ in winter.seen} == {"deploy", "labelled", "one-by-one"}
    assert ("labelled", {"deployment": "true", "team": "shop"}) in winter.seen
    held = await runs.show(ids["deploy"])
    assert (held.state, held.waiting_for) == (RunState.QUEUED, "freeze winter")
    # A claim later finds nothing to do, and asks nobody.
    winter.seen.clear()
    assert await taken(runs) == []
    assert winter.seen == []
    # It is told that freezes are others now, and looks: this one is still on.
    assert await runs.thaw() == 4
    assert await taken(runs) == []
    assert len(winter.seen) >= 4
    winter.on = False
    assert await runs.thaw() == 4
    assert await taken(runs) == ["deploy", "labelled", "one-by-one"]
    assert await taken(runs) == ["one-by-one"]
    assert await runs.thaw() == 0


async def test_it_ends_by_itself(database: Database) -> None:
    winter = Winter()
    winter.left_s = 0.0
    runs = await working(database, winter)
    await start(runs, "deploy")
    assert await taken(runs) == []
    winter.on = False
    # Its end has come; nobody needs to say so.
    assert await taken(runs) == ["deploy"]


async def test_what_has_begun_goes_on(database: Database) -> None:
    winter = Winter()
    winter.on = False
    runs = await working(database, winter)
    await start(runs, "deploy")
    (claimed,) = await runs.claim("w1", 10)
    await park(runs, claimed, step(state=StepState.WAITING, wake_s=1.0))
    winter.on = True
    assert await taken(runs) == ["deploy"]


async def test_what_is_held_is_paused_resumed_and_cancelled_as_others_are(database: Database) -> None:
    winter = Winter()
    runs = await working(database, winter)
    one, two = [(await start(runs, "deploy")).run.run_id for _ in range(2)]
    assert await taken(runs) == []
    await runs.pause(one, ALICE)
    await runs.resume(one, ALICE)
    assert await taken(runs) == []
    assert (await runs.show(one)).waiting_for == "freeze winter"
    assert (await runs.cancel(two, ALICE)).state is RunState.CANCELLED
    winter.on = False
    await runs.thaw()
    assert await taken(runs) == ["deploy"]
