"""The console over the real daemon, in a real browser: the first minute, restarts, hostile answers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, expect
from tests.consoles import needs_chromium
from tests.e2e.running import Daemon, running

# What a page cannot help when its server goes away.
GONE = re.compile("Failed to load resource|net::ERR|TypeError: Failed to fetch")


CONFIG = """
probes:
  - name: open
    tcp: "127.0.0.1:{port}"
    every: 1s
    timeout: 500ms
  - name: later
    tcp: "127.0.0.1:9"
    every: 1s
    timeout: 500ms
    failures: 2
"""
HOSTILE = b"\xff\xfe\xed\xa0\x80 \x00<script>window.bad=1</script> \xed\xb3\xbf"


@asynccontextmanager
async def opened(browser: Browser, daemon: Daemon, path: str = "/") -> AsyncIterator[Page]:
    """Open a page; afterwards demand that it complained about nothing but the server's absence, and never reloaded."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(daemon.server + path)
    await page.evaluate("window.sameDocument = true")
    try:
        yield page
        assert [one for one in complaints if not GONE.search(one)] == []
        assert await page.evaluate("window.sameDocument") is True
    finally:
        await context.close()


async def in_thread(daemon: Daemon, call: str, *arguments: object) -> object:
    return await asyncio.to_thread(getattr(daemon, call), *arguments)


async def listening() -> asyncio.Server:
    return await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@needs_chromium
async def test_first_minute_comes_to_life_without_a_reload(browser: Browser, tmp_path: Path) -> None:
    """Right after the start all is pending; the page says when the first check comes, and then what it found."""
    server = await listening()
    slow = "".join(
        f'  - {{name: "slow-{index}", tcp: "127.0.0.1:{port_of(server)}", every: 8s}}\n' for index in range(40)
    )
    async with server:
        with running(tmp_path, CONFIG.format(port=port_of(server)) + slow) as daemon:
            async with opened(browser, daemon) as page:
                await expect(page.locator(".verdict h1")).not_to_have_text("All is well")
                await expect(page.locator("#live")).to_have_attribute("data-state", "live")
                await expect(page.locator('.row[data-target="later"]')).to_have_attribute("data-status", "down")
                await expect(page.locator(".wrong")).to_contain_text("connection refused")
                await expect(page.locator(".verdict h1")).to_have_text("1 down")
                await expect(page.locator(".row[data-status='up']")).to_have_count(41)
                await expect(page.locator(".chips")).to_contain_text("41 up")


@needs_chromium
async def test_first_check_counts_down(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, "probes: []\n") as daemon:
        async with opened(browser, daemon) as page:
            await expect(page.locator(".empty h1")).to_have_text("Nothing is watched yet")
            script = """async (address) => {
                const { until } = await import(address);
                const now = Date.now() / 1000;
                return [until(now + 2.9, "first check"), until(now - 1, "first check"), until(now + 600, "")];
            }"""
            app = await page.locator("head script[src]").get_attribute("src") or ""
            told = await page.evaluate(script, app.replace("console.en.js", "times.js"))
            assert told == ["first check in 3 s", "first check now", "in 10 min"]


@needs_chromium
async def test_page_survives_a_restart_in_place(browser: Browser, tmp_path: Path) -> None:
    """SIGUSR2 replaces the program; the page is live again and hears the new one's results."""
    server = await listening()
    async with server:
        with running(tmp_path, CONFIG.format(port=port_of(server))) as daemon:
            async with opened(browser, daemon) as page:
                live = page.locator("#live")
                await expect(page.locator('.row[data-target="open"]')).to_have_attribute("data-status", "up")
                assert daemon.process is not None
                daemon.process.send_signal(signal.SIGUSR2)
                await expect(live).not_to_have_attribute("data-state", "live")
                await expect(live).to_have_attribute("data-state", "live")
                bars = page.locator('.row[data-target="open"] .bars')
                before = await bars.get_attribute("data-bars")
                await expect(bars).not_to_have_attribute("data-bars", before or "")


