"""What tests in a browser share: one browser for each process of tests, on a loop that lives as long as it does."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from playwright.async_api import Browser
    from tests.consoles import Console
    from tests.fakes import FakeProgram
    from tests.fakes_console import FakeHooks, FakeOutbox, FakeSchedules
    from tests.fakes_runs import FakeRuns
    from tests.web_server import Running

# A browser beside other workers on two cores is slow to answer; what came is seen at once all the same.
PATIENCE_MS = 30_000


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Run what uses the browser on the browser's loop."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> object:
    """Run an asynchronous fixture on the loop of its test, whichever that is."""
    function = fixturedef.func
    if fixturedef.scope == "function" and (
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    ):
        function._loop_scope = getattr(request.node, "_loop_scope", None)  # type: ignore[attr-defined]
    return (yield)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium(leaks: Any) -> AsyncIterator[Browser]:
    leaks.allow("thread:asyncio_*", reason="the loop's threads live as long as the loop")
    from playwright.async_api import async_playwright, expect

    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """Return the browser, with nothing kept from before: a context is closed with its test."""
    yield chromium
    for context in chromium.contexts:
        await context.close()


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Console]:
    """Return a console over a real database, with something on every page."""
    from tests.consoles import console

    async with console(tmp_path) as one:
        yield one


@pytest.fixture
def program() -> FakeProgram:
    from tests.fakes import FakeProgram

    from dogwatch.core.clock import SystemClock

    return FakeProgram(clock=SystemClock())


@pytest.fixture
def runs(program: FakeProgram) -> FakeRuns:
    from tests.fakes_runs import furnish

    furnish(program.runs)
    return program.runs


@pytest.fixture
def settings(program: FakeProgram) -> None:
    from tests.fakes_console import furnish_settings

    furnish_settings(program)


@pytest.fixture
def schedules(program: FakeProgram) -> FakeSchedules:
    from tests.fakes_console import furnish_schedules

    return furnish_schedules(program)


@pytest.fixture
def traffic(program: FakeProgram) -> tuple[FakeHooks, FakeOutbox]:
    from tests.fakes_console import furnish_traffic

    return furnish_traffic(program)


@pytest.fixture
def furnished(runs: FakeRuns, settings: None, schedules: FakeSchedules, traffic: tuple[FakeHooks, FakeOutbox]) -> None:
    """What `server` shows beside targets and hosts; a module may have less."""


@pytest.fixture
async def server(program: FakeProgram, furnished: None) -> AsyncIterator[Running]:
    """Return a server over the fake program alone: quicker than `web`, and everything asked of it can be looked at."""
    from tests.web_server import running

    async with running(program) as one:
        yield one
