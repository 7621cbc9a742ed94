"""The pages of schedules, webhooks, messages and settings, and the palette, in a real browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect
from tests.e2e.test_console import AXE, CHROMIUM, RULES, opened
from tests.fakes import FakeProgram
from tests.fakes_console import EVIL, FakeSchedules, furnish_schedules
from tests.fakes_runs import furnish
from tests.web_server import Running, running

from dogwatch.core.clock import SystemClock

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]
PATHS = ["/schedules", "/schedules/nightly%2Fdeploy"]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
def program() -> FakeProgram:
    program = FakeProgram(clock=SystemClock())
    furnish(program.runs)
    return program


@pytest.fixture
def schedules(program: FakeProgram) -> FakeSchedules:
    return furnish_schedules(program)


@pytest.fixture
async def server(program: FakeProgram, schedules: FakeSchedules) -> AsyncIterator[Running]:
    async with running(program) as one:
        yield one


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
async def test_accessible_and_within_the_screen(browser: Browser, server: Running, width: int, scheme: str) -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
        bypass_csp=True,  # axe is put into the page from outside
    )
    page = await context.new_page()
    for path in PATHS:
        await page.goto(server.url + path)
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        if path == "/schedules":
            await page.locator("button:has-text('Run now…')").first.click()
            await expect(page.locator("dialog .plan-steps")).to_be_visible()
        await page.add_script_tag(path=AXE)
        found = await page.evaluate("(rules) => axe.run(document, {runOnly: rules})", RULES)
        violations = [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]]
        assert (path, violations) == (path, [])
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
    await context.close()


async def test_a_schedule_is_paused_resumed_and_run(
    browser: Browser, server: Running, schedules: FakeSchedules
) -> None:
    async with opened(browser, server, "/schedules") as page:
        card = page.locator(".job").first
        await card.locator("button:has-text('Pause…')").click()
        await expect(page.locator("dialog")).to_contain_text("until somebody resumes it")
        await page.click("text=Leave it")
        assert schedules.calls == []
        await card.locator("button:has-text('Pause…')").click()
        await page.fill("dialog input", "release week")
        await page.click("dialog button.primary")
        await expect(card.locator(".st").first).to_have_text("paused")
        await expect(card).to_contain_text("by local:console: release week")
        await card.locator("button:has-text('Resume…')").click()
        await page.click("dialog button.primary")
        await expect(card.locator(".st").first).to_have_text("active")
        await card.locator("button:has-text('Run now…')").click()
        await expect(page.locator("dialog .plan-steps li")).to_have_count(6)
        await expect(page.locator("dialog .destructive")).to_contain_text("run rm -rf build")
        await page.click("dialog button.primary")
        await page.wait_for_url("**/runs/01998888")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    assert [call[:2] for call in schedules.calls] == [
        ("pause", "nightly/deploy"),
        ("resume", "nightly/deploy"),
        ("run", "nightly/deploy"),
    ]
    assert len(schedules.calls[2][2]) == 32


async def test_a_schedule_shows_fires_and_no_secret(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/schedules/nightly%2Fdeploy") as page:
        await expect(page.locator(".fires li")).to_have_count(10)
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(4)
        await expect(rows.nth(0).locator("a")).to_have_attribute("href", "/runs/01991111")
        await expect(rows.nth(1)).to_contain_text("3 fires while nothing ran")
        await expect(page.locator("main")).to_contain_text("v1.3")
        assert "hunter22" not in await page.content()


async def test_schedules_are_filtered_in_the_address(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/schedules?q=team%3Dshop") as page:
        await expect(page.locator(".job")).to_have_count(1)
        await expect(page.locator("#q")).to_have_value("team=shop")
        await expect(page.locator(".board-head")).to_contain_text("1 of 3 match")


async def test_hostile_names_stay_text(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/schedules") as page:
        await expect(page.locator(".job h2").nth(1)).to_have_text(f"evil {EVIL}")
        await page.locator(".job").nth(1).locator("button:has-text('Pause…')").click()
        await expect(page.locator("dialog h2")).to_contain_text(EVIL)
        await page.click("text=Leave it")
        await page.locator(".job h2 a").nth(1).click()
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await expect(page.locator("h1")).to_have_text(re.compile("^evil <img"))
        assert await page.evaluate("window.bad") is None


async def test_empty_pages_teach(browser: Browser, program: FakeProgram) -> None:
    async with running(program) as server, opened(browser, server, "/schedules") as page:
        await expect(page.locator(".empty pre")).to_contain_text("schedules:")
