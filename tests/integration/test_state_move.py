"""State that moves from its file to a real PostgreSQL: all of it, or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.postgres import Postgres

from dogwatch.access import audit
from dogwatch.access.actor import SYSTEM, Subject
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.errors import Conflict, NotFound, StoreLocked
from dogwatch.store.database import Database, Tables
from dogwatch.store.move import move
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

SHELF = """
CREATE TABLE boxes (name TEXT PRIMARY KEY, weight DOUBLE PRECISION, picture BYTEA, full_ BIGINT NOT NULL);
CREATE TABLE a_things (number BIGINT, box TEXT REFERENCES boxes (name), word TEXT, PRIMARY KEY (box, number));
"""
TABLES = (access_tables(), Tables(name="shelf", steps=((1, SHELF),)))


@pytest.fixture
async def target(postgres: Postgres) -> AsyncIterator[Database]:
    url = postgres.create()
    database = await open_postgres(url, TABLES)
    yield database
    await database.close()
    postgres.drop(url)


async def filled(path: Path, things: int = 2500) -> None:
    database = await open_sqlite(path, TABLES, SystemClock())

    def fill(tx: Any) -> None:
        for name, weight, picture in (("größe", 0.1, b"\0\xff"), ("nul\0l", None, None)):
            tx.run(
                "INSERT INTO boxes (name, weight, picture, full_) VALUES (:name, :weight, :picture, 1)",
                name=name,
                weight=weight,
                picture=picture,
            )
        tx.many(
            "INSERT INTO a_things (number, box, word) VALUES (:number, 'größe', :word)",
            [{"number": number, "word": f"word {number}"} for number in range(things)],
        )
        for number in range(5):
            audit.record(tx, SYSTEM, "run", Subject(noun="run", name=str(number)))

    await database.write(fill)
    await database.close()


async def test_everything_arrives_and_the_file_stays(tmp_path: Path, target: Database) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    before = path.read_bytes()
    told: list[tuple[str, int]] = []
    moved = await move(path, target, TABLES, lambda name, count: told.append((name, count)))
    assert moved.rows["a_things"] == 2500
    assert moved.rows["boxes"] == 2
    assert moved.rows["audit_events"] == 5
    assert moved.replaced == 1
    assert ("a_things", 2000) in told
    assert path.read_bytes() == before
    rows = await target.read(lambda tx: tx.rows("SELECT name, weight, picture FROM boxes ORDER BY name"))
    assert rows == [("größe", 0.1, b"\0\xff"), ("nul\ufffdl", None, None)]
    assert (await target.read(lambda tx: tx.one("SELECT word FROM a_things WHERE number = 2499"))) == ("word 2499",)


async def test_the_chain_of_the_audit_trail_goes_on(tmp_path: Path, target: Database) -> None:
    await filled(tmp_path / "state.db")
    await move(tmp_path / "state.db", target, TABLES)
    number = await target.write(lambda tx: audit.record(tx, SYSTEM, "run", Subject(noun="run", name="new")))
    assert number == 6


async def test_a_file_in_use_is_not_moved(tmp_path: Path, target: Database) -> None:
    await filled(tmp_path / "state.db")
    daemon = await open_sqlite(tmp_path / "state.db", TABLES, SystemClock())
    try:
        with pytest.raises(StoreLocked) as caught:
            await move(tmp_path / "state.db", target, TABLES)
        assert "stop that Dogwatch" in caught.value.hint
    finally:
        await daemon.close()


async def test_a_database_that_is_not_empty_is_left_alone(tmp_path: Path, target: Database) -> None:
    await filled(tmp_path / "state.db")
    await target.write(lambda tx: tx.run("INSERT INTO boxes (name, full_) VALUES ('mine', 0)"))
    with pytest.raises(Conflict, match="not empty: boxes"):
        await move(tmp_path / "state.db", target, TABLES)
    assert await target.read(lambda tx: tx.rows("SELECT name FROM boxes")) == [("mine",)]


async def test_nothing_is_moved_where_a_row_does_not_fit(tmp_path: Path, target: Database) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO boxes (name, full_) VALUES ('odd', 'no number')")
    connection.close()
    with pytest.raises(Exception, match="no number"):
        await move(path, target, TABLES)
    assert await target.read(lambda tx: tx.rows("SELECT name FROM boxes")) == []
    assert await target.read(lambda tx: tx.rows("SELECT number FROM audit_events")) == []


async def test_other_versions_are_refused(tmp_path: Path, target: Database) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE tables SET version = 7 WHERE name = 'shelf'")
    connection.close()
    with pytest.raises(Conflict, match="shelf have another version"):
        await move(path, target, TABLES)


async def test_no_file_is_said_so(tmp_path: Path, target: Database) -> None:
    with pytest.raises(NotFound):
        await move(tmp_path / "state.db", target, TABLES)
