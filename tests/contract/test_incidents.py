"""The live part on both databases: every step is written as a whole, and a restart goes on where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.incidents import ANNA, OPTIONS, START, Result, Watched

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.core.values import Event
from dogwatch.errors import Conflict, NotFound, TransientError
from dogwatch.notify.tables import notify_tables
from dogwatch.rules import records
from dogwatch.rules.backtest import Span, rehearse
from dogwatch.rules.backtest_store import rehearse_store
from dogwatch.rules.desk import Setting
from dogwatch.rules.escalation import Policy
from dogwatch.rules.incident import Silence
from dogwatch.rules.maintenance import Calendar
from dogwatch.rules.outside.firing import Scene
from dogwatch.rules.part import Incidents
from dogwatch.rules.sight import Sight
from dogwatch.rules.spec import compile_rule
from dogwatch.rules.tables import incident_tables
from dogwatch.rules.topology import Topology
from dogwatch.store.database import Row, Tx, Value
from dogwatch.store.state_sqlite import open_sqlite


@pytest.fixture
async def watched(open_database: Any) -> Any:
    database = await open_database(access_tables(), notify_tables(), incident_tables())
    one = Watched(database)
    yield one
    await one.part.stop()


async def order(watched: Watched, coroutine: Any) -> Any:
    task = asyncio.get_running_loop().create_task(coroutine)
    for _ in range(200):
        await asyncio.sleep(0.005)
        if task.done():
            break
        if watched.part._asked:
            await watched.part.turn()
    return await task


async def test_an_outage_from_the_first_result_to_the_outbox(watched: Watched) -> None:
    await watched.pass_time(30, db=0.1, shop=0.1)
    await watched.pass_time(30, db=-1, shop=-1)
    assert await watched.titles() == ["#1 opened: db is down: timeout; explains 1 more"]
    await watched.pass_time(5, db=0.1, shop=0.1)
    assert (await watched.titles())[1:] == ["#1 resolved: db is down: timeout"]
    (incident,) = (await watched.part.find()).items
    assert (incident.state, incident.root) == ("resolved", "db")
    kinds = [note.kind for note in await watched.part.timeline(1)]
    assert kinds[:3] == ["opened", "joined", "told"]
    assert kinds[-2:] == ["resolved", "told"]


async def test_a_restart_in_mid_incident_goes_on_with_the_same_state(watched: Watched) -> None:
    await watched.pass_time(60, db=0.1, shop=2.0)
    await watched.pass_time(40, db=-1, shop=2.0)
    await order(watched, watched.part.order(2, "ack", ANNA, text="on it"))
    before, held, out = watched.part.state, watched.part.watcher.held, watched.part.watcher.out
    windows = _windows(watched.part)
    assert before.incidents
    assert held
    await watched.restart()
    await watched.part.turn()
    assert watched.part.state == before
    assert {key: one.firing for key, one in watched.part.watcher.held.items()} == {
        key: one.firing for key, one in held.items()
    }
    assert watched.part.watcher.out == out
    assert _windows(watched.part) == windows
    told = await watched.titles()
    await watched.pass_time(60, db=-1, shop=2.0)
    assert await watched.titles() == told
    await watched.pass_time(60, db=0.1, shop=0.1)
    assert watched.part.state.incidents == {}


async def test_a_reload_keeps_how_long_a_condition_held(watched: Watched) -> None:
    await watched.pass_time(5, db=0.1, shop=3.0)
    await watched.pass_time(10, db=0.1, shop=3.0)
    watched.part.put_in_force(watched.part.wanted)
    await watched.pass_time(5, db=0.1, shop=3.0)
    assert ("slow", "shop") not in watched.part.watcher.out
    await watched.pass_time(5, db=0.1, shop=3.0)
    # Twenty seconds from the first answer on, the reload among them.
    assert ("slow", "shop") in watched.part.watcher.out


def _windows(part: Incidents) -> dict[str, list[float | None]]:
    return {
        seen.target: [window.avg() for _key, window in sorted(seen.windows.items())]
        for seen in part.watcher.gauge.seen.values()
    }


async def test_what_the_database_refuses_is_decided_again_and_told_once(watched: Watched) -> None:
    await watched.pass_time(30, db=0.1)
    await watched.pass_time(10, db=-1)
    watched.fails = 1
    with pytest.raises(TransientError):
        await watched.pass_time(30, db=-1)
    watched.fails = 0
    # Nothing of the failed step is there, neither incident nor message.
    assert (await watched.part.find()).items == []
    await watched.pass_time(30, db=-1)
    await watched.pass_time(10, db=0.1)
    assert await watched.titles() == ["#1 opened: db is down: timeout", "#1 resolved: db is down: timeout"]


async def test_orders_are_audited_with_who_and_why(watched: Watched) -> None:
    await watched.pass_time(30, db=-1)
    await order(watched, watched.part.order(1, "ack", ANNA, text="mine"))
    await order(watched, watched.part.order(1, "comment", ANNA, text="disk full"))
    silence = Silence(silence_id="", until_s=watched.clock.now_s() + 60, number=1, reason="quiet")
    kept = await order(watched, watched.part.silence(silence, ANNA))
    assert watched.part.silences() == [kept]
    await order(watched, watched.part.unsilence(kept.silence_id, ANNA))
    done = await order(watched, watched.part.order(1, "resolve", ANNA, text="replaced"))
    assert done.state == "resolved"
    with pytest.raises(Conflict):
        await watched.part.order(1, "ack", ANNA)
    with pytest.raises(NotFound):
        await watched.part.order(2, "ack", ANNA)
    rows = await watched.database.read(lambda tx: tx.rows("SELECT actor, verb, name FROM audit_events ORDER BY number"))
    assert rows == [
        ("user:anna", "change", "#1"),
        ("user:anna", "change", "#1"),
        ("user:anna", "create", kept.silence_id),
        ("user:anna", "delete", kept.silence_id),
        ("user:anna", "change", "#1"),
    ]
    kinds = [(note.kind, note.actor, note.text) for note in await watched.part.timeline(1) if note.actor]
    assert kinds == [
        ("acked", "user:anna", "mine"),
        ("comment", "user:anna", "disk full"),
        ("resolved", "user:anna", "replaced"),
    ]


async def test_of_two_processes_one_notices(watched: Watched) -> None:
    await watched.pass_time(30, db=-1)
    other = watched.begin()
    await other.turn()
    await watched.pass_time(5, db=0.1)
    with pytest.raises(Conflict):
        # It heard the same results, but the first one has written already.
        await other.turn()
    await other.turn()
    assert await watched.titles() == ["#1 opened: db is down: timeout", "#1 resolved: db is down: timeout"]
    await other.stop()


async def test_a_backtest_decides_what_the_live_rules_decided(watched: Watched) -> None:
    await watched.pass_time(60, db=0.1, shop=0.1)
    await watched.pass_time(120, db=0.1, shop=3.0)
    await watched.pass_time(60, db=-1, shop=3.0)
    await watched.pass_time(200, db=0.1, shop=0.1)
    await watched.pass_time(60, db=-1, shop=-1)
    sight = Sight(watched.targets)
    setting = Setting(policy=Policy(OPTIONS), topology=Topology(sight.nodes), calendar=Calendar())
    events = [Event(topic="result", time_s=row.time_s, data=_again(row)) for row in watched.store.rows]
    rules = [compile_rule(spec) for spec in watched.rules]
    found = rehearse(setting, rules, sight.signals(events), until_s=watched.clock.now_s(), nodes=sight.nodes)
    live = [note for decisions in watched.decisions for note in decisions.notes]
    assert len(live) > 10
    assert msgspec.json.encode(found.notes) == msgspec.json.encode(live)
    notices = [notice for decisions in watched.decisions for notice in decisions.notices]
    assert msgspec.json.encode([one.notice for one in found.notices]) == msgspec.json.encode(notices)
    # The same in columns, over what the store gives back.
    span = Span(since_s=START + 5.0, until_s=watched.clock.now_s())
    fast = await rehearse_store(watched.store, setting, rules, Scene(nodes=sight.nodes), span)  # type: ignore[arg-type]
    assert fast.signals == len(events)
    assert msgspec.json.encode(fast.notes) == msgspec.json.encode(live)
    assert msgspec.json.encode([one.notice for one in fast.notices]) == msgspec.json.encode(notices)


def _again(row: Any) -> Result:
    words = {1: "up", 3: "down"}
    return Result(
        target=row.target,
        time_s=row.time_s,
        success=row.success,
        status=words[row.status],
        duration_s=row.duration_s,
        reason=row.reason,
    )


async def test_old_incidents_are_forgotten(watched: Watched) -> None:
    await watched.pass_time(30, db=-1)
    await watched.pass_time(5, db=0.1)
    now_s = watched.clock.now_s()
    assert await watched.database.write(lambda tx: records.purge(tx, now_s - 3600)) == 0
    assert await watched.database.write(lambda tx: records.purge(tx, now_s + 1)) == 1
    assert await watched.part.timeline(1) == []


class Heard:
    """Passes queries on, and remembers them."""

    def __init__(self, tx: Tx) -> None:
        self._tx, self.heard = tx, list[tuple[str, dict[str, Value]]]()

    def rows(self, query: str, **values: Value) -> list[Row]:
        self.heard.append((query, values))
        return self._tx.rows(query, **values)

    def one(self, query: str, **values: Value) -> Row | None:
        self.heard.append((query, values))
        return self._tx.one(query, **values)


@pytest.mark.parametrize("state", ["active", "open", "acknowledged", "resolved", "merged"])
async def test_incidents_of_a_state_are_found_and_counted_by_an_index(tmp_path: Path, state: str) -> None:
    database = await open_sqlite(tmp_path / "state.db", [access_tables(), incident_tables()], SystemClock())

    def plans(tx: Tx) -> list[str]:
        heard = Heard(tx)
        records.find(cast("Tx", heard), state=state, count=True)
        return [
            " ".join(str(row[3]) for row in tx.rows(f"EXPLAIN QUERY PLAN {query}", **values))
            for query, values in heard.heard
        ]

    try:
        found, counted = await database.read(plans)
    finally:
        await database.close()
    assert "INDEX incidents_by_state (state=?" in found
    assert "INDEX incidents_by_state (state=?" in counted
