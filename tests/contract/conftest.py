"""What every suite over both databases needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.postgres import Postgres

from dogwatch.core.clock import SystemClock
from dogwatch.store.database import Database, Tables
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

Open = Callable[..., Awaitable[Database]]


@pytest.fixture(params=["sqlite", "postgresql"])
async def open_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Open the same empty database again and again, once with each kind; all are closed at the end."""
    async with AsyncExitStack() as stack:
        if request.param == "postgresql":
            running: Postgres = request.getfixturevalue("postgres")
            url = running.create()
            stack.callback(running.drop, url)

        async def open_it(*tables: Tables) -> Database:
            if request.param == "sqlite":
                database: Database = await open_sqlite(tmp_path / "state.db", tables, SystemClock())
            else:
                database = await open_postgres(url, tables)
            stack.push_async_callback(database.close)
            return database

        yield open_it
