"""The console in a real browser: Debian's Chromium through Playwright."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Browser, expect
from tests.consoles import needs_chromium, opened, violations_in_both_themes
from tests.fakes import FakeProgram
from tests.fakes_watch import many, view
from tests.web_server import Running, running

from dogwatch.core.clock import SystemClock
from dogwatch.core.values import Event

pytestmark = needs_chromium


@pytest.fixture
def furnished() -> None:
    """Nothing: these are about targets and hosts."""


# ── how it looks ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize(
    "path", ["/", "/targets/shop%2Fcheckout", "/targets/nightly-backup", "/hosts/watch-1", "/nowhere"]
)
async def test_accessible_and_within_the_screen(
    browser: Browser, server: Running, program: FakeProgram, path: str, width: int
) -> None:
    program.reload.problems = ("dogwatch.yaml:12: probes[3].hots: unknown option; did you mean 'host'?",)
    await program.reload.reload("file")
    program.store.trouble_text = "cannot write dogwatch.db: no space left on device."
    program.finding_list = [
        {
            "key": "k",
            "symptom": "Tasks grow",
            "cause": "",
            "evidence": [{"what": "tasks", "last": 1980.0}],
        }
    ]
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        bypass_csp=True,  # axe is put into the page from outside
    )
    page = await context.new_page()
    await page.goto(server.url + path)
    await page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    if path == "/":
        await page.locator("button[data-chart]").first.click()
    if path != "/nowhere":
        await page.locator(".plot canvas").first.wait_for()
    assert await violations_in_both_themes(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    await context.close()


async def test_theme_follows_the_system_and_the_button(browser: Browser, server: Running) -> None:
    async with opened(browser, server, scheme="dark") as page:
        background = "getComputedStyle(document.body).backgroundColor"
        dark = await page.evaluate(background)
        await page.click("#theme")
        await expect(page.locator("#theme")).to_contain_text("Light")
        light = await page.evaluate(background)
        assert light != dark
        await page.reload()
        assert await page.evaluate(background) == light
        await page.click("#theme")
        assert await page.evaluate(background) == dark


@pytest.mark.parametrize("theme", ["", "dark"])
async def test_paper_is_light(browser: Browser, server: Running, theme: str) -> None:
    async with opened(browser, server, scheme="dark") as page:
        await page.evaluate("(theme) => { if (theme) document.documentElement.dataset.theme = theme; }", theme)
        await page.emulate_media(media="print")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        await expect(page.locator(".search")).to_be_hidden()
        await expect(page.locator(".row").last).to_be_visible()


async def test_policy_forbids_what_is_written_inline(browser: Browser, server: Running) -> None:
    async with opened(browser, server, expected="Executing inline script violates") as page:
        await page.evaluate(
            "const s = document.createElement('script'); s.textContent = 'window.bad = 1'; document.body.append(s);"
        )
        assert await page.evaluate("window.bad") is None


async def test_hostile_names_stay_text(browser: Browser) -> None:
    evil = "<img src=x onerror=window.bad=1>\"'"
    program = FakeProgram(
        [view(evil, "tcp", evil, evil, "down", 0.1, evil, SystemClock().now_s())], clock=SystemClock()
    )
    async with running(program) as server, opened(browser, server) as page:
        program.publish_result(evil, success=False, reason=evil)
        await expect(page.locator(".row .bars")).to_have_attribute("data-bars", re.compile("onerror"))
        await page.locator(".row .bars").hover()
        assert await page.evaluate("window.bad") is None
        await expect(page.locator(".wrong a")).to_have_text(evil)


async def test_empty_state_teaches(browser: Browser) -> None:
    async with running(FakeProgram([], clock=SystemClock())) as server, opened(browser, server) as page:
        await expect(page.locator(".empty h1")).to_have_text("Nothing is watched yet")
        await expect(page.locator(".empty pre")).to_contain_text("probes:")


# ── live ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_results_move_the_bars_without_a_reload(browser: Browser, server: Running, program: FakeProgram) -> None:
    async with opened(browser, server) as page:
        row = page.locator('.row[data-target="db-1"]')
        before = await row.locator(".bars").get_attribute("data-bars")
        program.publish_result("db-1", success=False, duration_s=1.5, reason="refused")
        await expect(row.locator("[data-latency]")).to_have_text("1.5 s")
        after = await row.locator(".bars").get_attribute("data-bars")
        assert before != after
        assert after is not None
        assert after.endswith('1500,"fail","refused"]]')
        await expect(row.locator(".bars")).to_have_attribute("aria-label", re.compile("failed$"))


async def test_browser_draws_bars_as_the_server_does(browser: Browser, server: Running, program: FakeProgram) -> None:
    async with opened(browser, server) as page:
        script = """async (address) => {
            const { draw } = await import(address);
            return [...document.querySelectorAll('.row .bars')].map((bars) => {
                const paths = () => [...bars.querySelectorAll('path[class]')].map((one) => one.getAttribute('d'));
                const before = [paths().join(), bars.getAttribute('aria-label')];
                for (const path of bars.querySelectorAll('path:not(.b-none)')) path.setAttribute('d', '');
                const data = JSON.parse(bars.dataset.bars);
                if (!data.length) return [before, before];
                draw(bars, data);
                return [before, [paths().join(), bars.getAttribute('aria-label')]];
            });
        }"""
        address = (await page.locator("head script[src]").get_attribute("src") or "").replace(
            "console.en.js", "bars.js"
        )
        pairs = await page.evaluate(script, address)
        assert len(pairs) == 12
        for server_drew, browser_drew in pairs:
            assert browser_drew == server_drew


async def test_transition_changes_what_is_wrong_and_the_title(
    browser: Browser, server: Running, program: FakeProgram
) -> None:
    async with opened(browser, server) as page:
        await expect(page.locator(".verdict h1")).to_have_text("1 down")
        program.watch.replace("db-1", status="down", last_message="connection refused", since_s=program.clock.now_s())
        await expect(page.locator(".verdict h1")).to_have_text("2 down")
        await expect(page).to_have_title(re.compile(r"^\(2 down\)"))
        await expect(page.locator(".wrong li").first).to_contain_text("connection refused")
        await expect(page.locator('.row[data-target="db-1"]')).to_have_attribute("data-status", "down")


async def test_failed_reload_shows_its_messages(browser: Browser, server: Running, program: FakeProgram) -> None:
    async with opened(browser, server) as page:
        program.reload.problems = ("dogwatch.yaml:12: probes[3].hots: unknown option",)
        record = await program.reload.reload("file")
        program.bus.publish(Event(topic="reload", time_s=program.clock.now_s(), data=record))
        await expect(page.locator("#reload-failed")).to_be_visible()
        await expect(page.locator(".banner.bad code")).to_have_text("dogwatch.yaml:12: probes[3].hots: unknown option")


async def test_reconnects_and_catches_up(browser: Browser, program: FakeProgram) -> None:
    async with running(program) as server, opened(browser, server, expected="net::ERR_FAILED") as page:
        # What a broken network does: the stream ends, and what happens meanwhile is not heard.
        await page.route("**/api/v1/events*", lambda route: route.abort())
        await page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
        await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        await expect(page.locator("#live")).to_have_attribute("data-state", "waiting")
        program.watch.replace("db-1", status="down", last_message="connection refused")
        await page.unroute("**/api/v1/events*")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await expect(page.locator(".verdict h1")).to_have_text("2 down")
        await expect(page.locator('.row[data-target="db-1"]')).to_have_attribute("data-status", "down")


# ── use ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_filter_is_in_the_address(browser: Browser, server: Running) -> None:
    async with opened(browser, server) as page:
        await page.keyboard.press("/")
        await page.keyboard.type("status:down")
        await expect(page.locator(".row")).to_have_count(1)
        await expect(page).to_have_url(re.compile(r"\?q=status%3Adown"))
        await page.reload()
        await expect(page.locator(".row .name")).to_have_text("shop/checkout")
        await expect(page.locator("#q")).to_have_value("status:down")
        await page.fill("#q", "status:dwon")
        await expect(page.locator(".board-head")).to_contain_text("unknown status 'dwon'")


async def test_folded_groups_stay_folded(browser: Browser, server: Running, program: FakeProgram) -> None:
    async with opened(browser, server) as page:
        await page.locator('details[data-keep="group-web"] > summary').click()
        await expect(page.locator('.row[data-target="shop"]')).to_be_hidden()
        await page.reload()
        await expect(page.locator('.row[data-target="shop"]')).to_be_hidden()
        await expect(page.locator('.row[data-target="db-1"]')).to_be_visible()


async def test_bars_speak_to_mouse_and_keyboard(browser: Browser, server: Running) -> None:
    async with opened(browser, server) as page:
        bars = page.locator('.row[data-target="shop/checkout"] .bars')
        box = await bars.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 10)
        await expect(page.locator("#tip")).to_contain_text("failed: unexpected status")
        await page.mouse.move(5, 5)
        await expect(page.locator("#tip")).to_be_hidden()
        await page.locator('.row[data-target="shop/checkout"] .name').focus()
        await page.keyboard.press("Tab")
        await expect(page.locator("#tip")).to_contain_text("failed: unexpected status")
        await page.keyboard.press("Home")
        await expect(page.locator("#tip")).to_contain_text(re.compile("passed|failed"))
        await page.keyboard.press("Escape")
        await expect(page.locator("#tip")).to_be_hidden()


async def test_chart_has_ranges_units_and_a_tip(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/targets/shop") as page:
        canvas = page.locator(".plot canvas")
        await expect(canvas).to_have_attribute("aria-label", re.compile(r"last 24h: mean .* ms, slowest .* ms"))
        await expect(page.locator(".chart-key")).to_contain_text("First byte")
        await page.locator(".u-over").hover()
        await expect(page.locator("#tip")).to_contain_text(re.compile(r"Total\s+\d+"))
        await page.get_by_role("button", name="7 d").click()
        await expect(canvas).to_have_attribute("aria-label", re.compile("last 7d"))
        await expect(page).to_have_url(re.compile("range=7d"))


async def test_host_page_has_charts_that_move_together(browser: Browser, server: Running) -> None:
    async with opened(browser, server) as page:
        await page.locator(".host h3 a", has_text="watch-1").click()
        charts = page.locator(".chart-grid .chart")
        await expect(charts).to_have_count(8)
        await expect(charts.locator("canvas")).to_have_count(8)
        await expect(charts.nth(0).locator("canvas")).to_have_attribute("aria-label", re.compile("^CPU, last 1h: now "))
        await page.locator(".chart-ranges").get_by_role("button", name="7 d").click()
        for index in (0, 7):
            await expect(charts.nth(index).locator("canvas")).to_have_attribute("aria-label", re.compile("last 7d"))
        await expect(page).to_have_url(re.compile("range=7d"))
        await charts.nth(2).locator(".u-over").hover()
        await expect(page.locator("#tip")).to_contain_text("15 min")
        await expect(page.locator(".collectors li")).to_have_count(2)


async def test_a_crowd_of_changes_is_told_by_number(browser: Browser) -> None:
    program = FakeProgram(many(400, SystemClock().now_s()), clock=SystemClock())
    async with running(program) as server, opened(browser, server) as page:
        for one in program.watch.targets():
            program.watch.replace(one.name, status="down")
        await expect(page.locator(".verdict h1")).to_have_text("400 down")


async def test_pause_resume_and_run(browser: Browser, server: Running, program: FakeProgram) -> None:
    async with opened(browser, server, "/targets/shop") as page:
        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator("dialog")).to_contain_text("opens no incident")
        assert program.watch.target("shop").status == "up"
        await page.click("dialog button.primary")
        await expect(page.locator(".state")).to_have_attribute("data-status", "paused")
        assert program.watch.target("shop").status == "paused"
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator(".state")).to_have_attribute("data-status", "up")
        await page.get_by_role("button", name="Run now").click()
        await expect(page.locator(".toast")).to_contain_text("Passed in 84 ms")


async def test_evidence_is_shown(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/targets/shop%2Fcheckout") as page:
        await page.locator(".failure summary").first.click()
        await expect(page.locator(".failure pre").first).to_contain_text("<h1>503 Service Unavailable</h1>")
        await expect(page.locator(".failure th").first).to_have_text("content-type")


async def test_open_parts_survive_a_refresh(browser: Browser, server: Running, program: FakeProgram) -> None:
    async with opened(browser, server) as page:
        processes = page.locator("#host-1 details").first
        await processes.locator("summary").click()
        async with page.expect_response("**/fragments/hosts"):
            program.bus.publish(Event(topic="sample", time_s=program.clock.now_s(), data={"host": "watch-1"}))
        await page.wait_for_timeout(300)
        assert await processes.get_attribute("open") is not None
        await expect(processes.locator("tbody tr")).to_have_count(3)


# ── thousands ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_thousands_of_targets(browser: Browser) -> None:
    program = FakeProgram(many(5000, SystemClock().now_s()), clock=SystemClock())
    async with running(program) as server, opened(browser, server) as page:
        rows = page.locator(".row")
        assert 50 <= await rows.count() <= 150
        weight = await page.evaluate("performance.getEntriesByType('navigation')[0].encodedBodySize")
        assert weight < 100_000
        first = page.locator("details.group").first
        await first.locator("li.more button").click()
        await expect(first.locator(".row")).to_have_count(100)
        folded = page.locator('details[data-keep="group-group-020"]')
        await folded.locator("summary").click()
        await expect(folded.locator(".row")).to_have_count(50)
        await page.fill("#q", "service-04321")
        await expect(rows).to_have_count(1)
        # The row that has come on the screen hears its results, from some moment on.
        async with asyncio.timeout(30):
            while await rows.locator("[data-latency]").text_content() != "3.25 s":
                program.publish_result("service-04321", duration_s=3.25)
                await asyncio.sleep(0.2)
