"""A console and API with made-up targets, and one with users, for the tests that look at them over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.access import Site, site
from tests.web_rights import OPTIONS, label
from tests.web_server import Running, running


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running() as one:
        yield one


@pytest.fixture
async def client(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as one:
        yield one


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with three users; `shop` and `login` carry team=till."""
    async with site(tmp_path, OPTIONS) as one:
        await one.user("rosa", "admin")
        await one.user("ann", "operator")
        await one.user("sam", "shop")
        label(one, "shop", "login")
        yield one
