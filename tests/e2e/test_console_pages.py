"""Every page of the console in a real browser: what it costs cold, whether everybody can use it, in both languages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Browser, Page, Request, expect
from playwright.async_api import TimeoutError as Late
from tests.access import PASSWORD
from tests.consoles import PAGES, Console, console, live, needs_chromium, violations, violations_in_both_themes
from tests.fakes import FakeProgram

from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule
from dogwatch.notify.outbox import find
from dogwatch.web.application import create_web
from dogwatch.web.permissions import routes

MOST_REQUESTS = 3
MOST_BYTES = 200_000
# What is asked for by programs, or is a part of a page.
NO_PAGES = (
    "/api/",
    "/badge",
    "/group-badge",
    "/status/badge",
    "/fragments",
    "/static",
    "/ping",
    "/healthz",
    "/readyz",
    "/metrics",
    "/probe",
)
# Pages that need a state of their own.
OWN_TESTS = {
    "/login": "test_console_access.py",
    "/login/oidc": "leads to the provider",
    "/login/oidc/callback": "leads to a page",
    "/setup": "test_console_access.py",
    "/ack/{link}": "test_ack_links.py",
    "/approve/{link}": "test_approve_links.py",
    "/logs": "test_console_logs.py",
    "/status/confirm": "test_status_page.py",
    "/status/unsubscribe": "test_status_page.py",
}
# What is opened without a login: address and status.
DOORS = {
    "/login": 200,
    "/login?next=/runs": 200,
    "/setup?code=x": 200,
    "/ack/nothing": 404,
    "/approve/nothing": 404,
    "/status": 200,
    "/status/confirm?token=nothing": 200,
    "/status/unsubscribe?token=nothing": 200,
    "/nowhere": 404,
}
# Everything that a page says, in text and in what is read out or shown for it. What people and programs wrote stands in
# code, pre, or what says that it is theirs.
SAID = """() => {
    const found = [];
    const quoted = 'code, pre, script, style, template, svg text, [translate=no], #language, #zone';
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        if (!walker.currentNode.parentElement.closest(quoted)) found.push(walker.currentNode.textContent);
    }
    const read = ['aria-label', 'title', 'alt', 'data-title', 'data-confirm', 'data-effect', 'data-asks', 'data-sure'];
    for (const name of read) {
        for (const one of document.querySelectorAll(`body [${name}]`)) {
            if (!one.closest('[translate=no]')) found.push(one.getAttribute(name));
        }
    }
    found.push(document.title);
    return found.map((one) => one.trim()).filter((one) => /[A-Za-z]{2}/.test(one));
}"""
# Moments that stayed as machines write them: pages tell times in the zone of who looks.
STAMPS = """() => {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const at = walker.currentNode.parentElement;
        if (at.closest('code, pre, script, style, template, .why, .before, .after')) continue;
        const text = walker.currentNode.textContent;
        if (/\\d{4}-\\d\\d-\\d\\d[T ]\\d\\d:\\d\\d/.test(text)) found.push(text.slice(0, 120));
    }
    return found;
}"""
# What may stand in Latin letters on a page in another language: terms, and the names that these examples have.
LATIN = Path(__file__).parent.parent / "cases" / "words" / "latin.txt"
pytestmark = needs_chromium


@pytest.mark.timeout(400)
async def test_three_requests_and_two_hundred_kilobytes_cold(browser: Browser, web: Console) -> None:
    """With nothing kept from before. Requests: until the page is interactive; charts, badges and the live stream are
    asked for by what is. Bytes: all that is sent, those included.
    """
    for path in PAGES:
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        page = await context.new_page()
        assert await cheap(page, web.url + path) == 200, path
        await context.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("language", ["en", "zh"])
async def test_pages_for_those_who_are_not_logged_in(browser: Browser, web: Console, language: str) -> None:
    """What comes before a login, and what links in messages lead to: as cheap, as usable, in both languages."""
    await web.user("root", "admin")
    context = await browser.new_context(locale={"en": "en-GB", "zh": "zh-CN"}[language], bypass_csp=True)
    found: list[Any] = []
    for path, status in DOORS.items():
        page = await context.new_page()
        assert await cheap(page, web.url + path) == status, path
        found += [(path, one) for one in await violations_in_both_themes(page)]
        if language == "zh":
            found += [(path, "English", *one) for one in left_in_english(await page.evaluate(SAID))]
        for width in (1280, 375):
            await page.set_viewport_size({"width": width, "height": 900})
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        await page.close()
    assert not found, "\n".join(sorted({str(one) for one in found}))
    await context.close()


async def cheap(page: Page, address: str) -> int:
    """Open a page that is in no cache, demand that it is within the budgets, and return its status."""
    asked: list[Request] = []
    ended: list[Request] = []
    page.on("request", lambda one: asked.append(one))  # noqa: PLW0108 of a method it cannot keep note
    page.on("requestfinished", lambda one: ended.append(one))  # noqa: PLW0108
    answer = await page.goto(address, wait_until="domcontentloaded")
    assert answer is not None
    before = [one.url for one in asked if not re.search(r"/api/|/badge|uPlot", one.url)]
    assert len(before) <= MOST_REQUESTS, (address, before)
    if answer.status == 200 and not await page.evaluate("'anonymous' in document.body.dataset"):
        await live(page)
    await page.wait_for_load_state("load")
    sizes = [await one.sizes() for one in ended]
    sent = sum(one["responseBodySize"] + one["responseHeadersSize"] for one in sizes)
    assert 3_000 < sent <= MOST_BYTES, (address, sent)
    return answer.status


async def test_what_is_static_is_packed_and_kept_for_good(browser: Browser, web: Console) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(web.url)
    await live(page)
    addresses = await page.evaluate(
        "[...document.querySelectorAll('script[src], link[rel=stylesheet]')].map((one) => one.src || one.href)"
    )
    assert len(addresses) == 1  # a page carries its style sheet
    for address in addresses:
        answer = await context.request.get(address, headers={"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    # The second page asks for itself only.
    await page.goto(f"{web.url}/runs")
    await live(page)
    sizes = await page.evaluate("performance.getEntriesByType('resource').map((one) => [one.name, one.transferSize])")
    assert [size for name, size in sizes if "/console." in name] == [0]
    await context.close()


def paged() -> set[str]:
    """Return the addresses of every registered page: what a browser is given when somebody opens one."""
    web: Any = create_web(FakeProgram().services)
    return {
        str(route.path_format)
        for route, method, _opt in routes(web._guarded._inner)
        if method == "GET"
        if not route.path.startswith(NO_PAGES)
        if "." not in route.path.rpartition("/")[2]
    }


def shape(path: str) -> str:
    """Return the address with a place for each name in it, as routes have it."""
    parts = path.partition("?")[0].split("/")
    for pattern in sorted(paged(), key=lambda one: one.count("{")):
        wanted = pattern.split("/")
        fits = [one == other or other.startswith("{") for one, other in zip(parts, wanted, strict=False)]
        if len(parts) == len(wanted) and all(fits):
            return pattern
    return path


def test_every_page_is_in_the_table() -> None:
    assert {shape(path) for path in PAGES} | OWN_TESTS.keys() == paged()


@lru_cache(maxsize=1)
def latin() -> re.Pattern[str]:
    lines = [line for line in LATIN.read_text().splitlines() if line and not line.startswith("#")]
    terms = "|".join(re.escape(one).replace(r"\{\}", r"\d+") for one in sorted(lines, key=len, reverse=True))
    return re.compile(rf"https?://\S+|(?<![A-Za-z])(?:{terms})(?![A-Za-z])")


def left_in_english(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return (the words, the text) of each text with words that are neither terms nor names of these examples."""
    left = [(" ".join(re.findall(r"[A-Za-z]{2,}", latin().sub("", text))), text[:160]) for text in texts]
    return [one for one in left if one[0]]


