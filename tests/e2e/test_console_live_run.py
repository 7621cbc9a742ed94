"""A run from the form to its end, in a real browser against a real daemon."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, expect
from tests.consoles import needs_chromium
from tests.e2e.running import running

pytestmark = needs_chromium
CONFIG = """
jobs:
  - name: release
    doc: Releases the shop.
    parameters: {version: {pattern: 'v[0-9]+'}}
    steps:
      - name: build
        exec: {run: 'for i in 1 2 3; do echo build {{ params.version }} $i; sleep 0.2; done'}
      - name: ask
        approve: {message: "Ship it?"}
      - name: ship
        exec: {run: "echo shipped"}
schedules:
  - {name: nightly, job: release, parameters: {version: v1}, cron: "0 3 * * *"}
"""


async def test_a_run_from_the_form_to_its_end(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, CONFIG) as daemon:
        context = await browser.new_context(locale="en-GB")
        page = await context.new_page()
        await page.goto(f"{daemon.server}/jobs")
        await expect(page.locator(".job-foot")).to_contain_text("never ran, next")
        await page.click("text=Run release")
        await page.fill('input[name="version"]', "one")
        await page.click("text=Show what it would do")
        await expect(page.locator(".mistake")).to_contain_text("version")
        await page.fill('input[name="version"]', "v7")
        await page.click("text=Show what it would do")
        await expect(page.locator(".plan-steps li").first).to_contain_text("v7")
        await page.click("text=Start it")
        await page.wait_for_url("**/runs/*")
        await expect(page.locator(".out").last).to_contain_text("build v7 3")
        await expect(page.locator('.node[data-step="ask"]')).to_have_class("node s-waiting")
        await page.click("button:has-text('Approve ask…')")
        await page.click("dialog button.primary")
        await expect(page.locator("#run-head .st")).to_have_text("succeeded")
        await expect(page.locator(".out").last).to_contain_text("shipped")
        await page.goto(f"{daemon.server}/workers")
        await expect(page.locator(".st").first).to_have_text("active")
        await context.close()
        trail = daemon.run("audit", "list", "--json")
        if trail.returncode == 0:
            assert "approve" in trail.stdout
