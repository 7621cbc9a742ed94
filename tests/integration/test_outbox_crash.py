"""kill -9 while sending: nothing is lost, and what arrives again says by its id that it is the same."""

from __future__ import annotations

import asyncio
import collections
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgres import Postgres
from tests.receiver import receiving

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.notify import outbox
from dogwatch.notify.ids import Ids
from dogwatch.notify.message import Message
from dogwatch.notify.tables import notify_tables
from dogwatch.store.database import Database
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

ROOT = Path(__file__).parent.parent.parent
MESSAGES = 150
KILLS = 5


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "state.db")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    yield postgres.create()


async def opened(where: str) -> Database:
    tables = (access_tables(), notify_tables())
    if where.startswith("postgresql:"):
        return await open_postgres(where, tables)
    return await open_sqlite(Path(where), tables, SystemClock())


def begun(where: str, url: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.outbox_sender", where, url],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"sending\n"
    return process


def ended(process: subprocess.Popen[bytes], *, kill: bool) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    if kill:
        process.kill()
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


async def states(where: str) -> collections.Counter[str]:
    database = await opened(where)
    try:
        rows = await database.read(lambda tx: tx.rows("SELECT state FROM outbox"))
    finally:
        await database.close()
    return collections.Counter(str(state) for (state,) in rows)


async def test_killed_while_sending(where: str) -> None:
    chance = random.Random(7)
    ids = Ids("msg")
    database = await opened(where)
    sent = [
        (await database.write(lambda tx, n=n: outbox.enqueue(tx, ids, Message(to=("ops",), type="t", data={"n": n}))))[
            0
        ]
        for n in range(MESSAGES)
    ]
    await database.close()
    # Answers take a while, so that a kill falls between sending and writing that it was sent.
    async with receiving(delay_s=0.01) as receiver:
        for number in range(KILLS):
            process = await asyncio.to_thread(begun, where, receiver.url)
            await receiver.until(min(MESSAGES, len(receiver.requests) + chance.randrange(1, MESSAGES // KILLS)))
            await asyncio.sleep(chance.random() * 0.02)
            await asyncio.to_thread(ended, process, kill=True)
            assert number or len(receiver.requests) < MESSAGES
        process = await asyncio.to_thread(begun, where, receiver.url)
        wanted = {one.message_id for one in sent}
        async with asyncio.timeout(60):
            while {request.headers["webhook-id"] for request in receiver.requests} != wanted:
                receiver.changed.clear()
                await receiver.changed.wait()
        await asyncio.to_thread(ended, process, kill=False)
        # A last life, for what was taken but not yet written when the others ended.
        process = await asyncio.to_thread(begun, where, receiver.url)
        async with asyncio.timeout(60):
            while (await states_of(where, process)) != {"delivered": MESSAGES}:
                await asyncio.sleep(0.05)
                process = await asyncio.to_thread(begun, where, receiver.url)
    bodies = collections.defaultdict(set)
    for request in receiver.requests:
        bodies[request.headers["webhook-id"]].add(request.body)
    assert {len(different) for different in bodies.values()} == {1}
    # At most what was on its way at each kill came twice.
    assert MESSAGES <= len(receiver.requests) <= MESSAGES + KILLS * 4


async def states_of(where: str, process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Give it a moment, end it in order, and look: SQLite has one user at a time."""
    await asyncio.sleep(0.8)
    await asyncio.to_thread(ended, process, kill=False)
    return dict(await states(where))
