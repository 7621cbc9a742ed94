"""Where the state is kept, and what is refused before anything is touched."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dogwatch.config.load import Loader
from dogwatch.config.overrides import Override
from dogwatch.core.clock import SystemClock
from dogwatch.errors import ConfigError, PermanentError, StoreNewer
from dogwatch.store.database import Tables
from dogwatch.store.state import DATABASE, DatabaseOptions, DatabasePart, check_state, open_database, state_path

TABLES = (Tables(name="shelf", steps=((1, "CREATE TABLE boxes (name TEXT PRIMARY KEY)"),)),)


async def test_the_file_lies_beside_the_store(tmp_path: Path) -> None:
    store = tmp_path / "data" / "dogwatch.sqlite"
    assert state_path(store) == tmp_path / "data" / "state.db"
    database = await open_database(DatabaseOptions(), store, TABLES, SystemClock())
    await database.close()
    assert state_path(store).exists()


async def test_the_check_before_a_restart_refuses_newer_tables(tmp_path: Path) -> None:
    store = tmp_path / "dogwatch.sqlite"
    check_state(DatabaseOptions(), store, TABLES)
    assert not state_path(store).exists()
    database = await open_database(DatabaseOptions(), store, TABLES, SystemClock())
    await database.close()
    check_state(DatabaseOptions(), store, TABLES)
    with sqlite3.connect(state_path(store)) as connection:
        connection.execute("UPDATE tables SET version = 2")
    connection.close()
    with pytest.raises(StoreNewer, match="shelf have version 2"):
        check_state(DatabaseOptions(), store, TABLES)
    state_path(store).write_bytes(b"something else" * 100)
    with pytest.raises(PermanentError):
        check_state(DatabaseOptions(), store, TABLES)


@pytest.mark.parametrize(
    "url", ["mysql://watch:hunter2@db/x", "postgresql://db", "hunter2", "postgresql://h:99999/x", "postgresql://[x/y"]
)
def test_what_is_no_address_is_refused_without_showing_it(url: str) -> None:
    override = Override(("database", "url"), url, "--set")
    with pytest.raises(ConfigError) as caught:
        Loader([], [DATABASE], environ={}, overrides=[override]).load()
    assert "database.url" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_another_database_needs_a_restart() -> None:
    def loaded(url: str) -> object:
        return Loader([], [DATABASE], environ={}, overrides=[Override(("database", "url"), url, "--set")]).load()

    part = DatabasePart(DatabaseOptions(url="postgresql://a/x"))
    part.prepare(loaded("postgresql://a/x"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot change while running"):
        part.prepare(loaded("postgresql://b/x"))  # type: ignore[arg-type]
