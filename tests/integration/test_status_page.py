"""The public status page over HTTP: what is on it, what never is, and who is told."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.consoles import PUBLIC, Console, console

from dogwatch.access.trail import AuditFilter, find
from dogwatch.notify.message import Message
from dogwatch.status.section import StatusOptions

PRIVATE = (
    "secret-mail", "team", "db is down", "timeout", "shop.example", "10.0.0.53", "edge-lb", "slow-checkout", "mail",
    "switch\"", "blog.example",
)  # fmt: skip


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Console]:
    async with console(tmp_path) as one:
        await one.user("root", "admin")  # from now on everything else wants a login
        yield one


@pytest.fixture
async def client(web: Console) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=web.url, timeout=60, headers={"accept": "text/html"}) as client:
        yield client


async def messages(web: Console) -> list[Message]:
    rows = await web.access.database.read(lambda tx: tx.rows("SELECT body FROM outbox ORDER BY created_s, message_id"))
    found = [msgspec.json.decode(str(row[0]), type=Message) for row in rows]
    return [one for one in found if one.type.startswith("status.")]


async def test_anybody_sees_it_and_nothing_private(client: httpx.AsyncClient, web: Console) -> None:
    await web.watched.part.order(1, "comment", web.access_actor, text="the password of db is hunter2")
    await web.watched.part.order(1, "comment", web.access_actor, text="status: <b>we are on it</b>")
    for path in ("/status", "/status/summary.json", "/status/feed.atom", "/status/badge.svg"):
        answer = await client.get(path)
        assert answer.status_code == 200, path
        text = answer.text.replace("mailto", "").replace("by mail", "").replace('value="email"', "")
        text = text.replace('autocomplete="email"', "")
        for word in (*PRIVATE, "hunter2", "local:test"):
            assert word not in text, (path, word)
    page = (await client.get("/status")).text
    assert "Web shop" in page
    assert "&lt;b&gt;we are on it&lt;/b&gt;" in page
    assert "new switches" in page
    assert 'href="/jobs"' not in page
    # What is not chosen is not there by name either.
    assert "nightly-backup" not in page
    assert (await client.get("/api/v1/incidents")).status_code == 401


async def test_whoever_is_logged_in_sees_the_same(client: httpx.AsyncClient, web: Console) -> None:
    first = (await client.get("/status/summary.json")).json()
    assert [group["title"] for group in first["groups"]] == ["Shop", "Data"]
    assert [one["affects"] for one in first["open"]] == [["Web shop"]]
    assert [one["affects"] for one in first["work"]] == [["Web shop"]]
    assert {one["name"] for one in first["groups"][0]["targets"]} >= {"Web shop", "login"}


async def test_there_is_none_until_it_is_configured(tmp_path: Path) -> None:
    async with console(tmp_path, public=StatusOptions()) as web, httpx.AsyncClient(base_url=web.url) as client:
        for path in ("/status", "/status/feed.atom", "/status/summary.json", "/status/badge.svg", "/status/confirm"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/status/subscribe", data={"address": "a@b.example"})).status_code == 404


async def test_the_feed_is_atom(client: httpx.AsyncClient, web: Console) -> None:
    await web.watched.part.order(1, "comment", web.access_actor, text="status: a & b <c> \x0b")
    feed = ET.fromstring((await client.get("/status/feed.atom")).content)
    names = {"a": "http://www.w3.org/2005/Atom"}
    entries = feed.findall("a:entry", names)
    assert [entry.findtext("a:title", "", names) for entry in entries] == [
        "Web shop: trouble",
        "Web shop: planned work",
    ]
    assert "a & b <c>" in entries[0].findtext("a:content", "", names)
    assert (feed.findtext("a:id", "", names)) == "https://status.example/status"


async def test_badges_are_of_public_names(client: httpx.AsyncClient) -> None:
    answer = await client.get("/status/badge/Web%20shop.svg")
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    again = await client.get("/status/badge/Web%20shop.svg", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    assert (await client.get("/status/badge/shop.svg")).status_code == 404
    assert (await client.get("/status/badge/blog.svg")).status_code == 200


async def test_a_subscriber_confirms_is_told_once_and_leaves(client: httpx.AsyncClient, web: Console) -> None:
    status = web.program.services.status
    assert status is not None
    answer = await client.post("/status/subscribe", data={"kind": "email", "address": "Ann@Example.org"})
    assert answer.status_code == 200
    [asking] = await messages(web)
    assert asking.recipients == ["ann@example.org"]
    assert list(asking.to) == ["mail"]
    assert await status.tell() == 0  # not confirmed yet
    found = re.search(r"https://status\.example(/status/confirm\?token=\S+)", asking.text)
    assert found
    # Following the link alone does nothing: programs that look at mail do that.
    assert (await client.get(found[1])).status_code == 200
    assert await status.tell() == 0
    token = found[1].partition("token=")[2]
    assert (await client.post("/status/confirm", data={"token": token})).status_code == 200
    assert await status.tell() == 1  # the planned work; the trouble is older
    web.watched.clock.advance(60.0)
    await web.watched.part.order(1, "comment", web.access_actor, text="status: soon well")
    assert await status.tell() == 1
    assert await status.tell() == 0
    last = (await messages(web))[-1]
    assert "soon well" in last.text
    # The same address again says the same, and sends nothing.
    before = len(await messages(web))
    assert (await client.post("/status/subscribe", data={"address": "ann@example.org"})).status_code == 200
    assert len(await messages(web)) == before
    leave = re.search(r"(/status/unsubscribe\?token=\S+)", last.text)
    assert leave
    assert (await client.get(leave[1])).status_code == 200
    assert (await client.post("/status/unsubscribe", data={"token": token})).status_code == 200
    assert (await client.post("/status/unsubscribe", data={"token": token})).status_code == 404
    await web.watched.part.order(1, "comment", web.access_actor, text="status: gone")
    assert await status.tell() == 0
    verbs = [one.event.verb for one in await web.access.database.read(find(AuditFilter(noun="notification"), 10))]
    assert verbs == ["delete", "change", "create"]


async def test_a_subscriber_is_told_in_the_language_of_the_page(client: httpx.AsyncClient, web: Console) -> None:
    status = web.program.services.status
    assert status is not None
    headers = {"accept-language": "zh-CN"}
    answer = await client.post("/status/subscribe", data={"kind": "email", "address": "li@b.example"}, headers=headers)
    assert "链接" in answer.text
    [asking] = await messages(web)
    assert asking.title == "Shop status：请确认您的订阅"
    assert asking.text.startswith("有人（希望是您本人）要求向此地址通知 Shop status 的消息。\n")
    found = re.search(r"token=(\S+)", asking.text)
    assert found
    _ = await client.post("/status/confirm", data={"token": found[1]})
    assert await status.tell() == 1
    work = (await messages(web))[-1]
    assert work.title == "Shop status: Web shop：计划内工作"
    assert re.match(r"Web shop：计划内工作，从 \S+ \S+ UTC 到 \S+ \S+ UTC。new switches\n", work.text)
    assert "不想再收到：https://status.example/status/unsubscribe" in work.text


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("email", "nobody"),
        ("email", "a@b\r\nBcc: c@d.example"),
        ("email", "a@b.example, c@d.example"),
        ("webhook", "http://10.0.0.1/"),
        ("webhook", "https://user:pass@host.example/"),
        ("pigeon", "a@b.example"),
    ],
)
async def test_wrong_addresses_are_refused(client: httpx.AsyncClient, web: Console, kind: str, address: str) -> None:
    answer = await client.post("/status/subscribe", data={"kind": kind, "address": address})
    assert answer.status_code in (400, 404)
    assert await messages(web) == []


async def test_only_so_many_are_asked(client: httpx.AsyncClient, web: Console) -> None:
    answers = [
        (await client.post("/status/subscribe", data={"address": f"a{at}@b.example"})).status_code for at in range(22)
    ]
    assert answers[:20] == [200] * 20
    assert answers[20:] == [503, 503]
    assert len(await messages(web)) == 20


async def test_subscriptions_need_what_they_name() -> None:
    from dogwatch.status.section import STATUS_PAGE

    assert STATUS_PAGE.check is not None
    assert list(STATUS_PAGE.check(PUBLIC)) == []
    faults = list(STATUS_PAGE.check(msgspec.structs.replace(PUBLIC, url="")))
    assert [fault.path for fault in faults] == [("url",)]
