"""One suite over SQLite and PostgreSQL: what every database of state promises."""

from __future__ import annotations

import asyncio

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
    await asyncio.sleep(0.3)  # a listener of a server is told once of what it may have missed
    heard.clear()

    def failing(tx: Tx) -> None:
        tx.notify("notes")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(failing)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(heard.wait(), 0.2)
    await database.write(lambda tx: tx.notify("notes"))
    await asyncio.wait_for(heard.wait(), 5)
    stop()


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
