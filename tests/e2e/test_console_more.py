"""The pages of schedules, webhooks, messages and settings, and the palette, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect
from tests.consoles import needs_chromium, opened, violations
from tests.fakes import FakeProgram
from tests.fakes_console import EVIL, FakeHooks, FakeOutbox, FakeSchedules
from tests.fakes_runs import FakeRuns
from tests.web_server import Running, running

pytestmark = needs_chromium


async def test_a_schedule_is_paused_resumed_and_run(
    browser: Browser, server: Running, schedules: FakeSchedules
) -> None:
    async with opened(browser, server, "/schedules") as page:
        card = page.locator(".job").first
        await card.locator("button:has-text('Pause…')").click()
        await expect(page.locator("dialog")).to_contain_text("until somebody resumes it")
        await page.click("text=Leave it")
        assert schedules.calls == []
        await card.locator("button:has-text('Pause…')").click()
        await page.fill("dialog input", "release week")
        await page.click("dialog button.primary")
        await expect(card.locator(".st").first).to_have_text("paused")
        await expect(card).to_contain_text("by local:console: release week")
        await card.locator("button:has-text('Resume…')").click()
        await page.click("dialog button.primary")
        await expect(card.locator(".st").first).to_have_text("active")
        await card.locator("button:has-text('Run now…')").click()
        await expect(page.locator("dialog .plan-steps li")).to_have_count(6)
        await expect(page.locator("dialog .destructive")).to_contain_text("run rm -rf build")
        await page.click("dialog button.primary")
        await page.wait_for_url("**/runs/01998888")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    assert [call[:2] for call in schedules.calls] == [
        ("pause", "nightly/deploy"),
        ("resume", "nightly/deploy"),
        ("run", "nightly/deploy"),
    ]
    assert len(schedules.calls[2][2]) == 32


async def test_a_schedule_shows_fires_and_no_secret(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/schedules/nightly%2Fdeploy") as page:
        await expect(page.locator(".fires li")).to_have_count(10)
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(4)
        await expect(rows.nth(0).locator("a")).to_have_attribute("href", "/runs/01991111")
        await expect(rows.nth(1)).to_contain_text("misfire: skip")
        await expect(page.locator("main")).to_contain_text("v1.3")
        assert "hunter22" not in await page.content()


async def test_schedules_are_filtered_in_the_address(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/schedules?q=team%3Dshop") as page:
        await expect(page.locator(".job")).to_have_count(1)
        await expect(page.locator("#q")).to_have_value("team=shop")
        await expect(page.locator(".board-head")).to_contain_text("1 of 3 match")


async def test_deliveries_are_filtered_and_paged_in_the_address(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/webhooks") as page:
        await page.locator("summary").first.click()
        await expect(page.locator("details tbody")).to_contain_text(EVIL)
        await page.click("text=shop >> nth=0")
        await page.wait_for_url("**/deliveries?endpoint=shop")
        await expect(page.locator("tbody tr")).to_have_count(50)
        await page.select_option("#f-state", "ignored")
        await page.click("button:has-text('Filter')")
        await page.wait_for_url("**/deliveries?endpoint=shop&state=ignored")
        await expect(page.locator("tbody tr")).to_have_count(40)
        await page.goto(f"{server.url}/deliveries")
        await page.click("text=Older")
        await page.click("text=Older")
        await expect(page.locator("tbody tr")).to_have_count(20)
        await page.goto(f"{server.url}/deliveries?state=nonsense")
        await expect(page.locator(".mistake")).to_contain_text("unknown state 'nonsense'; known: accepted")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")


async def test_a_delivery_is_replayed(browser: Browser, server: Running, traffic: tuple[FakeHooks, FakeOutbox]) -> None:
    hooks = traffic[0]
    async with opened(browser, server, "/deliveries/dlv_0001") as page:
        await expect(page.locator("pre")).to_contain_text('"ref": "refs/heads/main"')
        await expect(page.locator("main")).to_contain_text("x-hub-signature-256")
        await page.click("button:text-is('Replay…')")
        await expect(page.locator("dialog")).to_contain_text("the job deploy runs once more")
        await page.click("text=Leave it")
        assert hooks.calls == []
        await page.click("button:has-text('Replay without the filter…')")
        await page.click("dialog button.primary")
        await page.wait_for_url("**/deliveries/dlv_again")
        await expect(page.locator(".facts").first).to_contain_text("dlv_0001")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    assert hooks.calls == [("replay", "dlv_0001", "local:console", True)]


async def test_dead_letters_are_sent_again(
    browser: Browser, server: Running, traffic: tuple[FakeHooks, FakeOutbox]
) -> None:
    outbox = traffic[1]
    async with opened(browser, server, "/outbox") as page:
        await page.click("text=17 dead letters")
        await page.wait_for_url("**/outbox?destination=ops&state=dead")
        await expect(page.locator("tbody tr")).to_have_count(17)
        await page.click("tbody a >> nth=0")
        await page.click("button:has-text('Send again…')")
        await expect(page.locator("dialog")).to_contain_text("under the same id")
        await page.click("dialog button.primary")
        await expect(page.locator(".st").first).to_have_text("queued")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await page.goto(f"{server.url}/outbox")
        await page.click("button:has-text('Send dead letters again…')")
        await expect(page.locator("dialog")).to_contain_text("17 messages that were given up go out again")
        await page.click("dialog button.primary")
        await expect(page.locator(".toast")).to_be_visible()
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    assert outbox.calls == [("redeliver", "msg_0003", "local:console"), ("redeliver_dead", "ops", "local:console")]


async def test_the_program_is_shown_and_reloaded(browser: Browser, server: Running, program: FakeProgram) -> None:
    async with opened(browser, server, "/settings") as page:
        main = page.locator("main")
        await expect(main).to_contain_text("0.1.0")
        await expect(main).to_contain_text("Runs under way")
        await expect(page.locator("table").first).to_contain_text("serve")  # the task of this very server
        await page.click("button:has-text('Reload…')")
        await expect(page.locator("dialog")).to_contain_text("with a mistake in it, all stays as it is")
        program.reload.problems = (f"dogwatch.yaml:12: {EVIL}",)
        await page.click("dialog button.primary")
        row = page.locator("table.list tbody tr").first
        await expect(row).to_contain_text(f"dogwatch.yaml:12: {EVIL}")
        await expect(row.locator(".st")).to_have_text("failed")


async def test_configuration_has_origins_filter_and_pages(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/settings/configuration") as page:
        await expect(page.locator("tbody tr")).to_have_count(200)
        await expect(page.locator("tbody tr").nth(2)).to_contain_text("environment DATABASE_URL")
        await expect(page.locator("tbody tr").nth(2)).to_contain_text("***")
        await page.click("text=More settings")
        await page.click("text=More settings")
        await expect(page.locator("tbody tr")).to_have_count(99)
        await page.goto(f"{server.url}/settings/configuration?q=schedules")
        await expect(page.locator("tbody tr")).to_contain_text("***")
        assert "hunter22" not in await page.content()
        await page.keyboard.press("/")
        await page.keyboard.type("server")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/settings/configuration?q=server")
        await expect(page.locator("tbody tr")).to_have_count(1)
        await page.click("text=defaults, too")
        await expect(page.locator("tbody tr")).to_have_count(2)
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")


async def test_the_palette_finds_and_goes(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/runs") as page:
        await page.keyboard.press("Control+k")
        options = page.locator("[role=option]")
        await expect(options.first).to_contain_text("Overview")
        await expect(page.locator("dialog input")).to_have_attribute("aria-activedescendant", "palette-0")
        await page.keyboard.type("deploy")
        await expect(options.first).to_contain_text("job")
        await expect(page.locator("[role=option]:has-text('nightly/deploy')")).to_have_count(1)
        await page.keyboard.press("ArrowDown")
        await expect(page.locator("[aria-selected=true]")).to_contain_text("nightly/deploy")
        await page.keyboard.press("ArrowUp")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/jobs/deploy")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await page.keyboard.press("?")
        await page.keyboard.type("shop/check")
        await expect(options).to_have_count(1)
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/targets/shop%2Fcheckout")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await page.click("[data-palette]")
        await page.keyboard.type("no such thing")
        await expect(page.locator("dialog [role=status]")).to_contain_text("Nothing of that name")
        await page.keyboard.press("Escape")
        await expect(page.locator("dialog")).to_have_count(0)


@pytest.mark.parametrize(
    ("letter", "path"),
    [("o", "/"), ("j", "/jobs"), ("r", "/runs"), ("s", "/schedules"), ("w", "/webhooks"), ("p", "/settings")],
)
async def test_keys_go_to_pages(browser: Browser, server: Running, letter: str, path: str) -> None:
    async with opened(browser, server, "/workers") as page:
        await page.keyboard.press("g")
        await page.keyboard.press(letter)
        await page.wait_for_url(server.url + path)
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")


async def test_keys_do_not_disturb_who_types(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/deliveries") as page:
        await page.keyboard.press("/")
        await expect(page.locator("#f-of")).to_be_focused()
        await page.keyboard.type("go?")
        await expect(page.locator("#f-of")).to_have_value("go?")
        await expect(page.locator("dialog")).to_have_count(0)
        assert page.url == f"{server.url}/deliveries"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_palette_is_accessible(browser: Browser, server: Running, scheme: str) -> None:
    context = await browser.new_context(
        viewport={"width": 375, "height": 700},
        color_scheme=scheme,  # type: ignore[arg-type]
        bypass_csp=True,
    )
    page = await context.new_page()
    await page.goto(f"{server.url}/schedules")
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    for text in ("", "deploy", "nothing at all"):
        await page.keyboard.press("Control+k")
        await page.keyboard.type(text)
        said = "Nothing" if text.startswith("nothing") else "found"
        await expect(page.locator("dialog [role=status]")).to_contain_text(said)
        assert (text, await violations(page)) == (text, [])
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        await page.keyboard.press("Escape")
    await context.close()


async def test_hostile_names_stay_text(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/schedules") as page:
        await expect(page.locator(".job h2").nth(1)).to_have_text(f"evil {EVIL}")
        await page.locator(".job").nth(1).locator("button:has-text('Pause…')").click()
        await expect(page.locator("dialog h2")).to_contain_text(EVIL)
        await page.click("text=Leave it")
        await page.locator(".job h2 a").nth(1).click()
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await expect(page.locator("h1")).to_have_text(re.compile("^evil <img"))
        assert await page.evaluate("window.bad") is None
        for path in (
            "/webhooks",
            "/deliveries",
            "/deliveries/dlv_0002",
            "/outbox",
            "/outbox/msg_0000",
            "/settings",
            "/settings/configuration",
        ):
            await page.goto(server.url + path)
            await expect(page.locator("main")).to_contain_text(EVIL)
            await expect(page.locator("#live")).to_have_attribute("data-state", "live")
            assert await page.evaluate("window.bad") is None
            assert await page.locator("main img, dialog img").count() == 0


async def test_empty_pages_teach(browser: Browser, program: FakeProgram, runs: FakeRuns) -> None:
    async with running(program) as server, opened(browser, server, "/schedules") as page:
        await expect(page.locator(".empty pre")).to_contain_text("schedules:")
        await page.goto(f"{server.url}/webhooks")
        await expect(page.locator(".empty pre")).to_contain_text("hooks:")
        await page.goto(f"{server.url}/deliveries")
        await expect(page.locator(".empty")).to_contain_text("Nothing has come in yet")
        await page.goto(f"{server.url}/outbox")
        await expect(page.locator(".empty pre")).to_contain_text("notify:")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
