"""The pages of the fleet in a real browser: found, filtered, told by host, and nothing in them is obeyed."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect
from tests.consoles import Console, live, needs_chromium, violations

pytestmark = needs_chromium


async def test_hosts_are_searched_and_a_run_tells_each(browser: Browser, web: Console) -> None:
    page = await browser.new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"something was obeyed: {dialog.message}"))
    await page.goto(f"{web.url}/fleet")
    await live(page)
    await expect(page.locator("tbody tr", has_text="web09")).to_contain_text("non-zero")
    await expect(page.locator("tbody tr", has_text="db1")).to_contain_text("never")
    await page.fill("#q", "rack=7")
    await page.press("#q", "Enter")
    await expect(page.locator("h1 + p")).to_contain_text("12 hosts")
    await page.goto(f"{web.url}/fleet")
    await page.click("text=@shop")
    await expect(page.locator("th[scope=row]")).to_have_count(12)
    await page.click("text=uptime")
    await expect(page.locator("h2", has_text="web[01-08]")).to_be_visible()
    await expect(page.locator("pre", has_text="alert(1)")).to_be_visible()
    await expect(page.locator("main")).to_contain_text("192.0.2.7:22 refuses connections")
    await page.goto(f"{web.url}/fleet?targets=nope")
    await expect(page.locator(".banner")).to_contain_text("there is no host")
    await page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
async def test_everybody_can_use_them(browser: Browser, web: Console, scheme: str, width: int) -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
        bypass_csp=True,
    )
    page = await context.new_page()
    plans = ("/fleet/plans", "/fleet/plans/plan1", "/fleet/plans/plan2")
    for path in ("/fleet", "/fleet?q=none", "/fleet/runs/fleet1%2Fgo", "/fleet/runs/fleet2%2Fgo", *plans):
        await page.goto(web.url + path)
        await live(page)
        assert (path, await violations(page)) == (path, [])
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
    await context.close()


async def test_a_plan_is_read_agreed_to_and_rejected(browser: Browser, web: Console) -> None:
    page = await browser.new_page()
    await page.goto(f"{web.url}/fleet/plans")
    await live(page)
    await expect(page.locator("#drift-title + div tbody tr")).to_contain_text("web[01-08,10]")
    await page.locator("#plans-title + div tbody tr", has_text="waits for approval").locator("a").click()
    await expect(page.locator("h2", has_text="web[01-08]")).to_be_visible()
    await expect(page.locator(".diff .d-add", has_text="+welcome")).to_be_visible()
    await expect(page.locator("main")).to_contain_text("decided when main file is done")
    await expect(page.locator("main")).to_contain_text("192.0.2.7:22 refuses connections")
    await expect(page.locator("text=Apply exactly this")).to_have_count(0)
    await page.click("text=Agree to exactly this")
    await expect(page.locator("dialog")).to_contain_text("8 of 11 hosts may then be changed")
    await page.fill("dialog input", "go")
    await page.click("dialog button.primary")
    await expect(page.locator("dl.facts")).to_contain_text("Agreed")
    await expect(page.locator("text=Apply exactly this")).to_be_visible()
    assert (await web.program.services.fleet.desk.show("plan1")).comment == "go"  # type: ignore[union-attr]
    # What was agreed to before is there to be rolled back, and tells where it stopped.
    await page.goto(f"{web.url}/fleet/plans/plan2")
    await expect(page.locator(".banner").first).to_contain_text("1 of 11 hosts failed")
    await expect(page.locator("text=Finish the rest")).to_be_visible()
    await expect(page.locator("button", has_text="Roll back")).to_be_visible()
    await page.close()


async def test_plans_move_without_a_reload(browser: Browser, web: Console) -> None:
    page = await browser.new_page()
    await page.goto(f"{web.url}/fleet/plans/plan1")
    await live(page)
    await page.evaluate("window.sameDocument = true")
    await expect(page.locator(".st").first).to_have_text("waits for approval")
    desk = web.program.services.fleet.desk  # type: ignore[union-attr]
    assert desk is not None
    await desk.decide("plan1", web.access_actor, approve=False, comment="not today")
    await expect(page.locator(".st").first).to_have_text("rejected")
    await expect(page.locator("#plan-agree-title")).to_have_count(0)
    assert await page.evaluate("window.sameDocument") is True
    await page.close()


async def test_a_plan_is_rejected_for_good(browser: Browser, web: Console) -> None:
    page = await browser.new_page()
    await page.goto(f"{web.url}/fleet/plans/plan1")
    await live(page)
    await page.click("button:has-text('Reject…')")
    await page.click("dialog button.danger")
    await expect(page.locator(".banner").first).to_contain_text("rejected by")
    await expect(page.locator("text=Agree to exactly this")).to_have_count(0)
    await page.close()
