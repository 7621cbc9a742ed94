"""Alerts of others on both databases: they open and resolve incidents, outlive restarts, and end by themselves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.incidents import START, Watched
from tests.unit_alerts import alertmanager_payload

from dogwatch.access.tables import access_tables
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.outside import book
from dogwatch.rules.outside.read import OutsideAlert, read_alerts
from dogwatch.rules.outside.tables import outside_tables
from dogwatch.rules.tables import incident_tables


class Outside(Watched):
    """With alerts of others in the same database."""

    def begin(self) -> Any:
        part = super().begin()
        part._around = msgspec.structs.replace(part._around, outside=True)
        part.put_in_force(part.wanted)
        return part

    async def hear(self, *alerts: OutsideAlert) -> int:
        taken = await self.database.write(lambda tx: book.take(tx, alerts))
        self.part._hear_outside()
        return taken


@pytest.fixture
async def heard(open_database: Any) -> Any:
    database = await open_database(access_tables(), notify_tables(), incident_tables(), outside_tables())
    one = Outside(database)
    yield one
    await one.part.stop()


def alert(status: str = "firing", now_s: float = START) -> OutsideAlert:
    [one] = read_alerts("alertmanager", alertmanager_payload(status=status), now_s)
    return one


async def test_an_alert_opens_an_incident_and_resolves_it(heard: Outside) -> None:
    await heard.pass_time(10, db=0.1, shop=0.1)
    assert await heard.hear(alert()) == 1
    await heard.pass_time(30, db=0.1, shop=0.1)
    assert await heard.titles() == ["#1 opened: db answers slowly"]
    # What is told again changes nothing.
    await heard.hear(alert())
    await heard.pass_time(10, db=0.1, shop=0.1)
    assert len(await heard.titles()) == 1
    await heard.hear(alert("resolved"))
    await heard.pass_time(10, db=0.1, shop=0.1)
    assert (await heard.titles())[1:] == ["#1 resolved: db answers slowly"]
    assert await heard.hear(alert("resolved")) == 0


async def test_it_explains_what_depends_on_its_target(heard: Outside) -> None:
    await heard.pass_time(10, db=0.1, shop=0.1)
    await heard.hear(alert())
    await heard.pass_time(60, db=0.1, shop=-1)
    [title, *more] = await heard.titles()
    assert title == "#1 opened: db answers slowly; explains 1 more"
    assert more == []


async def test_a_restart_and_a_reload_forget_none(heard: Outside) -> None:
    await heard.pass_time(10, db=0.1)
    await heard.hear(alert())
    await heard.pass_time(30, db=0.1)
    await heard.restart()
    await heard.pass_time(20, db=0.1)
    heard.part.put_in_force(heard.part.wanted)
    await heard.pass_time(20, db=0.1)
    assert await heard.titles() == ["#1 opened: db answers slowly"]
    # What was said while nothing ran is heard at the next start.
    await heard.part.stop()
    await heard.database.write(lambda tx: book.take(tx, [alert("resolved")]))
    heard.part = heard.begin()
    await heard.pass_time(20, db=0.1)
    assert (await heard.titles())[1:] == ["#1 resolved: db answers slowly"]


async def test_what_is_not_told_again_is_over(heard: Outside) -> None:
    await heard.pass_time(10, db=0.1)
    one = msgspec.structs.replace(alert(), ends_s=heard.clock.now_s() + 100)
    await heard.hear(one)
    await heard.pass_time(60, db=0.1)
    assert len(await heard.titles()) == 1
    await heard.pass_time(60, db=0.1)
    assert (await heard.titles())[1:] == ["#1 resolved: db answers slowly"]
    now_s = heard.clock.now_s()
    await heard.database.write(lambda tx: book.purge(tx, now_s + 8 * 86400))
    assert await heard.database.read(lambda tx: tx.rows("SELECT alert_key FROM outside_alerts")) == []
