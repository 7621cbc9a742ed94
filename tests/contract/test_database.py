"""One suite over SQLite and PostgreSQL: what every database of state promises."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.contract.conftest import Open

from dogwatch.access.actor import SYSTEM, Subject
from dogwatch.access.audit import record
from dogwatch.access.tables import access_tables
from dogwatch.errors import Conflict, StoreNewer
from dogwatch.store.database import Database, Tables, Tx

NOTES = Tables(name="notes", steps=((1, "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT, data BYTEA);"),))


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(NOTES, access_tables())


def _add(number: int, text: str = "x") -> object:
    return lambda tx: tx.run("INSERT INTO notes (id, text) VALUES (:id, :text)", id=number, text=text)


def _ids(tx: Tx) -> list[object]:
    return [row[0] for row in tx.rows("SELECT id FROM notes ORDER BY id")]


async def test_what_was_written_is_read(database: Database) -> None:
    def work(tx: Tx) -> int:
        return tx.run("INSERT INTO notes VALUES (:id, :text, :data)", id=1, text="50 % : é", data=b"\0\xff")

    assert await database.write(work) == 1
    assert await database.read(lambda tx: tx.one("SELECT * FROM notes WHERE text LIKE '50 %'")) == (
        1,
        "50 % : é",
        b"\0\xff",
    )


async def test_one_that_fails_undoes_only_itself(database: Database) -> None:
    def failing(tx: Tx) -> None:
        tx.run("INSERT INTO notes (id) VALUES (100)")
        raise ValueError("no")

    results = await asyncio.gather(
        *(database.write(_add(number)) for number in range(20)),
        database.write(failing),
        database.write(_add(5)),
        *(database.write(_add(number)) for number in range(30, 40)),
        return_exceptions=True,
    )
    failed = [result for result in results if isinstance(result, Exception)]
    assert {type(error) for error in failed} == {ValueError, Conflict}
    assert len(failed) == 2
    assert await database.read(_ids) == [*range(20), *range(30, 40)]


async def test_writers_that_lock_the_same_rows_all_succeed(database: Database) -> None:
    await database.write(lambda tx: tx.many("INSERT INTO notes (id, text) VALUES (:id, '0')", [{"id": 1}, {"id": 2}]))

    def bump(first: int, second: int) -> object:
        def work(tx: Tx) -> None:
            for number in (first, second):
                tx.run(
                    "UPDATE notes SET text = CAST(CAST(text AS BIGINT) + 1 AS TEXT) WHERE id = :id",
                    id=number,
                )

        return work

    await asyncio.gather(*(database.write(bump(*((1, 2) if n % 2 else (2, 1)))) for n in range(100)))
    assert await database.read(lambda tx: tx.rows("SELECT text FROM notes")) == [("100",), ("100",)]


async def test_listeners_hear_of_commits_only(database: Database) -> None:
    heard = asyncio.Event()
    stop = database.listen("notes", heard.set)
    if database.kind == "postgresql":
        # Once it listens it is told of what it may have missed until then.
        await asyncio.wait_for(heard.wait(), 60)
        heard.clear()

    def failing(tx: Tx) -> None:
        tx.notify("notes")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(failing)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(heard.wait(), 0.2)
    await database.write(lambda tx: tx.notify("notes"))
    await asyncio.wait_for(heard.wait(), 60)
    stop()


async def test_calls_are_made_after_the_commit_and_never_for_what_was_undone(database: Database) -> None:
    called: list[tuple[int, threading.Thread]] = []

    def calling(number: int) -> object:
        def work(tx: Tx) -> int:
            tx.after(lambda: called.append((number, threading.current_thread())))
            tx.run("INSERT INTO notes (id) VALUES (:id)", id=number)
            return number

        return work

    await database.write(calling(5))
    assert called == [(5, threading.current_thread())]
    # One of the group fails after it asked for its call; the others are run more than once and called once.
    results = await asyncio.gather(*(database.write(calling(number)) for number in range(20)), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, Conflict)] == [5]
    assert sorted(number for number, _ in called) == list(range(20))


async def test_a_call_that_fails_keeps_nobody_waiting(database: Database) -> None:
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: troubles.append(context["exception"]))

    def work(tx: Tx) -> int:
        tx.after(lambda: {}["missing"])
        return 1

    assert await asyncio.wait_for(database.write(work), 60) == 1
    assert [type(trouble) for trouble in troubles] == [KeyError]


async def test_names_are_held_by_one_transaction_at_a_time(database: Database) -> None:
    def append(tx: Tx) -> int:
        return record(tx, SYSTEM, "run", Subject(noun="job", name="x"))

    numbers = await asyncio.gather(*(database.write(append) for _ in range(100)))
    assert sorted(numbers) == list(range(1, 101))


async def test_tables_of_a_newer_program_are_refused(open_database: Open) -> None:
    newer = Tables(name="notes", steps=(*NOTES.steps, (2, "ALTER TABLE notes ADD COLUMN more TEXT;")))
    first = await open_database(newer)
    await first.write(lambda tx: tx.run("INSERT INTO notes (id, more) VALUES (1, 'kept')"))
    await first.close()
    with pytest.raises(StoreNewer):
        await open_database(NOTES)
    again = await open_database(newer)
    assert await again.read(lambda tx: tx.rows("SELECT id, more FROM notes")) == [(1, "kept")]


async def test_the_clock_is_the_databases(database: Database) -> None:
    first, second = await database.write(lambda tx: (tx.now_s, tx.now_s))
    assert first == second > 1_700_000_000


async def test_what_was_sent_and_fails_undoes_only_its_own(database: Database) -> None:
    def sending(number: int) -> object:
        def work(tx: Tx) -> int:
            tx.send("INSERT INTO notes (id) VALUES (:id)", id=number)
            tx.many("INSERT INTO notes (id) VALUES (:id)", [{"id": number + 100}, {"id": number + 200}])
            return number

        return work

    await database.write(sending(5))
    with pytest.raises(Conflict):
        await database.write(sending(5))
    results = await asyncio.gather(*(database.write(sending(number)) for number in range(20)), return_exceptions=True)
    assert [type(result) for number, result in enumerate(results) if number == 5] == [Conflict]
    assert [result for result in results if not isinstance(result, Exception)] == [*range(5), *range(6, 20)]
    assert await database.read(_ids) == [*range(20), *range(100, 120), *range(200, 220)]


async def test_a_query_that_is_waited_for_sees_what_was_sent(database: Database) -> None:
    def work(tx: Tx) -> list[object]:
        tx.send("INSERT INTO notes (id) VALUES (:id)", id=1)
        seen = _ids(tx)
        tx.send("DELETE FROM notes WHERE id = :id", id=1)
        return [*seen, tx.run("INSERT INTO notes (id) VALUES (:id)", id=1)]

    assert await database.write(work) == [1, 1]


async def test_a_waiter_that_was_cancelled_spoils_nothing(database: Database) -> None:
    tasks = [asyncio.create_task(database.write(_add(number))) for number in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [result for result in results[1::2] if isinstance(result, BaseException)]
    ids = await database.read(_ids)
    assert set(range(1, 100, 2)) <= set(ids)


async def test_close_finishes_what_was_given(open_database: Open) -> None:
    database = await open_database(NOTES)
    tasks = [asyncio.create_task(database.write(_add(number))) for number in range(300)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*tasks)
    again = await open_database(NOTES)
    assert await again.read(_ids) == list(range(300))


async def test_a_long_group_is_committed_in_parts(database: Database) -> None:
    def slow(number: int) -> object:
        def work(tx: Tx) -> None:
            tx.run("INSERT INTO notes (id) VALUES (:id)", id=number)
            if number == 7:
                raise ValueError("no")
            tx.one(  # some milliseconds of the database's time
                "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 30000) SELECT max(x) FROM n"
            )

        return work

    results = await asyncio.gather(*(database.write(slow(number)) for number in range(40)), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, Exception)] == [7]
    assert await database.read(_ids) == [*range(7), *range(8, 40)]
