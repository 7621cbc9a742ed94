"""Every page of the console in a real browser: what it costs cold, whether everybody can use it, in both languages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Request, expect
from tests.access import PASSWORD
from tests.consoles import PAGES, Console, console, live, violations

from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule

CHROMIUM = Path("/usr/bin/chromium")
MOST_REQUESTS = 3
MOST_BYTES = 200_000
# Pages that came lately: looked at in both themes within one run.
NEW = (
    "/",
    "/incidents",
    "/incidents/1",
    "/rules",
    "/maintenance",
    "/status",
    "/reports/availability",
    "/reports/daily",
)
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Console]:
    async with console(tmp_path) as one:
        yield one


@pytest.mark.timeout(400)
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


@pytest.mark.timeout(400)  # thirty pages, and axe on each
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
        if path in NEW:
            await page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
            assert (path, "the other theme", await violations(page)) == (path, "the other theme", [])
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        if language == "zh":
            headings = await page.locator("h1").all_text_contents()
            assert re.search(r"[\u4e00-\u9fff]", await page.inner_text("body")), (path, headings)
    assert complaints == []
    await context.close()


async def test_the_language_is_chosen_and_kept(browser: Browser, web: Console) -> None:
    context = await browser.new_context(locale="en-GB", timezone_id="Asia/Shanghai")
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(f"{web.url}/incidents/1")
    await live(page)
    await expect(page.locator("h2").first).to_have_text("About it")
    await page.select_option("#language", "zh")
    await expect(page.locator("h2").first).to_have_text("关于它")
    await expect(page.locator("#live-text")).to_have_text("实时")
    await expect(page.locator("#zone")).to_contain_text("Asia/Shanghai")
    # What scripts write is in it, too, and the next page is.
    await page.click("button:has-text('确认…')")
    await expect(page.locator("dialog")).to_contain_text("保持不变")
    await page.keyboard.press("Escape")
    await page.keyboard.press("?")
    await expect(page.locator("dialog .keys")).to_contain_text("关闭")
    await page.goto(f"{web.url}/nowhere")
    await expect(page.locator("h1")).to_have_text("未找到")
    await page.select_option("#language", "en")
    await expect(page.locator("h1")).to_have_text("Not Found")
    assert complaints == []
    await context.close()


async def test_pages_print_without_the_console_around_them(browser: Browser, web: Console) -> None:
    context = await browser.new_context(color_scheme="dark")
    page = await context.new_page()
    for path in ("/reports/availability", "/reports/daily", "/incidents/1", "/status"):
        await page.goto(web.url + path)
        await live(page)
        await page.emulate_media(media="print")
        await expect(page.locator("h1")).to_be_visible()
        for hidden in (".places", "#theme", "form", ".foot"):
            assert await page.locator(f"{hidden}:visible").count() == 0, (path, hidden)
        colour = await page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
        assert colour == "rgb(255, 255, 255)"
        assert (await page.pdf(format="A4")).startswith(b"%PDF")
        await page.emulate_media(media="screen")
    await context.close()


async def test_names_that_are_not_seen_are_on_no_page(browser: Browser, tmp_path: Path) -> None:
    """Somebody limited to team=shop opens every page: of the other targets no name, no address, no number."""
    rule = Rule(nouns=("*",), verbs=("*",), labels={"team": "shop"})
    async with console(tmp_path, AccessOptions(roles={"shop": (rule,)})) as web:
        await web.user("root", "admin")
        await web.user("ann", "shop")
        views = web.program.watch.targets()
        seen = [view for view in views if view.labels.get("team") == "shop"]
        hidden = [view for view in views if view not in seen and len(view.name) > 4]
        assert seen
        assert hidden
        context = await browser.new_context(locale="en-GB")
        page = await context.new_page()
        await page.goto(f"{web.url}/login")
        await page.get_by_label("Name").fill("ann")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in").click()
        await live(page)
        await expect(page.locator(".board-head").first).to_contain_text(f"{len(seen)} in all")
        told: set[str] = set()
        for path in PAGES:
            if path.startswith("/status"):
                continue  # public by configuration, and its own test
            await page.goto(web.url + path)
            text = await page.content()
            for view in hidden:
                if f">{view.name}<" in text or (len(view.address) > 9 and view.address in text):
                    told.add(f"{path}: {view.name}")
            assert "secret-mail" not in text
            assert "mail is down" not in text
        assert told == set()
        found = await page.evaluate("fetch('/fragments/palette?q=e').then((one) => one.json())")
        names = {one["name"] for one in found if one["kind"] == "target"}
        assert names <= {view.name for view in seen}
        await context.close()
