"""Who has opened a stream is asked again while it lasts, and that is no use of a session or token."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.access import LOCAL, PASSWORD, opened

from dogwatch.access.service import Access
from dogwatch.web.events import goes_on
from dogwatch.web.guard import Guard, Message, Scope
from dogwatch.web.meter import Meter
from dogwatch.web.options import WebOptions
from dogwatch.web.permissions import IDENTITY


async def stream(access: Access, **headers: str) -> Any:
    """Return what a stream knows of the request that opened it."""
    found: list[Scope] = []

    async def inner(scope: Scope, _receive: Any, send: Any) -> None:
        found.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Message) -> None:
        """Nobody reads it."""

    scope = {
        "type": "http", "method": "GET", "path": "/api/v1/events", "scheme": "http", "query_string": b"",
        "headers": [(b"host", b"localhost"), *((name.encode(), text.encode()) for name, text in headers.items())],
        "client": ("127.0.0.1", 5000), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await Guard(inner, WebOptions(), Meter(), access)(scope, receive, send)
    return SimpleNamespace(asked=SimpleNamespace(scope=found[0]), identity=found[0][IDENTITY])


async def test_an_open_stream_is_no_use_of_a_session_or_token(tmp_path: Path) -> None:
    async with opened(tmp_path) as access:
        user = await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
        secret, _session = await access.login("root", PASSWORD, address="", agent="test")
        token, _ = await access.add_token(
            access.identity_of(user, ""), "ci", ["viewer"], labels={}, expires_after_s=3600
        )
        streams = [
            await stream(access, cookie=f"dogwatch_session={secret}"),
            await stream(access, authorization=f"Bearer {token}"),
        ]
        assert [one.identity.how for one in streams] == ["session", "token"]
        assert (len(access._used_sessions), len(access._used_tokens)) == (1, 1)
        access._used_sessions.clear()
        access._used_tokens.clear()
        assert [await goes_on(one) for one in streams] == [True, True]
        assert (access._used_sessions, access._used_tokens) == ({}, {})


async def test_a_stream_from_before_there_were_users_does_not_outlast_that(tmp_path: Path) -> None:
    async with opened(tmp_path) as access:
        anybody = await stream(access)
        command = await stream(access, authorization=f"Bearer {access.local_token('root')}")
        assert [one.identity.how for one in (anybody, command)] == ["local", "local"]
        assert await goes_on(anybody)
        await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
        assert not await goes_on(anybody)
        assert await goes_on(command)
