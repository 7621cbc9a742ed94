"""As test_web_schema, with users and an audit trail: what an administrator's token may call keeps its promises, too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance
from tests.access import site

PARTS = ("/api/v1/me", "/api/v1/users", "/api/v1/tokens", "/api/v1/roles", "/api/v1/audit", "/api/v1/login")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, leaks: Any) -> Iterator[tuple[str, str]]:
    """A server in a thread with a loop of its own: schemathesis calls without one."""
    folder: Path = tmp_path_factory.mktemp("access")
    leaks.allow("fd:*state.db*", reason="its database reads by connections that open when they are needed")
    started, found = threading.Event(), {}
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    async def serve() -> None:
        nonlocal loop, stop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with site(folder) as one:
            await one.user("root", "admin")
            found["url"], found["token"] = one.url, await one.token("admin")
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    yield found["url"], found["token"]
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)


def test_access_keeps_its_promises(api: tuple[str, str]) -> None:
    url, token = api
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_url(f"{url}/api/v1/openapi.json")
    tried = set()
    for found in schema.get_all_operations():
        operation: Any = found.ok()
        if not operation.path.startswith(PARTS):
            continue

        @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def keeps(case: schemathesis.Case) -> None:
            excluded = [negative_data_rejection, positive_data_acceptance, ignored_auth]
            case.call_and_validate(timeout=60, headers=headers, excluded_checks=excluded)

        keeps()
        tried.add((operation.method, operation.path))
    assert len(tried) >= 18
