"""Two programs on databases of their own, and a third that decides: real requests between them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.fakes import FakeProgram
from tests.web_server import running

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock
from dogwatch.errors import DogwatchError, NotFound
from dogwatch.rules.decider import Truth
from dogwatch.rules.outside import book
from dogwatch.rules.outside.tables import outside_tables
from dogwatch.rules.quorum.decide import View
from dogwatch.rules.quorum.part import LocationsPart
from dogwatch.rules.quorum.spec import Center, Locations, Quorum
from dogwatch.rules.quorum.tables import quorum_tables


class Target(msgspec.Struct):
    name: str
    status: str
    since_s: float = 0.0


def spawn(_name: str, coroutine: Any) -> asyncio.Task[Any]:
    coroutine.close()
    return asyncio.get_running_loop().create_task(asyncio.sleep(0))


def place(database: Any, now_s: float, status: str, **options: Any) -> LocationsPart:
    made = LocationsPart(
        database, clock=ManualClock(now_s=now_s), spawn=spawn, targets=lambda: [Target("shop", status)]
    )
    made.put_in_force(Locations(**options))
    return made


async def test_two_of_three(open_database: Any) -> None:
    database = await open_database(access_tables(), outside_tables(), quorum_tables())
    now_s = float(await database.read(lambda tx: tx.now_s))
    quorum = Quorum(target="shop", locations=("here", "berlin", "paris"), down=2)
    center = place(database, now_s, "down", name="here", quorum=(quorum,))
    program = FakeProgram()
    program.services.locations = center
    try:
        async with running(program) as server:
            berlin, paris = (
                place(database, now_s, status, name=name, report_to=(Center(url=server.url, token="x"),))
                for name, status in (("berlin", "up"), ("paris", "up"))
            )
            # One place alone, and two that are silent.
            assert (await center.decide())["shop"].truth is Truth.UNKNOWN
            await berlin.report(berlin.options.report_to[0])
            await paris.report(paris.options.report_to[0])
            assert (await center.decide())["shop"].truth is Truth.NO
            assert await database.read(lambda tx: book.changes(tx, 0, now_s)) == []
            paris._targets = lambda: [Target("shop", "down")]
            await paris.report(paris.options.report_to[0])
            found = (await center.decide())["shop"]
            assert (found.truth, found.down) == (Truth.YES, ("here", "paris"))
            [change] = await database.read(lambda tx: book.changes(tx, 0, now_s))
            assert (change.firing, change.alert.summary) == (True, "shop is down from 2 of 3 places")
            # Silence ends nothing: it stays as it was.
            await database.write(lambda tx: tx.run("UPDATE location_reports SET received_s = received_s - 1000"))
            assert (await center.decide())["shop"].truth is Truth.UNKNOWN
            [change] = await database.read(lambda tx: book.changes(tx, 0, now_s))
            assert change.firing
            paris._targets = lambda: [Target("shop", "up")]
            await berlin.report(berlin.options.report_to[0])
            await paris.report(paris.options.report_to[0])
            assert (await center.decide())["shop"].truth is Truth.NO
            [change] = await database.read(lambda tx: book.changes(tx, 0, now_s))
            assert not change.firing
            with pytest.raises(NotFound):
                await center.hear("mars", {"shop": View(status="down")})
            mars = place(database, now_s, "down", name="mars", report_to=(Center(url=server.url, token="x"),))
            with pytest.raises(DogwatchError, match="404"):
                await mars.report(mars.options.report_to[0])
            for one in (berlin, paris, mars):
                await one.stop()
    finally:
        await center.stop()
