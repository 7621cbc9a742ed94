"""Windows that people make: durable on both databases, audited, seen by every process, ended once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.incidents import ANNA, START, Watched

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock
from dogwatch.errors import Conflict, NotFound, UsageError
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.maintenance import Calendar, MaintenanceSpec
from dogwatch.rules.planned.part import MaintenancePart, once
from dogwatch.rules.planned.tables import maintenance_tables
from dogwatch.rules.tables import incident_tables
from dogwatch.store.memory import MemoryStore


def spawn(_name: str, coroutine: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


class Configuration:
    def __init__(self, *specs: MaintenanceSpec) -> None:
        self.specs = list(specs)

    def get(self, section: Any) -> Any:
        return self.specs


def part_on(database: Any, now_s: float) -> tuple[MaintenancePart, ManualClock]:
    clock = ManualClock(now_s=now_s)
    return MaintenancePart(database, MemoryStore(clock), clock=clock, spawn=spawn), clock


async def now_of(database: Any) -> float:
    return float(await database.read(lambda tx: tx.now_s))


async def test_made_ended_and_seen_by_another_process(open_database: Any) -> None:
    database = await open_database(access_tables(), maintenance_tables())
    now_s = await now_of(database)
    one, clock = part_on(database, now_s)
    other, other_clock = part_on(database, now_s)
    calendars: list[Calendar] = []
    other.on_change(calendars.append)
    made = await one.add(once("switch", now_s - 60, now_s + 3600, targets=("db-*",), reason="new disk"), ANNA)
    assert (made.state, made.by, made.end_s) == ("on", "user:anna", pytest.approx(now_s + 3600, abs=1))
    await other.refresh()
    assert [window.spec.name for window in calendars[-1].on(now_s)] == ["switch"]
    clock.advance(10)
    other_clock.advance(10)
    ended = await other.end(made.window_id, ANNA, reason="done early")
    assert (ended.state, ended.ended_by) == ("over", "user:anna")
    with pytest.raises(Conflict, match="ended already"):
        await one.end(made.window_id, ANNA)
    with pytest.raises(NotFound):
        await one.end("mw_none", ANNA)
    await one.refresh()
    later_s = await now_of(database)
    assert one.calendar.on(later_s + 1) == ()
    # What it covered until then stays planned.
    planned = one.calendar.planned({"db-1": {}, "shop": {}}, since_s=now_s - 120, until_s=now_s + 3600)
    [(begin, end)] = planned["db-1"]
    assert begin == pytest.approx(now_s - 60, abs=1)
    assert end <= later_s + 1
    rows = await database.read(lambda tx: tx.rows("SELECT actor, verb, name FROM audit_events ORDER BY number"))
    assert rows == [("user:anna", "create", "maintenance switch"), ("user:anna", "change", "maintenance switch")]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "x"}, "says not when"),
        ({"name": " ", "cron": "0 3 * * *", "duration": 60.0}, "needs a name"),
        ({"name": "x", "cron": "0 99 * * *", "duration": 60.0}, "cron"),
        ({"name": "x", "from_": "2020-01-01", "to": "2020-01-02"}, "over already"),
        ({"name": "x", "from_": "22:00", "to": "23:00", "time_zone": "Mars/Base"}, "Mars"),
    ],
)
async def test_what_says_nothing_sensible_is_refused(open_database: Any, fields: Any, says: str) -> None:
    database = await open_database(access_tables(), maintenance_tables())
    part, _clock = part_on(database, await now_of(database))
    with pytest.raises(UsageError, match=says):
        await part.add(MaintenanceSpec(**fields), ANNA)
    assert await database.read(lambda tx: tx.rows("SELECT window_id FROM maintenance_windows")) == []


async def test_windows_of_the_configuration_are_shown_and_cannot_be_ended_here(open_database: Any) -> None:
    database = await open_database(access_tables(), maintenance_tables())
    part, _clock = part_on(database, START)
    spec = MaintenanceSpec(name="backups", cron="0 3 * * *", duration=3600.0, schedules=("*",))
    part.prepare(Configuration(spec)).swap()
    [shown] = part.windows()
    assert (shown.window_id, shown.by, shown.state) == ("backups", "", "next")
    with pytest.raises(Conflict, match="configuration"):
        await part.end("backups", ANNA)
    assert len(part.frozen("nightly")) == 1
    await part.stop()


async def test_a_window_made_now_keeps_an_incident_from_opening(open_database: Any) -> None:
    database = await open_database(access_tables(), notify_tables(), incident_tables(), maintenance_tables())
    watched = Watched(database)
    calendar = Calendar()
    watched.part._around = type(watched.part._around)(
        **{
            name: getattr(watched.part._around, name)
            for name in watched.part._around.__struct_fields__
            if name != "calendar"
        },
        calendar=lambda: calendar,
    )
    part, _clock = part_on(database, START)
    await watched.pass_time(30, db=0.1)
    await part.add(once("work", START, START + 100, targets=("db",)), ANNA)
    calendar = part.calendar
    await watched.pass_time(60, db=-1)
    assert await watched.titles() == []
    # It goes on after the window: then it is told, once it has settled.
    await watched.pass_time(60, db=-1)
    assert await watched.titles() == ["#1 opened: db is down: timeout"]
    await watched.part.stop()
