"""A process that runs schedules in real time until it is killed. Arguments: a file, or the address of a PostgreSQL."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.schedules import TABLES, FakeRuns, new_scheduler, put

from dogwatch.core.clock import SystemClock
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.store.database import Database
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

SPECS = (
    ScheduleSpec(name="second", job="a", cron="* * * * * *", misfire="all"),
    ScheduleSpec(name="two", job="a", cron="*/2 * * * * *", misfire="all"),
    ScheduleSpec(name="interval", job="a", every=1.0, anchor="2026-01-01T00:00:00.500Z", misfire="all"),
)


async def open_there(where: str) -> Database:
    if where.startswith("postgresql:"):
        return await open_postgres(where, TABLES)
    return await open_sqlite(Path(where), TABLES, SystemClock())


async def main(where: str) -> None:
    database = await open_there(where)
    await put(new_scheduler(database, FakeRuns(), SystemClock()), SPECS)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
