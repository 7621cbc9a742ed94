"""Remedies by the live part on both databases: decided, claimed and started in one transaction, once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.incidents import ANNA, Target
from tests.remedying import DO, REMEDY, Acted, probe

from dogwatch.access.tables import access_tables
from dogwatch.engine.tables import engine_tables
from dogwatch.errors import Conflict, TransientError
from dogwatch.notify.message import Message
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.escalation import IncidentOptions
from dogwatch.rules.remedy import budget
from dogwatch.rules.remedy.spec import BudgetSpec
from dogwatch.rules.remedy.tables import remedy_tables
from dogwatch.rules.remedy.values import Budget
from dogwatch.rules.spec import RuleSpec
from dogwatch.rules.tables import incident_tables

TABLES = (access_tables(), engine_tables(), notify_tables(), incident_tables(), remedy_tables())

# For the number of targets one database is enough.
ONE = pytest.mark.parametrize("open_database", ["sqlite"], indirect=True)


@pytest.fixture
async def database(open_database: Any) -> Any:
    return await open_database(*TABLES)


@pytest.fixture
async def acted(database: Any) -> Any:
    one = Acted(database, [probe("db")])
    yield one
    await one.part.stop()


async def test_a_decision_and_its_run_are_on_disk_together_and_once(acted: Acted) -> None:
    await acted.pass_time(10, db=0.1)
    await acted.pass_time(5, db=-1)
    (run,) = await acted.runs()
    assert (run.key, run.actor.kind, run.actor.name) == ("remedy/1/probe:db/db/0/1", "rule", "probe:db")
    assert run.parameters["incident"] == 1
    assert run.trigger.data["targets"] == ["db"]
    # The process dies before anybody works on it; the next one goes on with the same run.
    await acted.restart()
    await acted.pass_time(30, db=-1)
    assert [one.run_id for one in await acted.runs()] == [run.run_id]
    await acted.book.cancel(run.run_id, ANNA, reason="not now")
    await acted.pass_time(10, db=-1)
    (action,) = await acted.actions()
    assert (action.run_id, action.outcome) == (run.run_id, "declined")
    assert len(await acted.runs()) == 1


async def test_what_the_database_refuses_is_neither_decided_nor_started(acted: Acted) -> None:
    acted.values["incidents"] = IncidentOptions(notify=("ops",), settle=0.0)
    await acted.restart()
    await acted.pass_time(10, db=0.1)
    acted.fails = 1
    with pytest.raises(TransientError):
        await acted.pass_time(5, db=-1)
    assert await acted.runs() == []
    acted.fails = 0
    await acted.pass_time(10, db=-1)
    assert len(await acted.runs()) == 1


async def test_a_budget_that_others_used_up_refuses_the_start(database: Any) -> None:
    acted = Acted(database, [probe("db", budget=BudgetSpec(max=2, group="web", at_once=5))])
    shared = Budget(scope="web", max=2, per_s=3600.0, at_once=100)
    for name in ("x", "y"):
        await database.write(lambda tx, name=name: budget.claim(tx, shared, name, lasts_s=60.0))
    await acted.pass_time(10, db=0.1)
    await acted.pass_time(20, db=-1)
    assert await acted.runs() == []
    (action,) = await acted.actions()
    assert (action.run_id, action.outcome) == ("", "refused")
    assert "2 of 2 in 1h are used up" in action.reason
    texts = [note.text for note in await acted.part.timeline(1) if note.kind == "held"]
    assert any("used up" in text for text in texts)
    # The others' were never done: as soon as it is worth it, it is tried again.
    await database.write(lambda tx: budget.release(tx, "x", void=True))
    acted.clock.advance(3700.0)
    await acted.pass_time(20, db=-1)
    assert len(await acted.runs()) == 1
    await acted.part.stop()


@ONE
async def test_a_rehearsal_of_what_was_recorded_starts_what_the_live_rules_started(database: Any) -> None:
    rule = RuleSpec(
        name="slow",
        when="probe.duration_s > 1",
        do=(DO,),
        mode="auto",
        remedy=REMEDY,
        budget=BudgetSpec(max=2, at_once=2),
    )
    acted = Acted(database, [probe("db"), probe("shop"), probe("till")], rules=[rule])
    await acted.pass_time(10, db=0.1, shop=0.1, till=0.1)
    await acted.pass_time(25, db=-1, shop=2.0, till=2.0)
    await acted.pass_time(10, db=0.1, shop=0.1, till=0.1)
    live = sorted(run.key for run in await acted.runs())
    assert live == ["remedy/1/slow/shop/0/1", "remedy/2/slow/till/0/1", "remedy/3/probe:db/db/0/1"]
    found = await acted.part.rehearse(since_s=60.0)
    assert sorted(start.key for start in found.starts) == live
    # Another rule over the same record: it would only have said what it would do.
    planned = await acted.part.rehearse(since_s=60.0, specs=[msgspec.structs.replace(rule, mode="plan")])
    assert sorted(start.key for start in planned.starts) == ["remedy/1/probe:db/db/0/1"]
    assert planned.planned == 2
    await acted.part.stop()


async def test_a_question_says_how_it_is_answered(database: Any) -> None:
    acted = Acted(database, [probe("db", mode="approve")])
    acted.address = "https://watch.example/"
    await acted.restart()
    await acted.pass_time(10, db=0.1)
    await acted.pass_time(20, db=-1)
    (run,) = await acted.runs()
    rows = await database.read(lambda tx: tx.rows("SELECT body FROM outbox ORDER BY message_id"))
    messages = [msgspec.json.decode(str(row[0]), type=Message) for row in rows]
    asked = next(one for one in messages if one.type == "incident.asked")
    assert f"approve or reject: https://watch.example/runs/{run.run_id}" in asked.text
    assert asked.data["runs"] == [run.run_id]
    assert {one.url for one in messages} == {"https://watch.example/incidents/1"}
    acted.address = ""
    await acted.part.stop()


async def test_of_two_processes_one_acts(acted: Acted) -> None:
    await acted.pass_time(10, db=0.1)
    other = acted.begin()
    await other.turn()
    acted.part, first = other, acted.part
    await acted.pass_time(5, db=-1)
    with pytest.raises(Conflict, match="another process"):
        await first.turn()
    assert len(await acted.runs()) == 1
    await first.stop()


@ONE
async def test_five_thousand_targets_behind_one_are_one_incident_and_one_action(database: Any) -> None:
    names = [f"t{number:04}" for number in range(5000)]
    probes = [probe("db"), *(probe(name, depends_on=("db",), budget=BudgetSpec(max=50, group="web")) for name in names)]
    acted = Acted(database, probes)
    await acted.pass_time(5, db=0.1, **dict.fromkeys(names, 0.1))
    await acted.pass_time(5, db=-1, **dict.fromkeys(names, -1.0))
    await acted.pass_time(15)
    (incident,) = (await acted.part.find()).items
    assert (incident.root, incident.explains) == ("db", 5001)
    assert [run.trigger.data["targets"] for run in await acted.runs()] == [["db"]]
    assert await acted.titles() == ["#1 opened: db is down: timeout; explains 5000 more"]
    assert len(await acted.part.timeline(1)) < 150
    found = await acted.part.explain(1)
    assert "4980 more are explained by db" in [one.why for one in found.not_done]
    await acted.part.stop()


@ONE
async def test_five_thousand_targets_of_their_own_keep_to_the_budget(database: Any) -> None:
    names = [f"t{number:04}" for number in range(5000)]
    acted = Acted(database, [probe(name, budget=BudgetSpec(max=7, group="all", at_once=3)) for name in names])
    acted.targets = [Target(name=name) for name in names]
    await acted.pass_time(5, **dict.fromkeys(names, 0.1))
    await acted.pass_time(5, **dict.fromkeys(names, -1.0))
    await acted.pass_time(10)
    assert len(await acted.runs()) == 3
    for run in await acted.runs():
        await acted.book.cancel(run.run_id, ANNA)
    await acted.pass_time(10)
    # Somebody said no to each, and nothing was done: these are not tried again, and others have their turn.
    runs = await acted.runs()
    assert len({run.trigger.data["targets"][0] for run in runs}) == 6
    assert sum(not run.state.ended for run in runs) == 3
    assert len(await acted.titles()) <= 12
    await acted.part.stop()
