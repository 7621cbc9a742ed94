"""Every change that is refused is in the audit trail, whoever asked, whatever refused it: over all routes there are."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from litestar import Litestar
from tests.access import Site, site
from tests.fakes import FakeProgram

from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Permission, Rule
from dogwatch.access.trail import Entry
from dogwatch.web.application import create_web
from dogwatch.web.permissions import routes


def changes() -> list[tuple[str, str, object]]:
    web = create_web(FakeProgram().services)
    inner: Litestar = web._guarded._inner  # type: ignore[assignment]
    found = [
        (method, re.sub(r"\{[^}]*:int\}", "1", re.sub(r"\{[^}:]*:str\}", "thing", route.path)), opt["permission"])
        for route, method, opt in routes(inner)
        if method not in ("GET", "HEAD") and not route.path.startswith(("/ping/", "/hooks/"))
    ]
    return sorted(found, key=lambda one: one[:2])


CHANGES = changes()
WANTED = [one for one in CHANGES if one[2] not in ("public", "known")]


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with somebody who sees all and may change nothing, and somebody who may do all with what is not there."""
    roles = {
        "reader": (Rule(nouns=("*",), verbs=("read",)),),
        "shop": (Rule(nouns=("*",), verbs=("*",), labels={"team": "nowhere"}),),
    }
    async with site(tmp_path, AccessOptions(roles=roles)) as one:
        await one.user("rosa", "admin")
        await one.user("ann", "reader")
        await one.user("sam", "shop")
        yield one


async def noted(web: Site, before: int) -> list[Entry]:
    """Return the refusals since; each is recorded once it is answered."""
    async with asyncio.timeout(60):
        while not (found := [one for one in await web.events(outcome="refused") if one.number > before]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def newest(web: Site) -> int:
    found = await web.events()
    return found[0].number if found else 0


async def refused(web: Site, client: httpx.AsyncClient, method: str, path: str, **headers: str) -> list[Entry]:
    before = await newest(web)
    answer = await client.request(method, path, json={}, headers=headers)
    assert answer.status_code in (400, 401, 403, 404), (method, path, answer.status_code, answer.text)
    if answer.status_code == 400:
        return []  # of no sense to begin with: the form says so before anybody is asked
    return await noted(web, before)


async def test_without_the_permission(web: Site) -> None:
    ann = await web.browser("ann")
    told = 0
    for method, path, wanted in WANTED:
        if isinstance(wanted, Permission) and wanted.verb == "read":
            continue  # it may be read, and changes nothing
        found = await refused(web, ann, method, path)
        assert [str(one.event.actor) for one in found] == ["user:ann"], (method, path)
        assert isinstance(wanted, Permission)
        assert (found[0].event.verb, found[0].event.subject.noun) == (wanted.verb, wanted.noun), (method, path)
        told += 1
    assert told >= 40


async def test_what_may_not_be_seen(web: Site) -> None:
    """Who tries what others have is told that there is nothing; the trail tells who tried."""
    sam = await web.browser("sam")
    told = 0
    for method, path, _wanted in WANTED:
        for name in ("thing", "shop"):
            found = await refused(web, sam, method, path.replace("thing", name))
            assert len(found) <= 1, (method, path, found)
            told += len(found)
    assert told >= 40


async def test_without_the_page_s_own_token(web: Site) -> None:
    rosa = await web.browser("rosa")
    del rosa.headers["x-csrf-token"]
    for method, path, wanted in CHANGES:
        if wanted == "public" or path == "/logout":
            continue
        found = await refused(web, rosa, method, path)
        assert [str(one.event.actor) for one in found] == ["user:rosa"], (method, path)
    before = await newest(web)
    await rosa.post("/logout", data={"csrf": "of another"})
    assert [one.event.verb for one in await noted(web, before)] == ["logout"]


async def test_from_another_site_and_by_nobody(web: Site) -> None:
    """Of strangers' tries some are only counted: nobody may fill the trail from outside."""
    rosa, nobody = await web.browser("rosa"), await web.client()
    for client, headers in ((rosa, {"origin": "https://evil.example"}), (nobody, {})):
        for method, path, wanted in CHANGES:
            if client is nobody and wanted == "public":
                continue
            before = web.access.refused
            answer = await client.request(method, path, json={}, headers=headers)
            assert answer.status_code in (401, 403), (method, path, answer.status_code)
            async with asyncio.timeout(60):
                while web.access.refused == before:  # noqa: ASYNC110 - it is counted once it is answered
                    await asyncio.sleep(0.001)
            assert web.access.refused == before + 1, (method, path)
    assert web.access.unrecorded > 0
    actors = {str(one.event.actor) for one in await web.events(outcome="refused")}
    assert actors == {"anonymous:"}
