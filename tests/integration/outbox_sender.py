"""A program of its own that sends what is in an outbox. Arguments: the database, the address to send to."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.hooking import Fixed

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.notify import sender
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.notify import Notify
from dogwatch.notify.section import Destination, Patience
from dogwatch.notify.tables import notify_tables
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

TABLES = (access_tables(), notify_tables())
# A busy machine's answers are not taken for missing ones: what came twice would no longer be due to the kills.
TIMEOUT_S = 4.0


async def main(where: str, url: str) -> None:
    # Else a test would wait for leases of a minute.
    sender.LEASE_MORE_S = 0.2
    clock = SystemClock()
    if where.startswith("postgresql:"):
        database = await open_postgres(where, TABLES)
    else:
        database = await open_sqlite(Path(where), TABLES, clock)
    notify = Notify(
        database, clock=clock, spawn=lambda name, work: asyncio.get_running_loop().create_task(work, name=name)
    )
    ops = Destination(
        channel=WebhookChannel(url=url, unsigned=True),
        timeout=TIMEOUT_S,
        concurrency=4,
        retry=Patience(attempts=100, base=0.02, cap=0.1),
    )
    notify.prepare(Fixed(notify={"ops": ops})).swap()
    print("sending", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await notify.stop()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
