"""What the databases of state survive: a server that is killed and started again, a disk without room."""

from __future__ import annotations

import asyncio
import signal as signals
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgres import Postgres, server

from dogwatch.core.clock import SystemClock
from dogwatch.errors import TransientError
from dogwatch.store.database import Tables, Tx
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

NOTES = Tables(name="notes", steps=((1, "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT);"),))


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    with server() as running:
        yield running


def _add(number: int) -> object:
    return lambda tx: tx.run("INSERT INTO notes (id) VALUES (:id) ON CONFLICT (id) DO NOTHING", id=number)


def _ids(tx: Tx) -> list[object]:
    return [row[0] for row in tx.rows("SELECT id FROM notes ORDER BY id")]


@pytest.mark.parametrize("signal", [signals.SIGINT, signals.SIGQUIT])
async def test_writers_go_on_after_the_server_was_restarted(own_server: Postgres, signal: signals.Signals) -> None:
    """What was answered is there; what failed said that it may be tried again."""
    database = await open_postgres(own_server.create(), (NOTES,))
    answered: list[int] = []
    failures = 0
    heard = asyncio.Event()
    stop = database.listen("notes", heard.set)

    async def write(start: int) -> None:
        nonlocal failures
        for number in range(start, start + 40):
            while True:
                try:
                    await database.write(_add(number))  # type: ignore[arg-type]
                    break
                except TransientError:
                    failures += 1
                    await asyncio.sleep(0.05)
            answered.append(number)
            await asyncio.sleep(0.01)

    writers = [asyncio.create_task(write(1000 * n)) for n in range(5)]
    await asyncio.sleep(0.15)
    await asyncio.to_thread(own_server.stop, signal)
    await asyncio.sleep(0.3)
    assert "cannot" in database.trouble
    await asyncio.to_thread(own_server.start)
    await asyncio.wait_for(asyncio.gather(*writers), 60)
    assert failures
    assert await database.read(_ids) == sorted(answered)
    assert not database.trouble
    heard.clear()
    await database.write(lambda tx: tx.notify("notes"))
    await asyncio.wait_for(heard.wait(), 60)
    stop()
    await database.close()


async def test_an_idle_connection_that_broke_is_not_noticed(own_server: Postgres) -> None:
    database = await open_postgres(own_server.create(), (NOTES,))
    await asyncio.gather(*(database.write(_add(number)) for number in range(20)))  # type: ignore[arg-type]
    await asyncio.to_thread(own_server.stop)
    await asyncio.to_thread(own_server.start)
    assert await database.write(_add(100)) == 1  # type: ignore[arg-type]
    assert len(await database.read(_ids)) == 21
    await database.close()


async def test_a_notice_reaches_another_process_on_the_same_server(own_server: Postgres) -> None:
    url = own_server.create()
    first, second = await open_postgres(url, (NOTES,)), await open_postgres(url, (NOTES,))
    heard = asyncio.Event()
    stop = second.listen("notes", heard.set)
    # Once it listens it is told of what it may have missed until then.
    await asyncio.wait_for(heard.wait(), 60)
    heard.clear()
    await first.write(lambda tx: tx.notify("notes"))
    await asyncio.wait_for(heard.wait(), 60)
    stop()
    await first.close()
    await second.close()


_FULL = """
import asyncio, resource, sys
from pathlib import Path
from dogwatch.core.clock import SystemClock
from dogwatch.errors import TransientError
from dogwatch.store.database import Tables
from dogwatch.store.state_sqlite import open_sqlite
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
notes = Tables(name="notes", steps=((1, "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT);"),))

async def main():
    database = await open_sqlite(Path(sys.argv[1]), (notes,), SystemClock())
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    good, bad = [], 0
    for number in range(200):
        try:
            await database.write(lambda tx: tx.run("INSERT INTO notes VALUES (:id, :text)", id=number, text="x" * 9000))
            good.append(number)
        except TransientError as error:
            bad += 1
            assert database.trouble, error
    assert bad and good, (bad, good)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await database.write(lambda tx: tx.run("INSERT INTO notes VALUES (:id, :text)", id=1000, text="after"))
    assert not database.trouble
    ids = await database.read(lambda tx: [row[0] for row in tx.rows("SELECT id FROM notes ORDER BY id")])
    assert ids == [*good, 1000], (ids, good)
    await database.close()
    print("survived", len(good), bad)

asyncio.run(main())
"""


async def test_a_disk_without_room_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _FULL, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "survived" in done.stdout
    database = await open_sqlite(path, (NOTES,), SystemClock())
    assert 1000 in await database.read(_ids)
    await database.close()
