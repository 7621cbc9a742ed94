"""Logging in and administering in a real browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect
from tests.access import PASSWORD, Site, site
from tests.consoles import needs_chromium, violations_in_both_themes

pytestmark = needs_chromium


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as one:
        await one.user("root", "admin")
        yield one


async def log_in(page: Page, web: Site, path: str = "/") -> None:
    await page.goto(f"{web.url}{path}")
    await page.get_by_label("Name").fill("root")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()


async def test_from_login_to_logout(browser: Browser, web: Site) -> None:
    page = await browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    # A page asked for leads to the login, and the login back to the page.
    await log_in(page, web, "/targets/shop")
    await expect(page).to_have_url(f"{web.url}/targets/shop")
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    await page.get_by_role("button", name="Pause").click()
    await page.click("dialog button.primary")
    await expect(page.locator("#toasts")).to_contain_text("Pause shop: done")
    assert web.program.watch.target("shop").status == "paused"
    await page.get_by_role("link", name="Users").click()
    await page.get_by_label("Name", exact=True).fill("ann")
    await page.get_by_label(re.compile("Password")).fill("another good one")
    await page.get_by_role("button", name="Make user").click()
    await expect(page.get_by_role("rowheader", name="ann")).to_be_visible()
    await page.get_by_role("button", name="Disable ann").click()
    await expect(page.locator("dialog")).to_contain_text("logged out everywhere")
    await page.click("dialog button.primary")
    await expect(page.get_by_text("disabled")).to_be_visible()
    await page.get_by_role("link", name="API tokens").click()
    await page.get_by_label("Name", exact=True).fill("ci")
    await page.get_by_label("viewer").check()
    await page.get_by_role("button", name="Make token").click()
    await expect(page.locator("#secret code")).to_contain_text("dw_")
    secret = await page.locator("#secret code").text_content()
    assert secret
    assert (await (await web.client(token=secret)).get("/api/v1/targets")).status_code == 200
    await page.reload()
    await page.get_by_role("button", name="Revoke ci").click()
    await expect(page.locator("dialog")).to_contain_text("This cannot be taken back")
    await page.click("dialog button.primary")
    await expect(page.get_by_role("cell", name="revoked")).to_be_visible()
    assert (await (await web.client(token=secret)).get("/api/v1/targets")).status_code == 401
    await page.get_by_role("link", name="Audit").click()
    await page.get_by_role("button", name="Verify").click()
    await expect(page.locator("#toasts")).to_contain_text("as it was written")
    await page.get_by_role("searchbox").fill("verb:revoke")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.get_by_role("button", name="Log out").click()
    await expect(page).to_have_url(f"{web.url}/login")
    assert complaints == []
    await page.close()


async def test_a_mistake_is_said(browser: Browser, web: Site) -> None:
    page = await browser.new_page()
    await page.goto(f"{web.url}/login")
    await page.get_by_label("Name").fill("root")
    await page.get_by_label("Password").fill("wrong one")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("alert")).to_contain_text("wrong")
    assert await page.get_by_label("Name").input_value() == "root"
    assert await page.get_by_label("Password").input_value() == ""
    await page.close()


@pytest.mark.parametrize("width", [375, 1280])
async def test_accessible_and_within_the_screen(browser: Browser, tmp_path: Path, width: int) -> None:
    async with site(tmp_path, listen=":8410") as web:
        context = await browser.new_context(
            viewport={"width": width, "height": 900},
            bypass_csp=True,  # axe is put into the page from outside
        )
        page = await context.new_page()
        await page.goto(f"{web.url}/setup?code=x")
        await checked(page)
        await web.user("root", "admin")
        await page.goto(f"{web.url}/login")
        await checked(page)
        await log_in(page, web)
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await web.token("viewer", labels={"team": "shop"})
        for path in ("/users", "/tokens", "/audit", "/audit?q=nothing"):
            await page.goto(f"{web.url}{path}")
            await checked(page)
        await context.close()


async def checked(page: Page) -> None:
    assert await violations_in_both_themes(page) == [], page.url
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, page.url
