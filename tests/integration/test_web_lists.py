"""Every list of the API: its pages hold each item once, a cursor of somebody else is refused, and whoever is limited to
labels learns of nothing else, not even by a count.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.consoles import Console, console

from dogwatch.access.identity import local

SHOP = {"team": "shop"}
# Answers with items that are no lists of things.
NO_LISTS = {
    "/api/v1/logs",  # the newest of a stretch of time
    "/api/v1/runs/{run_id}/output",  # text in pieces, which goes on
}
# Whose lists are looked at, by the beginning of the address.
OF = {
    "/api/v1/targets/": "shop%2Fcheckout",
    "/api/v1/runs/": "01991111",
    "/api/v1/fleet/runs/": "fleet1%2Fgo",
    "/api/v1/fleet/plans/": "plan1",
    "/api/v1/schedules/": "nightly%2Fdeploy",
}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Console]:
    async with console(tmp_path) as found:
        await found.user("rosa", "admin")
        for at in range(5):
            await found.user(f"user-{at}", "viewer")
            await found.access.add_token(local("test"), f"token-{at}", ["viewer"], labels={}, expires_after_s=None)
        yield found


async def _client(site: Console, labels: dict[str, str]) -> httpx.AsyncClient:
    secret, _token = await site.access.add_token(
        local("test"), "reader", ["admin"], labels=labels, expires_after_s=None
    )
    return httpx.AsyncClient(base_url=site.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)


def answered(document: Any, operation: Any) -> Any:
    """Return the schema of an answer, without the references."""
    schema = operation["responses"]["200"]["content"].get("application/json", {}).get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


async def lists(client: httpx.AsyncClient) -> list[str]:
    """Return the addresses of all lists. Every answer with items is one, and has a cursor."""
    document = (await client.get("/api/v1/openapi.json")).json()
    found = []
    for path, methods in document["paths"].items():
        schema = answered(document, methods["get"]) if "get" in methods else {}
        assert schema.get("type") != "array", f"{path} comes whole: give it `paging: Page` (web/api/paging.py)"
        if "items" not in schema.get("properties", {}) or path in NO_LISTS:
            continue
        names = {one["name"] for one in methods["get"].get("parameters", ())}
        assert {"limit", "cursor"} <= names, f"{path} comes whole: give it `paging: Page` (web/api/paging.py)"
        assert "next_cursor" in schema["properties"], f"{path} has no cursor"
        whose = next((one for beginning, one in OF.items() if path.startswith(beginning)), "")
        assert whose or "{" not in path, f"say in OF whose {path} is looked at"
        address = re.sub(r"{\w+}", whose, path)
        answer = await client.get(address)
        assert answer.status_code == 200, f"{path}: this daemon has no such part: give it one in tests/consoles.py"
        found.append(address)
    assert len(found) > 30
    return found


async def walk(client: httpx.AsyncClient, path: str, limit: int) -> list[Any]:
    items: list[Any] = []
    query: dict[str, Any] = {}
    totals = []
    for _page in range(1000):
        answer = await client.get(path, params={"limit": limit, **query})
        assert answer.status_code == 200, (path, answer.text)
        body = answer.json()
        assert len(body["items"]) <= limit
        items += body["items"]
        totals.append(body.get("total"))
        if body["next_cursor"]:
            query = {"cursor": body["next_cursor"]}
        else:
            # What the database keeps is counted for the first page only.
            assert totals[0] in (None, len(items)), (path, totals, len(items))
            assert set(totals[1:]) <= {None, totals[0]}, (path, totals)
            return items
    raise AssertionError(f"{path} has no end")


def _steady(item: Any) -> bytes:
    """Return an item without what moves while somebody looks."""
    moving = ("heartbeat_s", "used_s", "used_from", "next_s", "lateness_s", "busy")
    return msgspec.json.encode({key: value for key, value in item.items() if key not in moving}, order="sorted")


async def test_pages_hold_each_item_once(site: Console) -> None:
    async with await _client(site, {}) as client:
        several = 0
        for path in await lists(client):
            whole = [_steady(one) for one in await walk(client, path, 500)]
            for limit in (1, 2):
                assert [_steady(one) for one in await walk(client, path, limit)] == whole, (path, limit)
            several += len(whole) > 1
        assert several >= 12, "too few lists had anything to page through"


@pytest.mark.parametrize("cursor", ["nonsense", "!!!", "W10", "a" * 1900, "bnVsbA", "-1", "é"])
async def test_a_cursor_that_is_not_ours_is_refused(site: Console, cursor: str) -> None:
    async with await _client(site, {}) as client:
        taken = []
        for path in await lists(client):
            answer = await client.get(path, params={"cursor": cursor})
            if answer.status_code != 400:
                taken.append((path, answer.status_code))
                continue
            assert answer.headers["content-type"].startswith("application/problem+json")
            assert answer.json()["code"] == "usage"
        assert taken == []


async def test_whoever_is_limited_learns_of_nothing_else(site: Console) -> None:
    async with await _client(site, {}) as all_seeing, await _client(site, {"team": "shop"}) as limited:
        fewer = 0
        for path in await lists(all_seeing):
            answer = await limited.get(path)
            if answer.status_code == 403:
                continue
            seen = await walk(limited, path, 1)  # its total is what is seen
            for one in seen:
                labels = one.get("labels")
                assert not labels or labels.get("team") == "shop" or path.startswith("/api/v1/fleet"), (path, one)
            whole = await walk(all_seeing, path, 500)
            assert len(seen) <= len(whole)
            fewer += len(seen) < len(whole)
            hidden = await limited.get(path, params={"q": "secret-mail"})
            assert hidden.status_code == 400 or "secret-mail" not in hidden.text, path
        assert fewer >= 4


async def test_words_are_looked_for(site: Console) -> None:
    async with await _client(site, {}) as client:
        found = (await client.get("/api/v1/users", params={"q": "USER-3"})).json()
        assert ([one["name"] for one in found["items"]], found["total"]) == (["user-3"], 1)
        assert (await client.get("/api/v1/users", params={"q": "user-3 admin"})).json()["total"] == 0
        assert (await client.get("/api/v1/tokens", params={"q": "token-"})).json()["total"] == 5


async def test_the_database_is_counted_once_and_not_word_by_word(
    site: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await _client(site, {}) as client:
        first = (await client.get("/api/v1/audit", params={"limit": 2})).json()
        assert first["total"] >= 7
        second = (await client.get("/api/v1/audit", params={"limit": 2, "cursor": first["next_cursor"]})).json()
        assert (len(second["items"]), second["total"]) == (2, None)
        assert (await client.get("/api/v1/audit", params={"text": "user-1"})).json()["total"] is None
        assert (await client.get("/api/v1/audit", params={"name": "user-1"})).json()["total"] == 1
        assert (await client.get("/api/v1/transitions", params={"q": "shop"})).json()["total"] is None
        assert (await client.get("/api/v1/transitions")).json()["total"] is not None
        monkeypatch.setattr("dogwatch.store.database.MOST_COUNTED", 3)
        monkeypatch.setattr("dogwatch.web.view.MOST_COUNTED", 3)
        assert (await client.get("/api/v1/audit")).json()["total"] == 3
        assert "3 or more in all" in (await client.get("/audit")).text
        assert "in all" not in (await client.get("/audit", params={"q": "user"})).text


async def test_the_palette_finds_what_may_be_seen(site: Console) -> None:
    async with await _client(site, {}) as all_seeing, await _client(site, {"team": "shop"}) as limited:
        names = {one["name"] for one in (await walk(all_seeing, "/api/v1/targets", 500)) if one["labels"] != SHOP}
        assert names
        hits = 0
        for name in names:
            whole = await all_seeing.get("/fragments/palette", params={"q": name})
            hits += name in {one["name"] for one in whole.json()}
            found = await limited.get("/fragments/palette", params={"q": name})
            assert found.status_code == 200
            assert name not in {one["name"] for one in found.json()}, name
        assert hits
