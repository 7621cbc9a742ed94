"""Every page of the console in a real browser: what it costs cold, whether everybody can use it, in both languages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Request, async_playwright
from tests.consoles import PAGES, Console, console, live, violations

CHROMIUM = Path("/usr/bin/chromium")
MOST_REQUESTS = 3
MOST_BYTES = 200_000
# What may stand on a Chinese page in Latin letters: names, commands, units, what the program itself was given.
pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Console]:
    async with console(tmp_path) as one:
        yield one


async def test_three_requests_and_two_hundred_kilobytes_cold(browser: Browser, web: Console) -> None:
    """With nothing kept from before. Requests: until the page is interactive; charts, badges and the live stream are
    asked for by what is. Bytes: all that is sent, those included.
    """
    for path in PAGES:
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        page = await context.new_page()
        asked: list[Request] = []
        ended: list[Request] = []
        page.on("request", lambda one, asked=asked: asked.append(one))
        page.on("requestfinished", lambda one, ended=ended: ended.append(one))
        answer = await page.goto(web.url + path, wait_until="domcontentloaded")
        assert answer is not None
        assert answer.status == 200, path
        before = [one.url for one in asked if not re.search(r"/api/|/badge|uPlot", one.url)]
        assert len(before) <= MOST_REQUESTS, (path, before)
        await live(page)
        await page.wait_for_load_state("load")
        sizes = [await one.sizes() for one in ended]
        sent = sum(one["responseBodySize"] + one["responseHeadersSize"] for one in sizes)
        assert 10_000 < sent <= MOST_BYTES, (path, sent)
        await context.close()


async def test_what_is_static_is_packed_and_kept_for_good(browser: Browser, web: Console) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(web.url)
    await live(page)
    addresses = await page.evaluate(
        "[...document.querySelectorAll('script[src], link[rel=stylesheet]')].map((one) => one.src || one.href)"
    )
    assert len(addresses) == 2
    for address in addresses:
        answer = await context.request.get(address, headers={"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    # The second page asks for itself only.
    await page.goto(f"{web.url}/runs")
    await live(page)
    sizes = await page.evaluate("performance.getEntriesByType('resource').map((one) => [one.name, one.transferSize])")
    assert [size for name, size in sizes if "/console." in name] == [0, 0]
    await context.close()


@pytest.mark.parametrize(("language", "scheme", "width"), [("en", "light", 1280), ("zh", "dark", 375)])
async def test_everybody_can_use_every_page(
    browser: Browser, web: Console, language: str, scheme: str, width: int
) -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
        locale={"en": "en-GB", "zh": "zh-CN"}[language],
        bypass_csp=True,
    )
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for path in PAGES:
        await page.goto(web.url + path)
        await live(page)
        assert await page.get_attribute("html", "lang") == {"en": "en", "zh": "zh-Hans"}[language]
        assert (path, await violations(page)) == (path, [])
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
        if language == "zh":
            headings = await page.locator("h1").all_text_contents()
            assert re.search(r"[\u4e00-\u9fff]", await page.inner_text("body")), (path, headings)
    assert complaints == []
    await context.close()
