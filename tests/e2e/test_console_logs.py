"""The page of logs in a real browser, over a real store."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.async_api import Browser, expect
from tests.consoles import needs_chromium, opened, violations_in_both_themes
from tests.fakes import FakeProgram
from tests.fakes_runs import furnish
from tests.web_server import Running, running

from dogwatch.core.clock import SystemClock
from dogwatch.logs.reader import LogReader
from dogwatch.logs.store import sealing
from dogwatch.logs.store.layout import wal_path
from dogwatch.logs.store.wal import header

pytestmark = needs_chromium
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def records(count: int, begin_us: int) -> list[dict[str, Any]]:
    levels = ("info", "debug", "warn", "info", "error")
    return [
        {
            "time_us": begin_us + at * 30_000_000,
            "source": ("shop", "bank")[at % 2],
            "level": levels[at % 5],
            "service": f"s{at % 3}",
            "message": f"request {at} handled <b>plainly</b>",
            **({"trace_id": TRACE, "run_id": "01992222", "incident": 7, "host": "watch-1"} if at % 10 == 0 else {}),
        }
        for at in range(count)
    ]


def put(folder: Path, number: int, found: list[dict[str, Any]]) -> None:
    data = b""
    for at, one in enumerate(found):
        record = {"id": f"x:{number}:{at}", "file": "/var/log/app.log", **one}
        data += header(record.pop("time_us")) + msgspec.json.encode(record) + b"\n"
    with wal_path(folder, number).open("ab") as file:
        file.write(data)


@pytest.fixture(scope="module", autouse=True)
def _libraries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The library begins threads with its first use that last as long as the process."""
    folder = tmp_path_factory.mktemp("first")
    put(folder, 1, records(1, 0))
    sealing.seal(folder, 1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    program = FakeProgram(clock=SystemClock())
    furnish(program.runs)
    begin_us = int((time.time() - 3000) * 1e6)
    put(tmp_path, 1, records(60, begin_us))
    sealing.seal(tmp_path, 1)
    put(tmp_path, 2, records(30, begin_us + 1_800_000_000))
    program.services.logs = LogReader(lambda: tmp_path, lambda: {"shop": {"team": "a"}, "bank": {}})
    async with running(program) as one:
        yield one


@pytest.mark.parametrize("width", [375, 1280])
async def test_accessible_and_within_the_screen(browser: Browser, server: Running, width: int) -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        bypass_csp=True,  # axe is put into the page from outside
    )
    page = await context.new_page()
    for path in ("/logs", "/logs?text=nowhere", "/logs?where=level+%3D%3D"):
        await page.goto(server.url + path)
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        if path == "/logs":
            await page.locator("details.log").first.locator("summary").click()
        assert (path, await violations_in_both_themes(page)) == (path, [])
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
        if folder := os.environ.get("SCREENSHOTS"):
            name = f"logs-{width}-{len(path)}.png"
            await page.screenshot(path=Path(folder) / name, full_page=False)
    await context.close()


async def test_search_facets_histogram_and_mistakes(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/logs") as page:
        await expect(page.locator("details.log")).to_have_count(90)
        await expect(page.locator(".logs-count p").first).to_contain_text("90")
        await expect(page.locator("details.log b")).to_have_count(0)
        await page.click(".logs-facets a:text-is('error')")
        await page.wait_for_url("**/logs?where=*")
        await expect(page.locator("details.log.bad")).to_have_count(18)
        await expect(page.locator("details.log")).to_have_count(18)
        await page.select_option("#l-source", "bank")
        await page.click("button:has-text('Search')")
        await expect(page.locator("details.log")).to_have_count(9)
        await page.fill("#l-where", 'level == "error" &&')
        await page.click("button:has-text('Search')")
        await expect(page.locator("#l-mistake")).to_contain_text("at character")
        await page.goto(f"{server.url}/logs")
        before = await page.locator("details.log").count()
        await page.locator(".logs-bars rect.back").nth(1).dispatch_event("click")
        await page.wait_for_url("**begin=*")
        assert 0 < await page.locator("details.log").count() < before


async def test_links_lead_to_the_trace_the_run_the_incident_and_the_host(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/logs?text=request+20") as page:
        line = page.locator("details.log").first
        await line.locator("summary").click()
        assert await line.locator("a:text-is('run')").get_attribute("href") == "/runs/01992222"
        assert await line.locator("a:text-is('incident')").get_attribute("href") == "/incidents/7"
        assert await line.locator("a:text-is('host')").get_attribute("href") == "/hosts/watch-1"
        await line.locator("a:text-is('trace')").click()
        await page.wait_for_url(f"**trace={TRACE}*")
        await expect(page.locator("details.log")).to_have_count(9)


async def test_live_tail_shows_what_comes(browser: Browser, server: Running, tmp_path: Path) -> None:
    async with opened(browser, server, "/logs?where=level+%3D%3D+%22error%22") as page:
        await page.click("#l-tail")
        await expect(page.locator("#l-tail")).to_have_attribute("aria-pressed", "true")
        # The stream begins with what comes after it: written until it shows.
        for number in range(100):
            new = {"source": "shop", "level": ("error", "info")[number % 2], "message": f"live {number} <i>x</i>"}
            put(tmp_path, 2, [{"time_us": int(time.time() * 1e6), **new}])
            if await page.locator("details.log.fresh").count() > 2:
                break
            await page.wait_for_timeout(100)
        await expect(page.locator("details.log.fresh").first).to_contain_text("<i>x</i>")
        assert await page.locator("details.log.fresh:not(.bad)").count() == 0
        await page.click("#l-tail")
        await expect(page.locator("#l-tail")).to_have_attribute("aria-pressed", "false")


async def test_without_a_store_the_page_says_how_to_have_one(browser: Browser) -> None:
    async with running(FakeProgram(clock=SystemClock())) as server, opened(browser, server, "/logs") as page:
        await expect(page.locator("h2")).to_have_text("No logs are kept yet")
