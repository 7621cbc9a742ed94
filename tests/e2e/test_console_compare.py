"""Percentiles, and several targets and hosts over one axis of time, in a real browser."""

from __future__ import annotations

import re

from playwright.async_api import Browser, expect
from tests.consoles import needs_chromium, opened
from tests.web_server import Running

pytestmark = needs_chromium
FOUR = "/compare?of=target%3Ashop&of=target%3Ablog&of=host%3Awatch-1&of=host%3Abuild-2"
# What a canvas has drawn of its lines: how many of the colours of the key are on it.
INKS = """(figure) => {
    const canvas = figure.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const seen = new Set();
    for (let at = 0; at < data.length; at += 4) seen.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
    const inks = [...figure.querySelectorAll(".patch")].map((one) => getComputedStyle(one).backgroundColor);
    return inks.filter((ink) => seen.has(ink.match(/\\d+/g).slice(0, 3).join(","))).length;
}"""


async def test_a_target_tells_its_percentiles(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/targets/shop") as page:
        rows = page.locator(".percentiles tbody tr")
        await expect(rows).to_have_count(4)
        await expect(rows.nth(1)).to_have_text(re.compile(r"24 h\s*79\.8 ms\s*134 ms\s*202 ms"))
        # The chart has them, too: as a line, and for each moment.
        await expect(page.locator("#latency .chart-key")).to_contain_text("p95")
        await page.locator("#latency .u-over").hover(position={"x": 200, "y": 60})
        await expect(page.locator("#tip")).to_have_text(re.compile(r"p50 .*\n?.*p95 .*\n?.*p99 ", re.DOTALL))
        await page.click("text=Compare with others")
        await page.wait_for_url("**/compare?of=target:shop")
        await expect(page.locator(".pick-list li")).to_have_count(1)


async def test_several_are_laid_over_one_axis_of_time(browser: Browser, server: Running) -> None:
    async with opened(browser, server, FOUR) as page:
        charts = page.locator("figure.chart")
        await expect(charts).to_have_count(7)
        await expect(page.locator("figure canvas")).to_have_count(7)
        await expect(charts.first.locator(".chart-key li")).to_have_text(["shop", "blog"])
        assert await charts.first.evaluate(INKS) == 2
        assert await charts.nth(1).evaluate(INKS) == 2
        # One moment in all of them: what is pointed at in one chart stands in the others.
        await charts.first.locator(".u-over").hover(position={"x": 300, "y": 80})
        await expect(page.locator("#tip")).to_have_text(re.compile(r"shop .*\n?.*blog ", re.DOTALL))
        lines = charts.nth(1).locator(".u-cursor-x")
        await expect(lines).to_be_visible()
        table = page.locator("#compare-now table").first.locator("tbody tr")
        await expect(table).to_have_count(2)
        await expect(table.first).to_have_text(re.compile(r"shop\s*79\.8 ms\s*134 ms\s*202 ms"))
        # Another time is one for all, and stands in the address.
        await page.click(".chart-ranges button:text('7 d')")
        await expect(page.locator("#compare-targets")).to_have_text("Targets over the last 7 d")
        assert "range=7d" in page.url
        await page.reload()
        await expect(page.locator("#compare-targets")).to_have_text("Targets over the last 7 d")
        await expect(page.locator("[aria-pressed=true]")).to_have_text("7 d")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")


async def test_what_is_compared_stands_in_the_address(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/compare") as page:
        await expect(page.locator(".empty")).to_contain_text("Lay several over one axis of time")
        await page.keyboard.press("/")
        await page.keyboard.type("shop")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/compare?range=24h&add=shop&value=mean_s")
        await page.fill("#c-add", "host:watch-1")
        await page.select_option("#c-value", "p99_s")
        await page.click("button:text-is('Show')")
        await page.wait_for_url("**/compare?of=target%3Ashop&range=24h&add=host%3Awatch-1&value=p99_s")
        await expect(page.locator("figure h2")).to_have_text("Latency: p99")
        await expect(page.locator(".pick-list li")).to_have_count(2)
        await page.click("[aria-label='Leave out shop']")
        await page.wait_for_url("**/compare?of=host%3Awatch-1&range=24h&value=p99_s")
        await expect(page.locator(".pick-list li")).to_have_count(1)
        await page.fill("#c-add", "nobody")
        await page.keyboard.press("Enter")
        await expect(page.locator("[role=alert]")).to_have_text(re.compile("No target or host of this name.*nobody"))
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
