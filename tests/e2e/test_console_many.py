"""A hundred thousand of everything: a page is a page of it, in a real browser."""

from __future__ import annotations

import time

import pytest
from playwright.async_api import Browser, Page, expect
from tests.consoles import Console, live, needs_chromium, opened
from tests.fakes import FakeProgram
from tests.fakes_watch import many
from tests.web_server import running

from dogwatch.core.clock import SystemClock
from dogwatch.store.database import Tx

pytestmark = needs_chromium
TOTAL = 100_000
WEIGHT = "performance.getEntriesByType('navigation')[0].encodedBodySize"
COPIES = """
INSERT INTO audit_events (number, time_s, actor, verb, noun, name, outcome, body, digest)
WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < :total)
SELECT e.number + n, e.time_s + n, e.actor, e.verb, e.noun, e.name, e.outcome,
    replace(e.body, '"number":' || e.number, '"number":' || (e.number + n)), e.digest
FROM counted, (SELECT * FROM audit_events ORDER BY number DESC LIMIT 1) AS e
"""


async def light(page: Page) -> None:
    assert await page.evaluate(WEIGHT) < 200_000


@pytest.mark.timeout(180)
async def test_targets(browser: Browser) -> None:
    program = FakeProgram(many(TOTAL, SystemClock().now_s(), groups=500), clock=SystemClock())
    async with running(program) as server, opened(browser, server) as page:
        await expect(page.locator(".board-head").first).to_contain_text("100\u202f000 in all")
        assert await page.locator(".row").count() <= 150
        await light(page)
        await page.click("text=More groups")
        await page.wait_for_url("**start=100")
        assert await page.locator("details.group").count() == 100
        await light(page)
        await page.goto(f"{server.url}/?q=service-04321")
        await expect(page.locator(".row").first).to_contain_text("service-04321")
        await page.goto(f"{server.url}/compare?of=service-04321")
        await expect(page.locator(".pick-list li")).to_have_count(1)
        await light(page)
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")


async def test_events_of_the_audit_trail(browser: Browser, web: Console) -> None:
    def fill(tx: Tx) -> int:
        return tx.run(COPIES, total=TOTAL)

    assert await web.access.database.write(fill) == TOTAL
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    begun = time.monotonic()
    await page.goto(f"{web.url}/audit")
    await live(page)
    assert time.monotonic() - begun < 20
    rows = page.locator("tbody tr")
    count = await rows.count()
    assert 10 <= count <= 500
    await light(page)
    first = await rows.first.get_attribute("id")
    await page.click("text=Older events")
    await live(page)
    assert await rows.count() == count
    assert await rows.first.get_attribute("id") != first
    await light(page)
    await page.goto(f"{web.url}/audit?q=verb:plan")
    await live(page)
    await expect(rows).to_have_count(3)
    await context.close()
