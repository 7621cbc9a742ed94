"""What a person is at stays as it is while a page lives: focus, selection, place, what is typed; and keys lead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect
from tests.consoles import PAGES, Console, live, needs_chromium, opened
from tests.e2e.running import running as daemon_running
from tests.fakes import FakeProgram
from tests.fakes_runs import FakeRuns, furnish
from tests.web_server import Running, running

from dogwatch.core.clock import SystemClock
from dogwatch.core.values import Event
from dogwatch.engine.values import RunState

pytestmark = needs_chromium
# Marks an element that must be the same one later, and selects what stands in another.
HOLD = """([held, selected]) => {
    const one = document.querySelector(held);
    one.focus();
    one.heldSince = true;
    getSelection().selectAllChildren(document.querySelector(selected));
    window.scrollTo(0, 120);
    return [getSelection().toString(), scrollY];
}"""
AWAIT_FRESH = """() => {
    window.fresh = new Promise((done) => document.addEventListener('dogwatch:fresh', () => done(0), {once: true}));
}"""
HELD = "[document.activeElement.heldSince === true, getSelection().toString(), scrollY]"


async def moved(page: Page, program: FakeProgram, topic: str, fragment: str) -> None:
    """Publish something, and wait until a part of the page was drawn anew."""
    await page.evaluate(AWAIT_FRESH)
    async with page.expect_response(f"**{fragment}*"):
        program.bus.publish(Event(topic=topic, time_s=program.clock.now_s(), data={"host": "watch-1"}))
    await page.evaluate("window.fresh")


async def test_focus_selection_and_place_survive_what_comes(browser: Browser) -> None:
    program = FakeProgram(clock=SystemClock())
    async with running(program) as server, opened(browser, server) as page:
        held = ("#now .wrong a", "#now .wrong .why")
        text, place = await page.evaluate(HOLD, held)
        assert (len(text) > 3, place) == (True, 120)
        await moved(page, program, "finding", "/fragments/now")
        assert await page.evaluate(HELD) == [True, text, 120]
        await moved(page, program, "sample", "/fragments/hosts")
        assert await page.evaluate(HELD) == [True, text, 120]


async def test_a_list_that_grows_keeps_who_reads_it(browser: Browser, program: FakeProgram, runs: FakeRuns) -> None:
    for at in range(40):
        runs.put(f"0199{at:04}", state=RunState.SUCCEEDED)
    async with running(program) as server, opened(browser, server, "/runs") as page:
        held = ("#run-01990020 a", "#run-01990022 td:last-child")
        text, place = await page.evaluate(HOLD, held)
        runs.put("01998888")
        await expect(page.locator("#run-01998888")).to_be_attached()
        focused, selected, _ = await page.evaluate(HELD)
        assert (focused, selected, place) == (True, text, 120)


async def test_back_leads_to_what_was_looked_for(browser: Browser, server: Running) -> None:
    async with opened(browser, server) as page:
        await page.keyboard.press("/")
        await page.keyboard.type("status:down")
        await expect(page.locator(".row")).to_have_count(1)
        await page.click(".row .name")
        await page.wait_for_url("**/targets/shop%2Fcheckout")
        await page.go_back()
        await expect(page.locator("#q")).to_have_value("status:down")
        await expect(page.locator(".row .name")).to_have_text("shop/checkout")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await page.goto(f"{server.url}/runs?state=succeeded")
        await page.click("tbody a >> nth=0")
        await page.go_back()
        await expect(page).to_have_url(re.compile("state=succeeded"))
        await expect(page.locator("#f-state")).to_have_value("succeeded")


async def test_every_key_of_the_palette_leads_where_it_says(browser: Browser, web: Console) -> None:
    """From the palette itself: each page that it offers with a key is reached by that key, and no two share one."""
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    await page.goto(f"{web.url}/workers")
    await live(page)
    await page.keyboard.press("?")
    options = page.locator("dialog [role=option]:has(kbd)")
    await expect(options.first).to_be_visible()
    keys = [text.split()[-1] for text in await options.locator("kbd").all_inner_texts()]
    names = [text.split("\n")[1] for text in await options.all_inner_texts()]
    assert len(keys) == len(set(keys)) >= 17
    for key, name in zip(keys, names, strict=True):
        await page.goto(f"{web.url}/workers")
        await live(page)
        await page.keyboard.press("g")
        await page.keyboard.press(key)
        if name != "Workers":
            await page.wait_for_url(lambda url: not url.endswith("/workers"))
        await live(page)
        heading = await page.locator("h1").first.inner_text()
        assert heading, (key, name)
    await context.close()


@pytest.mark.timeout(240)
async def test_a_keyboard_reaches_the_filter_and_the_content_of_every_page(browser: Browser, web: Console) -> None:
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    for path in PAGES:
        await page.goto(web.url + path)
        await live(page)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip", path
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main", path
        if await page.locator("#q, [data-filter]").count():
            await page.keyboard.press("/")
            assert await page.evaluate("document.activeElement.matches('#q, [data-filter]')"), path
        # Nobody walks against what is read: no element has an order of its own.
        assert await page.locator("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").count() == 0, path
    await context.close()


async def test_paper_says_when_and_not_how_long_ago(browser: Browser, web: Console) -> None:
    context = await browser.new_context(locale="en-GB", timezone_id="Asia/Tokyo")
    page = await context.new_page()
    await page.goto(f"{web.url}/incidents/1")
    await live(page)
    opened_at = page.locator("dt:text-is('Opened') + dd time")
    await expect(opened_at).to_contain_text("ago")
    await page.evaluate("dispatchEvent(new Event('beforeprint'))")
    await expect(opened_at).to_have_text(re.compile(r"\d{1,2} \w{3} \d{4}, \d\d:\d\d"))
    await page.evaluate("dispatchEvent(new Event('afterprint'))")
    await expect(opened_at).to_contain_text("ago")
    await context.close()


async def test_a_configuration_that_is_saved_disturbs_nobody_who_types(browser: Browser, tmp_path: Path) -> None:
    one = '  - {name: one, tcp: "127.0.0.1:9", every: 1h}\n'
    with daemon_running(tmp_path, f"probes:\n{one}") as daemon:
        context = await browser.new_context(locale="en-GB")
        page = await context.new_page()
        await page.goto(daemon.server)
        await live(page)
        await expect(page.locator(".row")).to_have_count(1)
        await page.evaluate("window.sameSince = true")
        await page.keyboard.press("/")
        daemon.config.write_text(f"probes:\n{one}{one.replace('one', 'two')}")
        await expect(page.locator(".row[data-target=two]")).to_be_visible(timeout=60_000)
        await page.keyboard.type("tw")
        await expect(page.locator(".row")).to_have_count(1)
        assert await page.evaluate("[window.sameSince, document.activeElement.id]") == [True, "q"]
        await live(page)
        await context.close()


@pytest.fixture
def runs(program: FakeProgram) -> FakeRuns:
    furnish(program.runs)
    return program.runs