def test_a_word_that_nobody_translated_is_found() -> None:
    assert left_in_english(["\u8fd0\u884c deploy", "API"]) == []
    assert left_in_english(["\u8fd0\u884c finished"]) == [("finished", "\u8fd0\u884c finished")]
    assert left_in_english(["apiary"]) == [("apiary", "apiary")]


@pytest.mark.timeout(500)  # every page, and axe on each
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
async def test_everybody_can_use_every_page(browser: Browser, web: Console, language: str, scheme: str) -> None:
    """Each page as a desktop and as a phone has it. With SCREENSHOTS=folder the pictures stay."""
    context = await browser.new_context(
        viewport={"width": 1280, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
        locale={"en": "en-GB", "zh": "zh-CN"}[language],
        bypass_csp=True,
    )
    page = await context.new_page()
    complaints: list[str] = []
    found: list[Any] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for number, path in enumerate(PAGES):
        await page.set_viewport_size({"width": 1280, "height": 900})
        await page.goto(web.url + path)
        await live(page)
        assert await page.get_attribute("html", "lang") == {"en": "en", "zh": "zh-Hans"}[language]
        found += [(path, scheme, one) for one in await violations(page)]
        if language == "zh":
            found += [(path, "English", *one) for one in left_in_english(await page.evaluate(SAID))]
        found += [(path, "a moment of a machine", one) for one in await page.evaluate(STAMPS)]
        picture = await page.screenshot(full_page=True)
        assert len(picture) > 10_000, path
        await page.set_viewport_size({"width": 375, "height": 900})
        try:  # charts are drawn anew in a moment
            await page.wait_for_function("document.documentElement.scrollWidth <= innerWidth", timeout=3000)
        except Late:
            found.append((path, "wider than a phone"))
        phone = await page.screenshot(full_page=True)
        if folder := os.environ.get("SCREENSHOTS"):
            name = (
                f"{number:02}-{path.strip('/').replace('/', '_').replace('?', '_') or 'overview'}-{language}-{scheme}"
            )
            (Path(folder) / f"{name}.png").write_bytes(picture)
            (Path(folder) / f"{name}-375.png").write_bytes(phone)
    assert not found, "\n".join(sorted({str(one) for one in found}))
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


async def test_times_are_those_of_the_viewer(browser: Browser, web: Console) -> None:
    shown = {}
    for zone in ("Asia/Tokyo", "America/New_York"):
        context = await browser.new_context(locale="en-GB", timezone_id=zone)
        page = await context.new_page()
        await page.goto(f"{web.url}/audit")
        await live(page)
        await expect(page.locator("#zone")).to_contain_text(zone)
        moment = page.locator("tbody time").first
        seconds = float(await moment.get_attribute("data-t") or 0)
        there = datetime.fromtimestamp(seconds, ZoneInfo(zone))
        await expect(moment).to_have_text(f"{there:%H:%M:%S}")
        shown[zone] = await moment.text_content()
        await context.close()
    assert len(set(shown.values())) == 2


async def test_a_stranger_subscribes_to_the_status_page(browser: Browser, web: Console) -> None:
    """From the form to the message, its link, and the end of it; nobody is logged in."""
    await web.user("root", "admin")
    context = await browser.new_context(locale="zh-CN")
    page = await context.new_page()
    await page.goto(f"{web.url}/status")
    await expect(page.locator("h1")).to_have_text("发生服务中断")
    await expect(page.locator("main")).to_contain_text("计划内工作：Web shop")
    await page.fill("input[type=email], input[name=address]", "li@b.example")
    await page.click("button:text-is('订阅')")
    await expect(page.locator("main")).to_contain_text("链接")
    rows = await web.access.database.read(lambda tx: find(tx, limit=10))
    [asking] = [row.message for row in rows.items if row.message.type == "status.confirm"]
    assert asking.title == "Shop status：请确认您的订阅"
    link = re.search(r"/status/confirm\S+", asking.text)
    assert link
    await page.goto(web.url + link[0])
    await page.click("main button")
    await expect(page.locator("main")).to_contain_text("会通知您")
    await page.goto(web.url + link[0].replace("confirm", "unsubscribe"))
    await page.click("main button")
    await expect(page.locator("main")).to_contain_text("不会再收到")
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
