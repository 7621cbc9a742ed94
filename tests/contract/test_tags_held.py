"""Many who change the same thing at the same moment, all having seen the same of it: exactly one of them does, over
SQLite and PostgreSQL, though they ask several Dogwatches on one database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.access import CHEAP, LOCAL, PASSWORD
from tests.contract.conftest import Open
from tests.fakes import FakeProgram

from dogwatch.access.identity import local
from dogwatch.access.options import AccessOptions
from dogwatch.access.service import Access
from dogwatch.access.tables import access_tables
from dogwatch.access.trail import AuditFilter, find
from dogwatch.core.clock import SystemClock
from dogwatch.store.database import Database
from dogwatch.web.application import create_web

WRITERS = 24


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(access_tables())


@pytest.fixture
async def clients(database: Database, tmp_path: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients of three Dogwatches on one database, which watch the same."""
    found = []
    async with contextlib.AsyncExitStack() as stack:
        program = FakeProgram()
        for at in range(3):
            access = Access(database, tmp_path, SystemClock(), AccessOptions(password=CHEAP))
            await access.open()
            if at == 0:
                await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
                await access.add_user(LOCAL, "ann", PASSWORD, ["viewer"])
                secret, _token = await access.add_token(local("t"), "t", ["admin"], labels={}, expires_after_s=None)
            services = msgspec.structs.replace(program.services, access=access, database=database)
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(create_web(services)),  # type: ignore[arg-type]
                base_url="http://localhost",
                headers={"authorization": f"Bearer {secret}"},
                timeout=60,
            )
            found.append(await stack.enter_async_context(client))
        yield found


async def _all_at_once(calls: list[Callable[[], Awaitable[httpx.Response]]]) -> list[int]:
    return sorted(answer.status_code for answer in await asyncio.gather(*(call() for call in calls)))


async def _tag(client: httpx.AsyncClient, path: str) -> str:
    return str((await client.get(path)).headers["etag"])


async def test_one_of_many_wins(clients: list[httpx.AsyncClient], database: Database) -> None:
    path = "/api/v1/users/ann"
    for turn in range(5):
        tag = await _tag(clients[0], path)

        def change(at: int, tag: str = tag, turn: int = turn) -> Callable[[], Awaitable[httpx.Response]]:
            body = {"roles": [("operator", "viewer")[turn % 2]] + ["admin"] * (at % 2)}
            return lambda: clients[at % 3].post(f"{path}/roles", json=body, headers={"if-match": tag})

        statuses = await _all_at_once([change(at) for at in range(WRITERS)])
        assert statuses == [200] + [412] * (WRITERS - 1)
    changes = await database.read(find(AuditFilter(noun="user", name="ann"), 100))
    assert [one.event.outcome for one in changes].count("done") == 1 + 5


async def test_whatever_it_is_that_they_do(clients: list[httpx.AsyncClient]) -> None:
    path = "/api/v1/users/ann"
    held = {"if-match": await _tag(clients[0], path)}
    statuses = await _all_at_once(
        [
            lambda: clients[0].delete(path, headers=held),
            lambda: clients[1].post(f"{path}/disable", headers=held),
            lambda: clients[2].post(f"{path}/roles", json={"roles": []}, headers=held),
            lambda: clients[0].post(f"{path}/password", json={"password": PASSWORD + "!"}, headers=held),
        ]
    )
    assert statuses[0] == 200
    # Who comes after the removal finds nothing to change.
    assert set(statuses[1:]) <= {404, 412}


async def test_changes_elsewhere_than_in_the_database(clients: list[httpx.AsyncClient], database: Database) -> None:
    """Pausing is an event before, and one after: the second is no change of its own."""
    path = "/api/v1/targets/shop"
    held = {"if-match": await _tag(clients[0], path)}
    calls = [
        lambda at=at: clients[at % 3].post(f"{path}/pause", headers=held)  # type: ignore[misc]
        for at in range(WRITERS)
    ]
    assert await _all_at_once(calls) == [200] + [412] * (WRITERS - 1)
    events = await database.read(find(AuditFilter(noun="probe", name="shop"), 100))
    assert [one.event.outcome for one in events] == ["done", "begun"]


async def test_who_has_no_tag_is_noticed_by_those_who_have(clients: list[httpx.AsyncClient]) -> None:
    """The same roles again leave the tag as it was: what tells is that somebody was faster."""
    path = "/api/v1/users/ann"
    held = {"if-match": await _tag(clients[0], path)}
    body = {"roles": ["viewer"]}
    calls = [
        lambda at=at: clients[at % 3].post(  # type: ignore[misc]
            f"{path}/roles", json=body, headers=held if at % 2 else {}
        )
        for at in range(WRITERS)
    ]
    statuses = await _all_at_once(calls)
    assert statuses.count(200) >= WRITERS // 2
    assert statuses.count(200) <= WRITERS // 2 + 1
    assert set(statuses) == {200, 412}


async def test_one_after_the_other_is_no_conflict(clients: list[httpx.AsyncClient]) -> None:
    """What is as it was before (paused, resumed, paused) has the tag that it had, and may be changed with it."""
    path = "/api/v1/targets/shop"
    first = await _tag(clients[0], path)
    for at in range(6):
        tag = await _tag(clients[at % 3], path)
        verb = ("pause", "resume")[at % 2]
        answer = await clients[(at + 1) % 3].post(f"{path}/{verb}", headers={"if-match": tag})
        assert answer.status_code == 200, answer.text
    again = await _tag(clients[0], path)
    assert (await clients[0].post(f"{path}/pause", headers={"if-match": again})).status_code == 200
    assert first
