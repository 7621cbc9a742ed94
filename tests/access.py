"""A web server with access over a real state database, and browsers and programs to call it with."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from dogwatch.access.actor import Actor
from dogwatch.access.identity import Identity, local
from dogwatch.access.options import AccessOptions, PasswordPolicy
from dogwatch.access.service import Access
from dogwatch.access.tables import access_tables
from dogwatch.access.trail import AuditFilter, Entry, find
from dogwatch.core.clock import SystemClock
from dogwatch.store.state_sqlite import open_sqlite
from tests.fakes import FakeProgram
from tests.web_server import Running, running

PASSWORD = "battery staple horse"
LOCAL = Actor(kind="local", name="test")
# Cheap to check; what it protects against is tested by itself.
CHEAP = PasswordPolicy(memory=8 * 1024 * 1024, passes=1)


@asynccontextmanager
async def opened(folder: Path, options: AccessOptions | None = None) -> AsyncIterator[Access]:
    options = options or AccessOptions()
    database = await open_sqlite(folder / "state.db", [access_tables()], SystemClock())
    try:
        access = Access(database, folder, SystemClock(), msgspec.structs.replace(options, password=CHEAP))
        await access.open()
        yield access
    finally:
        await database.close()


class Site:
    """A running server. browser() and program() make clients; all are closed with it."""

    def __init__(self, running: Running, access: Access, stack: contextlib.AsyncExitStack, **client: Any) -> None:
        self.running, self.access, self.program = running, access, running.program
        self._stack = stack
        self._client = client
        self.url = running.url

    async def client(self, *, token: str = "", **options: Any) -> httpx.AsyncClient:
        headers = {**({"authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        client = httpx.AsyncClient(
            base_url=self.url, headers=headers, trust_env=False, **{"timeout": 60, **self._client, **options}
        )
        return await self._stack.enter_async_context(client)

    async def user(self, name: str, *roles: str) -> None:
        await self.access.add_user(LOCAL, name, PASSWORD, roles)

    async def browser(self, name: str, password: str = PASSWORD) -> httpx.AsyncClient:
        """Return a client that is logged in, and sends its CSRF token."""
        client = await self.client()
        answer = await log_in(client, name, password)
        assert answer.status_code == 303, answer.text
        found = re.search(r'<meta name="csrf" content="([^"]+)"', (await client.get("/tokens")).text)
        assert found
        client.headers["x-csrf-token"] = found[1]
        return client

    async def token(self, *roles: str, labels: dict[str, str] | None = None, owner: str = "") -> str:
        identity: Identity = local("test")
        if owner:
            user = next(one for one in await self.users() if one.name == owner)
            identity = self.access.identity_of(user, "")
        secret, _token = await self.access.add_token(identity, "test", roles, labels=labels or {}, expires_after_s=3600)
        return secret

    async def users(self) -> Any:
        from dogwatch.access.users import all_users

        return await self.access.database.read(all_users)

    async def events(self, **wanted: Any) -> list[Entry]:
        return await self.access.database.read(find(AuditFilter(**wanted), 1000))


async def log_in(client: httpx.AsyncClient, name: str, password: str, **fields: str) -> httpx.Response:
    page = (await client.get("/login")).text
    found = re.search(r'name="form_token" value="([^"]+)"', page)
    assert found, page
    data = {"name": name, "password": password, "form_token": found[1], **fields}
    return await client.post("/login", data=data)


@asynccontextmanager
async def site(folder: Path, options: AccessOptions | None = None, **changes: Any) -> AsyncIterator[Site]:
    async with contextlib.AsyncExitStack() as stack:
        access = await stack.enter_async_context(opened(folder, options))
        program = FakeProgram()
        program.services.access = access
        program.services.database = access.database
        running_ = await stack.enter_async_context(running(program, **changes))
        yield Site(running_, access, stack)
