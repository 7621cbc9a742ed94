"""What people ask of runs, over SQLite and PostgreSQL: find, pause, cancel, rerun, decide, audit, secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.contract.conftest import Open
from tests.runs import ALICE, BOB, Nothing, book, finish, identity, job, park, start, step
from tests.runs_claimed import _claimed

from dogwatch.access.actor import Actor
from dogwatch.access.tables import access_tables
from dogwatch.engine.ledger import Advance, Claimed, StepRow
from dogwatch.engine.port import AGAIN
from dogwatch.engine.runs import RunBook
from dogwatch.engine.spec import Parameter, StepSpec
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunFilter, RunState, StepState, Trigger
from dogwatch.errors import Conflict, NotAllowed, NotFound, UsageError
from dogwatch.store.database import Database, Tx


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(engine_tables(), access_tables())


def _events(tx: Tx) -> list[dict[str, Any]]:
    return [json.loads(str(row[0])) for row in tx.rows("SELECT body FROM audit_events ORDER BY number")]


async def test_mistakes_are_refused_before_anything_is_written(database: Database) -> None:
    runs = book(database)
    with pytest.raises(NotFound, match="bild") as caught:
        await start(runs, "bild")
    assert "build" in caught.value.hint
    with pytest.raises(UsageError, match="bad"):
        await start(runs, parameters={"bad": 1})
    assert not (await runs.find(RunFilter())).items


async def test_pages_do_not_move_when_runs_begin(database: Database) -> None:
    runs = book(database)
    for n in range(25):
        await start(runs, parameters={"n": n})
    seen: list[int] = []
    cursor = ""
    while True:
        page = await runs.find(RunFilter(limit=10, cursor=cursor))
        seen += [run.parameters["n"] for run in page.items]
        await start(runs, parameters={"n": 100})
        if not (cursor := page.cursor):
            break
    assert seen == list(range(24, -1, -1))
    with pytest.raises(UsageError):
        await runs.find(RunFilter(cursor="x"))


async def test_filters(database: Database) -> None:
    runs = book(database, job("a", labels={"team": "shop"}), job("b"))
    await runs.register(identity())
    first = await start(runs, "a", labels={"say": 'a "quoted\\ %_é'}, trigger=Trigger(kind="rule", name="r"))
    second = await start(runs, "b", labels={"team": "shops"})
    (claimed,) = await runs.claim("w1", 1)
    child = await start(runs, "b", parent=(claimed.run.run_id, "one"))

    async def found(**wanted: Any) -> list[str]:
        return [run.run_id for run in (await runs.find(RunFilter(**wanted))).items]

    ids = [run.run.run_id for run in (first, second, child)]
    assert await found(job="a") == [ids[0]]
    assert await found(trigger="rule") == [ids[0]]
    assert await found(parent=ids[0]) == [ids[2]]
    assert await found(labels={"team": "shop"}) == [ids[0]]
    assert await found(labels={"team": "shop", "say": 'a "quoted\\ %_é'}) == [ids[0]]
    assert await found(labels={"team": "sho"}) == []
    assert await found(states=(RunState.RUNNING,)) == [ids[0]]
    assert await found(states=(RunState.QUEUED, RunState.FAILED)) == [ids[2], ids[1]]
    assert await found(since_s=child.run.created_s + 1) == []


async def test_a_beginning_of_an_id_finds_the_one_run_that_has_it(database: Database) -> None:
    runs = book(database)
    first, second = await start(runs), await start(runs)
    common = next(n for n in range(18) if first.run.run_id[n] != second.run.run_id[n])
    assert (await runs.show(first.run.run_id[: common + 1].upper())).run_id == first.run.run_id
    if common:
        with pytest.raises(Conflict, match="several"):
            await runs.show(first.run.run_id[:common])
    for nothing in ("", "zzzz", "%", "0" * 17, "x" * 40):
        with pytest.raises(NotFound):
            await runs.show(nothing)


async def test_a_run_that_is_due_later_waits_for_it(database: Database) -> None:
    runs = book(database)
    await runs.register(identity())
    now_s = await database.read(lambda tx: tx.now_s)
    later = await start(runs, due_s=now_s + 600)
    assert later.run.state is RunState.SCHEDULED
    far = await start(runs, due_s=now_s + 3600)
    assert not await runs.claim("w1", 5)
    # As if the time had passed.
    await database.write(lambda tx: tx.run("UPDATE runs SET wake_s = wake_s - 600 WHERE wake_s IS NOT NULL"))
    (claimed,) = await runs.claim("w1", 5)
    assert claimed.run.run_id == later.run.run_id
    assert (await runs.pause(far.run.run_id, ALICE)).state is RunState.PAUSED
    assert (await runs.resume(far.run.run_id, ALICE)).state is RunState.SCHEDULED
    assert (await runs.cancel(far.run.run_id, ALICE)).state is RunState.CANCELLED


async def test_a_paused_run_stands_still_until_it_is_resumed(database: Database) -> None:
    runs = book(database)
    claimed = await _claimed(runs)
    run_id = claimed.run.run_id
    assert (await runs.pause(run_id, ALICE, reason="lunch")).reason == "paused by alice: lunch"
    with pytest.raises(Conflict, match="it is paused"):
        await runs.pause(run_id, ALICE)
    assert (await runs.heartbeat("w1", {run_id: claimed.fence})).orders[run_id].paused
    await park(runs, claimed, step(state=StepState.WAITING))
    await runs.signal(run_id, "one", 1)
    assert not await runs.claim("w1", 1)
    before = await runs.show(run_id)
    resumed = await runs.resume(run_id, ALICE)
    assert resumed.state is RunState.RUNNING
    assert resumed.deadline_s > before.deadline_s
    (again,) = await runs.claim("w1", 1)
    assert again.steps[0].signal == (1,)
    with pytest.raises(Conflict, match="not paused"):
        await runs.resume(run_id, ALICE)
    queued = await start(runs)
    assert (await runs.pause(queued.run.run_id, ALICE)).state is RunState.PAUSED
    assert not await runs.claim("w1", 1)
    assert (await runs.resume(queued.run.run_id, ALICE)).state is RunState.QUEUED
    assert len(await runs.claim("w1", 1)) == 1


async def test_cancel_reaches_every_child(database: Database) -> None:
    runs = book(database)
    parent = await _claimed(runs)
    await start(runs, parent=(parent.run.run_id, "a"))
    (child,) = await runs.claim("w1", 1)
    queued = await start(runs, parent=(parent.run.run_id, "b"))
    below = await start(runs, parent=(child.run.run_id, "c"))
    await runs.cancel(parent.run.run_id, ALICE, reason="enough")
    assert (await runs.show(queued.run.run_id)).state is RunState.CANCELLED
    ended = await runs.show(below.run.run_id)
    assert (ended.state, "enough" in ended.reason) == (RunState.CANCELLED, True)
    orders = (await runs.heartbeat("w1", {one.run.run_id: one.fence for one in (parent, child)})).orders
    assert orders[parent.run.run_id].cancel == "enough"
    assert orders[child.run.run_id].cancel
    with pytest.raises(Conflict, match="is being cancelled"):
        await start(runs, parent=(parent.run.run_id, "d"))


async def test_a_parent_hears_of_the_end_of_its_child_even_before_it_waits(database: Database) -> None:
    runs = book(database, outputs=lambda spec, run, steps: {"sum": steps[0].outputs["x"]})
    parent = await _claimed(runs)
    await runs.advance(Advance(run_id=parent.run.run_id, fence=parent.fence, steps=[step("call")]))
    await start(runs, parent=(parent.run.run_id, "call"), key="child")
    (child,) = await runs.claim("w1", 1)
    await finish(runs, child, RunState.SUCCEEDED, step(state=StepState.SUCCEEDED, outputs={"x": 3}))
    await park(runs, parent, step("call", StepState.WAITING))
    (again,) = await runs.claim("w1", 1)
    (payload,) = again.steps[0].signal or (None,)
    assert payload == {"run_id": child.run.run_id, "state": "succeeded", "reason": "", "outputs": {"sum": 3}}


async def test_a_failed_parent_takes_its_children_with_it(database: Database) -> None:
    runs = book(database)
    parent = await _claimed(runs)
    child = await start(runs, parent=(parent.run.run_id, "call"))
    await finish(runs, parent, RunState.FAILED)
    assert (await runs.show(child.run.run_id)).state is RunState.CANCELLED


async def test_rerun_of_what_failed_keeps_what_succeeded(database: Database) -> None:
    cleanup = StepSpec(name="tidy", action=Nothing(), always=True)
    names = ("build", "fan", "deploy")
    spec = job("ship", *(StepSpec(name=name, action=Nothing(text="old")) for name in names), cleanup)
    current = {"ship": spec}
    runs = book(database, current=lambda: current)
    claimed = await _claimed(runs, name="ship", parameters={"env": "prod"}, labels={"a": "b"})
    with pytest.raises(Conflict, match="not ended"):
        await runs.rerun(claimed.run.run_id, BOB)
    await finish(
        runs,
        claimed,
        RunState.FAILED,
        step("build", StepState.SUCCEEDED, outputs={"tag": "v1"}),
        step("fan", StepState.FAILED),
        step("fan[0]", StepState.SUCCEEDED, of="fan", index=0, item="x", outputs={"y": 1}),
        step("fan[1]", StepState.FAILED, of="fan", index=1, item="z"),
        step("deploy", StepState.SKIPPED),
        step("tidy", StepState.SUCCEEDED),
    )
    # The definition of then is in force, not the one of now.
    current["ship"] = job("ship", StepSpec(name="other", action=Nothing(text="new")))
    again = await runs.rerun(claimed.run.run_id, BOB, failed_only=True, key="again")
    assert not (await runs.rerun(claimed.run.run_id, BOB, failed_only=True, key="again")).created
    assert (again.run.rerun_of, again.run.attempt, again.run.actor) == (claimed.run.run_id, 2, BOB)
    # The label tells steps over hosts that only the rest is theirs.
    assert (again.run.parameters, again.run.labels) == ({"env": "prod"}, {"a": "b", AGAIN: "unfinished"})
    (second,) = await runs.claim("w1", 1)
    assert second.definition == spec
    assert {row.name: (row.outputs, row.item) for row in second.steps} == {
        "build": ({"tag": "v1"}, None),
        "fan[0]": ({"y": 1}, "x"),
    }
    await finish(runs, second, RunState.SUCCEEDED, *(step(name, StepState.SUCCEEDED) for name in (*names, "tidy")))
    with pytest.raises(Conflict, match="all have succeeded"):
        await runs.rerun(second.run.run_id, BOB, failed_only=True)
    whole = await runs.rerun(second.run.run_id, BOB)
    assert whole.run.attempt == 3
    (third,) = await runs.claim("w1", 1)
    assert third.steps == []


async def _asks(runs: RunBook, claimed: Claimed, name: str = "ok", **asked: Any) -> None:
    waiting = StepRow(name=name, kind="approve", state=StepState.WAITING, memory={"approve": asked})
    await park(runs, claimed, waiting)


async def test_decisions(database: Database) -> None:
    runs = book(database, is_in=lambda actor, who: (actor.name, who) == ("bob", "role:ops"))
    claimed = await _claimed(runs)
    run_id = claimed.run.run_id
    with pytest.raises(Conflict, match="waits for no decision"):
        await runs.decide(run_id, "", ALICE, approve=True)
    await _asks(runs, claimed, by=["role:ops", "user:carol"])
    with pytest.raises(NotAllowed, match="alice"):
        await runs.decide(run_id, "ok", ALICE, approve=True)
    with pytest.raises(Conflict, match="no decision"):
        await runs.decide(run_id, "other", BOB, approve=True)
    await runs.decide(run_id, "", BOB, approve=False, comment="not today")
    with pytest.raises(Conflict, match="was rejected by user:bob"):
        await runs.decide(run_id, "", BOB, approve=True)
    (again,) = await runs.claim("w1", 1)
    assert again.steps[0].signal == ({"approve": False, "by": "user:bob", "comment": "not today"},)
    # A second question of the same step, once it took the first answer.
    await runs.advance(Advance(run_id=run_id, fence=again.fence, steps=[step("ok")]))
    await _asks(runs, again, by=["kind:local"])
    await runs.decide(run_id, "", Actor(kind="local", name="root"), approve=True)
    events = [event for event in await database.read(_events) if event["verb"] in ("approve", "reject")]
    assert [(event["verb"], event["outcome"], event["actor"]["name"]) for event in events] == [
        ("approve", "refused", "alice"),
        ("reject", "done", "bob"),
        ("approve", "done", "root"),
    ]


async def test_a_decision_that_comes_too_late_is_refused(database: Database) -> None:
    runs = book(database)
    claimed = await _claimed(runs)
    await _asks(runs, claimed, expires_s=claimed.run.created_s - 1)
    with pytest.raises(Conflict, match="time for it is over"):
        await runs.decide(claimed.run.run_id, "", ALICE, approve=True)


async def test_everything_that_changes_a_run_is_in_the_audit_trail(database: Database) -> None:
    runs = book(database, job(parameters={"token": Parameter(secret=True), "env": Parameter()}))
    claimed = await _claimed(runs, parameters={"token": "hunter2", "env": "prod"}, reason="because")
    await runs.pause(claimed.run.run_id, ALICE, reason="wait")
    await runs.resume(claimed.run.run_id, BOB)
    await runs.cancel(claimed.run.run_id, ALICE)
    assert (await runs.drain("w1", ALICE)).state == "draining"
    assert (await runs.drain("w1", ALICE, on=False)).state == "active"
    events = await database.read(_events)
    assert [(event["verb"], event["subject"]["noun"]) for event in events] == [
        ("run", "job"),
        ("pause", "run"),
        ("resume", "run"),
        ("cancel", "run"),
        ("drain", "worker"),
        ("resume", "worker"),
    ]
    assert "hunter2" not in json.dumps(events)


async def test_secrets_are_with_the_worker_and_nowhere_else(database: Database) -> None:
    spec = job(
        "deploy",
        StepSpec(name="one", action=Nothing(text="x", token="s3cret")),
        parameters={"password": Parameter(secret=True)},
        secrets={"key": "t0ken"},
    )
    current = {"deploy": spec}
    runs = book(database, current=lambda: current)
    claimed = await _claimed(runs, name="deploy", parameters={"password": "hunter2"})
    assert claimed.run.parameters == {"password": "hunter2"}
    assert claimed.secrets == {"key": "t0ken"}
    assert claimed.definition.steps[0].action == Nothing(text="x", token="s3cret")
    assert (await runs.show(claimed.run.run_id)).parameters == {"password": "***"}

    def everything(tx: Tx) -> str:
        tables = ("runs", "definitions", "steps", "audit_events")
        return repr([tx.rows(f"SELECT * FROM {table}") for table in tables])

    written = await database.read(everything)
    assert not [secret for secret in ("s3cret", "t0ken", "hunter2") if secret in written]
    # The configuration's secrets of now, also for a definition of then.
    current["deploy"] = job("deploy", secrets={"key": "rotated"})
    await runs.leave("w1")
    await runs.register(identity())
    (again,) = await runs.claim("w1", 1)
    assert again.secrets == {"key": "rotated"}
    await finish(runs, again)
    await runs.rerun(again.run.run_id, ALICE)
    (third,) = await runs.claim("w1", 1)
    assert third.run.parameters == {"password": "hunter2"}