@needs_chromium
async def test_page_says_that_it_is_stale_and_catches_up_after_a_crash(browser: Browser, tmp_path: Path) -> None:
    server = await listening()
    port = port_of(server)
    with running(tmp_path, CONFIG.format(port=port)) as daemon:
        async with opened(browser, daemon) as page:
            live = page.locator("#live")
            await expect(page.locator('.row[data-target="open"]')).to_have_attribute("data-status", "up")
            await expect(live).to_have_attribute("data-state", "live")
            daemon.close()
            await expect(live).not_to_have_attribute("data-state", "live")
            await expect(page.locator("#live-text")).to_have_text(re.compile("Reconnecting|Stale"))
            server.close()
            await server.wait_closed()
            await in_thread(daemon, "start")
            await expect(live).to_have_attribute("data-state", "live")
            await expect(page.locator('.row[data-target="open"]')).to_have_attribute("data-status", "down")
            await expect(page.locator(".verdict h1")).to_have_text("2 down")


async def hostile() -> asyncio.Server:
    """A server that says what is not UTF-8, in every place where it can say something."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        body = HOSTILE * 3
        writer.write(b"HTTP/1.1 500 " + HOSTILE.replace(b"\x00", b"") + b"\r\nX-Said: \xed\xa0\x80\xff\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


HOSTILE_CONFIG = """
probes:
  - name: answers garbage
    http: {{url: "http://127.0.0.1:{port}/"}}
    every: 1s
    timeout: 800ms
    failures: 1
  - name: expects
    http: {{url: "http://127.0.0.1:{port}/", status: [500], expect: 'body == "fine"'}}
    every: 1s
    timeout: 800ms
    failures: 1
  - name: says garbage
    exec: {{args: [/bin/sh, -c, 'printf "\\355\\240\\200\\377 out"; printf "\\355\\263\\277 err" >&2; exit 3']}}
    every: 1s
    timeout: 800ms
    failures: 1
  - name: banner
    tcp: {{host: 127.0.0.1, port: {port}, dialogue: [{{send: "x"}}, {{expect: "^SSH"}}]}}
    every: 1s
    timeout: 800ms
    failures: 1
  - name: called
    heartbeat: {{period: 1h}}
"""


async def test_no_answer_of_a_target_breaks_the_api(tmp_path: Path) -> None:
    """Whatever a target says, each address answers proper JSON in UTF-8, and pages and streams go on."""
    server = await hostile()
    async with server:
        with running(tmp_path, HOSTILE_CONFIG.format(port=port_of(server))) as daemon:
            status, _ = await asyncio.to_thread(daemon.request, "POST", "/ping/called/fail", HOSTILE)
            assert status == 200

            def failing() -> list[str]:
                items = daemon.get("/api/v1/targets?status=down")["items"]
                return [one["name"] for one in items]

            for _ in range(100):
                if len(await asyncio.to_thread(failing)) == 5:
                    break
                await asyncio.sleep(0.1)
            assert len(await asyncio.to_thread(failing)) == 5
            for name in ("answers%20garbage", "expects", "says%20garbage", "banner", "called"):
                for part in ("", "/results", "/failures", "/transitions", "/history", "/availability"):
                    status, body = await asyncio.to_thread(daemon.request, "GET", f"/api/v1/targets/{name}{part}")
                    assert status == 200, (name, part, body)
                    json.loads(body.decode("utf-8"))
                status, body = await asyncio.to_thread(daemon.request, "GET", f"/targets/{name}")
                assert status == 200
                assert "<script>window" not in body.decode("utf-8")
            status, body = await asyncio.to_thread(daemon.request, "GET", "/metrics")
            assert status == 200
            text = body.decode("utf-8")
            assert 'dogwatch_web_requests_total{route="api",method="GET",status="200"}' in text
            assert 'status="500"' not in text


@needs_chromium
async def test_large_text_at_twice_the_size_still_fits(browser: Browser, tmp_path: Path) -> None:
    """200 % zoom on a 1280 px screen is a page of 640 px; nothing is cut off or scrolls sideways."""
    with running(tmp_path, CONFIG.format(port=9)) as daemon:
        host = (await asyncio.to_thread(daemon.get, "/api/v1/hosts"))["items"][0]["name"]
        for path in ("/", "/targets/open", f"/hosts/{host}"):
            context = await browser.new_context(
                viewport={"width": 640, "height": 450}, device_scale_factor=2, reduced_motion="reduce"
            )
            page = await context.new_page()
            await page.goto(daemon.server + path)
            await expect(page.locator("#live")).to_have_attribute("data-state", "live")
            assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            moving = "getComputedStyle(document.querySelector('summary h3, button'), '::before').transitionDuration"
            assert await page.evaluate(moving) in ("", "0s")
            await context.close()
