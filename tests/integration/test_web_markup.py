"""Markup in whatever people can write is shown as it was written, on every page, and is never part of one."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.consoles import PAGES, Console, console

from dogwatch.access.identity import local

EVIL = "<img src=x onerror=window.bad=1>\"'</script><script>window.bad=2</script>{{7*7}}"
NEVER = ("<img src=x", "<script>window", 'onerror=window.bad=1>"')


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Console]:
    async with console(tmp_path) as found:
        await found.user("rosa", "admin")
        yield found


@pytest.fixture
async def client(site: Console) -> AsyncIterator[httpx.AsyncClient]:
    labels: dict[str, str] = {}
    secret, _token = await site.access.add_token(local("t"), "t", ["admin"], labels=labels, expires_after_s=None)
    headers = {"Authorization": f"Bearer {secret}", "accept": "text/html"}
    async with httpx.AsyncClient(base_url=site.url, headers=headers, timeout=60) as one:
        yield one


# What people can write, and where: each is taken, or refused in words.
WRITTEN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/api/v1/users", {"name": "eve", "password": "battery staple horse", "title": EVIL, "email": EVIL}),
    ("/api/v1/users", {"name": EVIL, "password": "battery staple horse"}),
    ("/api/v1/users/eve/roles", {"roles": [EVIL]}),
    ("/api/v1/tokens", {"name": EVIL[:90], "labels": {EVIL: EVIL}}),
    ("/api/v1/maintenance", {"name": EVIL, "targets": [EVIL], "match": {EVIL: EVIL}, "duration": "1h", "reason": EVIL}),
    ("/api/v1/maintenance", {"name": "w", "targets": ["shop"], "duration": EVIL}),
    ("/api/v1/maintenance", {"name": "w", "cron": EVIL, "duration": "1h", "time_zone": EVIL}),
    ("/api/v1/silences", {"duration": "1h", "rule": EVIL, "reason": EVIL}),
    ("/api/v1/silences", {"duration": "1h", "targets": [EVIL], "match": {EVIL: EVIL}, "reason": EVIL}),
    ("/api/v1/incidents/1/comment", {"text": EVIL}),
    ("/api/v1/incidents/1/ack", {"text": EVIL}),
    ("/api/v1/jobs/deploy/runs", {"parameters": {EVIL: EVIL}, "reason": EVIL}),
    ("/api/v1/jobs/deploy/runs", {"parameters": {"version": EVIL}, "reason": EVIL}),
    ("/api/v1/runs/01991111/cancel", {"reason": EVIL}),
    ("/api/v1/fleet/plans/plan1/decide", {"approve": False, "comment": EVIL}),
)
SEARCHES = (
    "/",
    "/incidents",
    "/fleet",
    "/runs",
    "/jobs",
    "/audit",
    "/logs",
    "/outbox",
    "/deliveries",
    "/tokens",
    "/users",
)


async def test_what_people_write_is_never_part_of_a_page(site: Console, client: httpx.AsyncClient) -> None:
    taken = 0
    for path, body in WRITTEN:
        answer = await client.post(path, json=body)
        assert answer.status_code < 500, (path, answer.text)
        assert answer.headers["content-type"].startswith("application/"), path
        taken += answer.status_code < 300
    assert taken >= 7
    shown = 0
    for path in (*PAGES, "/incidents?state=resolved", "/login", "/setup"):
        shown += await _is_harmless(client, path, {})
    assert shown >= 6, "too few pages showed anything of it"
    for path in SEARCHES:
        for name in ("q", "state", "cursor", "text", "actor", "name", "label", "group"):
            await _is_harmless(client, path, {name: EVIL})


async def _is_harmless(client: httpx.AsyncClient, path: str, query: dict[str, str]) -> bool:
    """Return whether it is shown, as text."""
    answer = await client.get(path, params=query or None)
    assert answer.status_code < 500, (path, query, answer.text[:300])
    for part in NEVER:
        assert part not in answer.text, (path, query, part)
    return html.escape(EVIL[:30], quote=False) in answer.text


@pytest.mark.parametrize("name", ["q", "next", "cursor", "state"])
async def test_nothing_asked_for_becomes_a_header(client: httpx.AsyncClient, name: str) -> None:
    for path in ("/login", "/", "/runs", "/nothing", "/api/v1/targets"):
        answer = await client.get(f"{path}?{name}=/a%0d%0aset-cookie:%20x=1%0d%0a%0d%0a<html>")
        # The form of the login has a cookie of its own.
        assert "x=1" not in answer.headers.get("set-cookie", "")
        assert answer.status_code < 500
    raw = await client.get("/a%0d%0aset-cookie:%20x=1", headers={"accept": "application/json"})
    assert "set-cookie" not in raw.headers
