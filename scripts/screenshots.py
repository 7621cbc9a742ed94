"""Photographs the console over the scene of scene.py, a real daemon that watches loopback servers. By hand:

`make screenshots` draws the pictures of docs/images; `scripts/screenshots.py FOLDER` every page that links lead to, in
both themes and languages, as a desktop and as a phone have it, for somebody to look at. Nothing of the machine is shown
but its figures.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import scene
from playwright.async_api import Browser, Page, async_playwright

IMAGES = Path(__file__).parent.parent / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
RUN_S = 90.0
# Of pages that differ in a name alone, so many are enough.
ALIKE = 4
LINKS = "[...document.querySelectorAll('main a[href], nav a[href]')].map((one) => one.getAttribute('href'))"
# Where no link of a page leads.
BEGIN = ("/", "/status", "/compare", "/fleet/plans", "/reports/daily", "/tokens", "/nowhere")
NO_PAGES = ("/api/", "/status/", "/metrics", "/badge", "/login")


async def draw(browser: Browser, url: str, name: str, *, width: int, height: int, scheme: str = "light") -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
        locale="en-GB",
        timezone_id="UTC",
    )
    page = await context.new_page()
    await page.goto(url)
    await page.locator("#live[data-state=live]").wait_for()
    if "/targets/" in url:
        await page.locator(".plot canvas").first.wait_for()
    await page.wait_for_timeout(1200)
    await page.screenshot(path=IMAGES / name)
    await context.close()
    print(f"{name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")


async def pictures(browser: Browser, found: scene.Scene) -> None:
    """Draw what the documentation shows."""
    url = f"{found.url}/"
    await draw(browser, url, "overview.png", width=1280, height=1000)
    await draw(browser, url, "overview-dark.png", width=1280, height=1000, scheme="dark")
    await draw(browser, url + "targets/login", "target.png", width=1280, height=1000)
    await draw(browser, url, "phone.png", width=390, height=844)
    await draw(browser, f"{url}runs/{found.waiting}", "run.png", width=1280, height=1250)
    await draw(browser, f"{url}runs/{found.waiting}", "run-dark.png", width=1280, height=1250, scheme="dark")
    await draw(browser, f"{url}jobs/deploy", "job.png", width=1280, height=760)


def _kind(path: str) -> str:
    """Return what is alike of addresses: names in them and values of their queries count for nothing."""
    place, _, query = path.partition("?")
    known = re.sub(
        r"^/(targets|hosts|incidents|runs|jobs|schedules|deliveries|outbox|fleet/(?:runs|plans))/.+", r"/\1/", place
    )
    return f"{known}?{'&'.join(sorted(one.partition('=')[0] for one in query.split('&')))}"


async def addresses(page: Page, url: str) -> list[str]:
    """Return the addresses of all pages that links lead to."""
    found: list[str] = []
    alike: Counter[str] = Counter()
    ahead = list(BEGIN)
    while ahead:
        path = ahead.pop(0).partition("#")[0]
        kind = _kind(path)
        if path in found or not path.startswith("/") or path.startswith(NO_PAGES) or alike[kind] >= ALIKE:
            continue
        alike[kind] += 1
        found.append(path)
        await page.goto(url + path)
        ahead += await page.evaluate(LINKS)
    return found


async def every(browser: Browser, found: scene.Scene, folder: Path) -> None:
    """Photograph every page."""
    first = await browser.new_page()
    paths = await addresses(first, found.url)
    await first.close()
    for language in ("en", "zh"):
        for scheme in ("light", "dark"):
            context = await browser.new_context(locale=language, color_scheme=scheme, timezone_id="Asia/Shanghai")  # type: ignore[arg-type]
            page = await context.new_page()
            for number, path in enumerate(paths):
                await page.goto(found.url + path)
                await page.wait_for_timeout(400)
                place = re.sub(r"\W+", "_", path).strip("_")[:50] or "overview"
                name = f"{number:02}-{place}-{language}-{scheme}"
                for width in (1280, 375):
                    await page.set_viewport_size({"width": width, "height": 900})
                    await page.wait_for_timeout(100)
                    await page.screenshot(path=folder / f"{name}-{width}.png", full_page=True)
            await context.close()
    print(f"{len(paths)} pages are in {folder}")


async def main(wanted: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            scene.opened(Path(folder), watch_s=30.0 if wanted else RUN_S) as found,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            await (every(browser, found, wanted) if wanted else pictures(browser, found))
            await browser.close()


if __name__ == "__main__":
    chosen = Path(sys.argv[1]).absolute() if sys.argv[1:] else None
    (chosen or IMAGES).mkdir(parents=True, exist_ok=True)
    asyncio.run(main(chosen))
