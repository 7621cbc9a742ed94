"""Alerts of others on both databases: they open and resolve incidents, outlive restarts, and end by themselves."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from tests.incidents import OPTIONS, START, Watched
from tests.unit_alerts import alertmanager_payload

from dogwatch.access.tables import access_tables
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.backtest_files import rehearse_file
from dogwatch.rules.desk import Setting
from dogwatch.rules.escalation import Policy
from dogwatch.rules.maintenance import Calendar
from dogwatch.rules.outside import book
from dogwatch.rules.outside.read import OutsideAlert, read_alerts
from dogwatch.rules.outside.tables import outside_tables
from dogwatch.rules.recording import Recording
from dogwatch.rules.spec import RuleSpec, compile_rule
from dogwatch.rules.tables import incident_tables
from dogwatch.rules.topology import Topology


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


READS = RuleSpec(name="both", when='probe.duration_s > 1 && alert.firing["HighLatency"]')
ALONE = RuleSpec(name="theirs", when='alert.firing["alertmanager:HighLatency"]', for_=20.0)
NOT = RuleSpec(name="quiet", when="probe.duration_s > 1 && !alert.firing")


async def _moments(heard: Outside) -> dict[tuple[str, str], list[tuple[str, float]]]:
    rows = await heard.database.read(
        lambda tx: tx.rows("SELECT rule, target, kind, time_s FROM incident_events WHERE rule <> '' ORDER BY time_s")
    )
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for rule, target, kind, time_s in rows:
        found.setdefault((str(rule), str(target)), []).append((str(kind), float(time_s or 0) - START))
    return found


async def test_rules_read_alerts_of_others_live_after_a_restart_and_in_a_backtest(open_database: Any) -> None:
    database = await open_database(access_tables(), notify_tables(), incident_tables(), outside_tables())
    heard = Outside(database, rules=[READS, ALONE, NOT])
    await heard.pass_time(10, db=2.0, shop=0.1)
    assert set(heard.part.firing()) == {"quiet"}
    await heard.hear(alert())
    await heard.pass_time(10, db=2.0, shop=2.0)
    # Of db only: the alert is about it. A rule over alerts alone waits for its time.
    assert dict(heard.part.firing()) == {"both": 1, "quiet": 1, "alertmanager:HighLatency": 1}
    await heard.pass_time(20, db=2.0, shop=0.1)
    assert dict(heard.part.firing()) == {"both": 1, "theirs": 1, "alertmanager:HighLatency": 1}
    begun = heard.part
    heard.part = heard.begin()
    await begun.stop()
    await heard.pass_time(20, db=2.0, shop=0.1)
    assert dict(heard.part.firing()) == {"both": 1, "theirs": 1, "alertmanager:HighLatency": 1}
    await heard.hear(alert("resolved"))
    await heard.pass_time(10, db=2.0, shop=0.1)
    assert dict(heard.part.firing()) == {"quiet": 1}
    live = await _moments(heard)
    # The database's clock is not the test's: what was kept is put to when it was heard.
    (kept,) = await database.read(lambda tx: book.firings(tx, 0.0, 4e9))
    assert (kept.alert.rule, kept.ended_s is not None) == ("alertmanager:HighLatency", True)
    await database.write(
        lambda tx: tx.run(
            "UPDATE outside_firings SET begun_s = :begun, ended_s = :ended, ends_s = :ended",
            begun=START + 15.5,
            ended=START + 65.5,
        )
    )
    found = await heard.part.rehearse(since_s=heard.clock.now_s() - START)
    again: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for note in found.notes:
        if note.rule:
            again.setdefault((note.rule, note.target), []).append((note.kind, note.time_s - START))
    assert {key: [kind for kind, _ in notes] for key, notes in again.items()} == {
        key: [kind for kind, _ in notes] for key, notes in live.items()
    }
    assert {key: again[key] for key in again if key[0] in ("both", "quiet")} == {
        key: live[key] for key in live if key[0] in ("both", "quiet")
    }
    assert {rule for rule, _ in live} == {"both", "quiet", "theirs", "alertmanager:HighLatency"}
    await heard.part.stop()


async def test_alerts_are_in_files_of_signals(open_database: Any) -> None:
    database = await open_database(access_tables(), notify_tables(), incident_tables(), outside_tables())
    heard = Outside(database, rules=[ALONE])
    await heard.pass_time(10, db=0.1, shop=0.1)
    await heard.hear(alert())
    await database.write(lambda tx: tx.run("UPDATE outside_firings SET begun_s = :begun", begun=START + 15.0))
    await heard.pass_time(60, db=0.1, shop=0.1)
    data = b"".join([part async for part in heard.part.record(since_s=START, until_s=heard.clock.now_s())])
    recording = Recording(io.BytesIO(data), "x")
    setting = Setting(policy=Policy(OPTIONS), topology=Topology(recording.head.targets), calendar=Calendar())
    found = rehearse_file(recording, setting, [compile_rule(ALONE)])
    assert found.fired == {"alertmanager:HighLatency": 1, "theirs": 1}
    await heard.part.stop()


async def test_when_alerts_were_out_is_kept_once_for_each_time(open_database: Any) -> None:
    database = await open_database(access_tables(), outside_tables())
    now_s = float(await database.read(lambda tx: tx.now_s))
    for status in ("firing", "firing", "resolved", "resolved", "firing"):
        await database.write(lambda tx, status=status: book.take(tx, [alert(status, now_s)]))
    kept = await database.read(lambda tx: book.firings(tx, now_s - 60, now_s + 60))
    assert [one.ended_s is not None and one.ended_s < now_s + 60 for one in kept] == [True, False]
    assert await database.read(lambda tx: book.firings(tx, now_s - 120, now_s - 60)) == []
