"""Links in notices: a page that changes nothing, a button that acknowledges once, and nothing for whoever guesses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.fakes import FakeProgram
from tests.incidents import Watched
from tests.web_server import running

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.notify.ids import Ids
from dogwatch.notify.message import Message
from dogwatch.notify.outbox import enqueue
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.links.links import Links
from dogwatch.rules.links.tables import link_tables
from dogwatch.rules.tables import incident_tables
from dogwatch.store.database import Tx
from dogwatch.store.state_sqlite import open_sqlite


class Linked(Watched):
    def __init__(self, database: Any) -> None:
        ids = Ids("msg")
        self.links = Links(database, lambda tx, message: enqueue(tx, ids, message))
        self.links.base_url = "https://watch.example"
        super().__init__(database)

    def enqueue(self, tx: Tx, message: Message) -> object:
        return self.links.enqueue(tx, message)


class Site:
    def __init__(self, watched: Linked, client: httpx.AsyncClient) -> None:
        self.watched, self.client = watched, client

    async def messages(self) -> list[Message]:
        rows = await self.watched.database.read(lambda tx: tx.rows("SELECT body FROM outbox ORDER BY message_id"))
        return [msgspec.json.decode(str(row[0]), type=Message) for row in rows]

    async def post(self, path: str) -> httpx.Response:
        task = asyncio.create_task(self.client.post(path))
        while not task.done():
            await asyncio.sleep(0.02)
            await self.watched.part.turn()
        return await task


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    tables = (access_tables(), notify_tables(), incident_tables(), link_tables())
    database = await open_sqlite(tmp_path / "state.db", tables, SystemClock())
    watched = Linked(database)
    program = FakeProgram()
    program.services.incidents, program.services.links = watched.part, watched.links
    try:
        async with running(program) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            watched.links.base_url = "https://watch.example"
            await watched.pass_time(30, db=0.1)
            await watched.pass_time(30, db=-1)
            yield Site(watched, client)
    finally:
        await watched.part.stop()
        await database.close()


async def test_a_link_acknowledges_once(site: Site) -> None:
    [message] = await site.messages()
    url = str(message.data["ack_url"])
    assert url in message.text
    assert message.url == "https://watch.example/incidents/1"
    path = url.removeprefix("https://watch.example")
    # At least 256 bits, and only their digest is kept.
    assert re.fullmatch(r"/ack/[\w-]{43}", path)
    rows = await site.watched.database.read(lambda tx: tx.rows("SELECT link_hash FROM ack_links"))
    assert path.removeprefix("/ack/") not in str(rows)
    for _ in range(2):
        page = await site.client.get(path)
        assert page.status_code == 200
        assert "Acknowledge #1?" in page.text
        assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert (await site.watched.part.show(1)).acked_by == ""
    done = await site.post(path)
    assert done.status_code == 200
    assert "Acknowledged" in done.text
    assert (await site.watched.part.show(1)).acked_by == "link:ops"
    again = await site.post(path)
    assert again.status_code == 404
    assert (await site.client.get(path)).status_code == 404
    audit = await site.watched.database.read(
        lambda tx: tx.rows("SELECT actor, name FROM audit_events WHERE actor = 'link:ops'")
    )
    assert audit == [("link:ops", "#1")]


async def test_nobody_guesses_and_nothing_lasts(site: Site) -> None:
    for path in ("/ack/x", "/ack/" + "A" * 43, "/ack/" + "A" * 5000, "/ack/%00"):
        assert (await site.client.get(path)).status_code in (404, 400)
        assert (await site.client.post(path)).status_code in (404, 400)
    [message] = await site.messages()
    path = str(message.data["ack_url"]).removeprefix("https://watch.example")
    await site.watched.database.write(lambda tx: tx.run("UPDATE ack_links SET expires_s = :now_s", now_s=tx.now_s))
    assert (await site.client.get(path)).status_code == 404
    assert (await site.post(path)).status_code == 404
    assert (await site.watched.part.show(1)).acked_by == ""


async def test_what_ended_has_no_link(site: Site) -> None:
    await site.watched.pass_time(10, db=0.1)
    assert [("ack_url" in one.data) for one in await site.messages()] == [True, False]
