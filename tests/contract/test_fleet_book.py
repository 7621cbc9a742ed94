"""One suite over SQLite and PostgreSQL: what the book of fleet runs promises."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.contract.conftest import Open

from dogwatch.access.actor import Actor
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.errors import Conflict, NotFound
from dogwatch.fleet.book import rows
from dogwatch.fleet.book.book import FleetBook
from dogwatch.fleet.book.own import Hold, own_book
from dogwatch.fleet.book.tables import fleet_tables
from dogwatch.fleet.book.values import Key, Opening, RunState
from dogwatch.fleet.connection import State
from dogwatch.fleet.results import HostResult
from dogwatch.store.database import Database
from dogwatch.store.state_sqlite import open_sqlite

ADA = Actor(kind="user", name="ada")


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(access_tables(), fleet_tables())


@pytest.fixture
async def book(database: Database) -> FleetBook:
    return FleetBook(database, audited=True)


def opening(*hosts: str, **more: object) -> Opening:
    labels: dict[str, Mapping[str, str]] = {host: {"team": "shop"} for host in hosts}
    return Opening(what="uptime", targets="all", orders={"script": "uptime"}, actor=ADA, hosts=labels, **more)  # type: ignore[arg-type]


def result(host: str, state: State = State.SUCCEEDED, **more: object) -> HostResult:
    return HostResult(host=host, state=state, **more)  # type: ignore[arg-type]


async def events(database: Database) -> list[tuple[object, ...]]:
    query = "SELECT actor, verb, noun, outcome FROM audit_events ORDER BY number"
    return await database.read(lambda tx: tx.rows(query))


async def test_every_host_is_there_from_the_beginning_and_kept_as_it_ends(book: FleetBook, database: Database) -> None:
    key = await book.open(opening("b", "a", "c\0d"))
    kept = await book.hosts(key)
    assert [(one.host, one.state, one.labels) for one in kept][:2] == [
        ("b", "waiting", {"team": "shop"}),
        ("a", "waiting", {"team": "shop"}),
    ]
    recorder = book.recorder(key, kept, attempt=1, mask=lambda text: text.replace("hunter2", "***"))
    await asyncio.gather(recorder.begun("b", 1), recorder.begun("a", 1))
    odd = b"\xff\x00 hunter2"
    await recorder.ended(
        result("a", State.NON_ZERO, exit_code=3, stdout=odd, stderr=b"no", cut=7, message="m\0", batch=1)
    )
    first, second, third = await book.hosts(key)
    assert (first.state, first.result, first.attempt, first.batch) == ("running", None, 1, 1)
    assert second.result is not None
    assert (second.result.stdout, second.result.exit_code, second.result.cut) == (b"\xff\x00 ***", 3, 7)
    assert second.ended_s is not None
    assert third.state == "waiting"
    assert (await book.show(key)).counts == {"non-zero": 1, "running": 1, "waiting": 1}
    state = await book.close(key, [second.result], "", ADA)
    assert state is RunState.FAILED
    assert await events(database) == [
        ("user:ada", "run", "fleet", "done"),
        ("user:ada", "end", "fleet", "failed"),
    ]


async def test_states_are_told_in_order_without_what_hosts_said(book: FleetBook) -> None:
    key = await book.open(opening("b", "a"))
    await book.recorder(key, await book.hosts(key), attempt=1).ended(result("a", stdout=b"x" * 1000))
    shop = {"team": "shop"}
    assert await book.states(key) == [("b", "waiting", shop), ("a", "succeeded", shop)]
    assert await book.states(Key("none")) == []


async def test_ends_have_their_words(book: FleetBook) -> None:
    ends = [
        ([State.SUCCEEDED, State.SUCCEEDED], "", RunState.SUCCEEDED),
        ([State.SUCCEEDED, State.REFUSED], "", RunState.PARTLY),
        ([State.TIMED_OUT], "", RunState.FAILED),
        ([State.SUCCEEDED, State.NOT_STARTED], "too many failed", RunState.STOPPED),
        ([State.CANCELLED, State.NOT_STARTED], "interrupted", RunState.CANCELLED),
    ]
    for states, reason, expected in ends:
        key = await book.open(opening(*map(str, range(len(states)))))
        results = [result(str(at), state) for at, state in enumerate(states)]
        assert await book.close(key, results, reason, ADA) is expected
        assert (await book.show(key)).state is expected


async def test_runs_are_found_by_a_beginning_and_listed_newest_first(book: FleetBook) -> None:
    first = await book.open(opening("a"))
    second = await book.open(opening("a"), Key("zz1", "one"))
    third = await book.open(opening("a"), Key("zz1", "two"))
    assert await book.resolve(first.run_id[:14]) == first
    assert await book.resolve("zz1/two") == third
    with pytest.raises(Conflict, match="zz1/one, zz1/two"):
        await book.resolve("zz")
    shop = [{"team": "shop"}]
    assert await book.labels([first, third, Key("zz1", "three")]) == {first: shop, third: shop, Key("zz1", "three"): []}
    for nothing in ("none", "", "%", "'; --", "zz1/three"):
        with pytest.raises(NotFound):
            await book.resolve(nothing)
    page, cursor = await book.find(limit=2)
    rest, end = await book.find(limit=2, cursor=cursor)
    assert ([one.key for one in (*page, *rest)], end) == ([second, third, first], "")
    assert [one.key for one in (await book.find(run_id="zz1"))[0]] == [second, third]


async def test_going_on_counts_attempts_and_is_audited(book: FleetBook, database: Database) -> None:
    key = await book.open(opening("a", "b"))
    recorder = book.recorder(key, await book.hosts(key), attempt=1)
    await recorder.ended(result("a"))
    await book.close(key, [result("a"), result("b", State.NOT_STARTED)], "stop", ADA)
    row = await book.reopen(key, ADA)
    assert (row.state, row.attempt, row.reason, row.ended_s) == (RunState.RUNNING, 2, "", None)
    assert [event[1] for event in await events(database)] == ["run", "end", "resume"]
    with pytest.raises(NotFound):
        await book.reopen(Key("none"), ADA)


async def test_hosts_remember_when_they_were_last_seen(book: FleetBook) -> None:
    for state in (State.REFUSED, State.SUCCEEDED):
        key = await book.open(opening("a", "b"))
        await book.recorder(key, await book.hosts(key), attempt=1).ended(result("a", state))
    seen = await book.last_seen(["a", "b", "never"])
    assert list(seen) == ["a"]
    assert seen["a"][1:] == ("succeeded", key.run_id)


async def test_old_runs_go_and_open_ones_stay(book: FleetBook, database: Database) -> None:
    ended = await book.open(opening("a"))
    await book.close(ended, [result("a")], "", ADA)
    going = await book.open(opening("a"))
    assert await database.write(rows.prune) == 0
    assert await database.write(lambda tx: rows.prune(tx, keep_s=-1.0)) == 1
    assert await book.hosts(ended) == []
    assert (await book.show(going)).hosts == 1
    await book.close(going, [result("a")], "", ADA)
    for _ in range(3):
        await book.close(await book.open(opening("a")), [result("a")], "", ADA)
    assert await database.write(lambda tx: rows.prune(tx, most=2)) == 1


async def test_several_processes_may_write_the_book_of_command_lines(tmp_path: Path) -> None:
    async with own_book(tmp_path) as one, own_book(tmp_path) as two:
        keys = await asyncio.gather(*(book.open(opening("a")) for book in (one, two) * 10))
        assert len(set(keys)) == 20
        with Hold(one.folder, keys[0]), pytest.raises(Conflict, match="process"), Hold(two.folder, keys[0]):
            pass
        with Hold(two.folder, keys[0]):
            pass
    with pytest.raises(NotFound):
        async with own_book(tmp_path / "elsewhere", make=False):
            pass


async def test_a_database_that_is_a_daemons_own_stays_so(tmp_path: Path) -> None:
    from dogwatch.errors import StoreLocked

    alone = await open_sqlite(tmp_path / "state.db", (access_tables(),), SystemClock())
    try:
        with pytest.raises(StoreLocked):
            await open_sqlite(tmp_path / "state.db", (access_tables(),), SystemClock())
    finally:
        await alone.close()
