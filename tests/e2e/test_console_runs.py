"""The pages of jobs, runs and workers in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect
from tests.consoles import needs_chromium, opened, violations_in_both_themes
from tests.fakes import FakeProgram
from tests.fakes_runs import FakeRuns
from tests.web_server import Running, running

from dogwatch.core.clock import SystemClock
from dogwatch.engine.values import StepState

pytestmark = needs_chromium


@pytest.mark.parametrize("width", [375, 1280])
async def test_plans_and_dialogs_are_accessible_and_within_the_screen(
    browser: Browser, server: Running, width: int
) -> None:
    """What the table of pages does not open."""
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        bypass_csp=True,  # axe is put into the page from outside
    )
    page = await context.new_page()
    for path in ("/jobs/deploy", "/runs/01992222"):
        await page.goto(server.url + path)
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        if path == "/jobs/deploy":
            await page.fill('input[name="version"]', "v1.3")
            await page.click("text=Show what it would do")
            await expect(page.locator(".plan")).to_be_visible()
        if path == "/runs/01992222":
            await expect(page.locator(".out").first).to_be_visible()
            await page.click("button:has-text('Cancel the run…')")
            await expect(page.locator("dialog")).to_be_visible()
        assert (path, await violations_in_both_themes(page)) == (path, [])
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
    await context.close()


async def test_a_job_is_planned_then_started(browser: Browser, server: Running, runs: FakeRuns) -> None:
    async with opened(browser, server, "/jobs/deploy", expected="400") as page:
        await page.click("text=Show what it would do")
        assert await page.eval_on_selector('input[name="version"]', "(one) => one.validity.valueMissing")
        # What the browser does not know is said by the server.
        await page.eval_on_selector("form.start", "(one) => { one.noValidate = true; }")
        await page.click("text=Show what it would do")
        await expect(page.locator(".mistake")).to_have_text("parameter 'version' must be given")
        await page.fill('input[name="version"]', "v1.3")
        await page.select_option('select[name="env"]', "production")
        await page.fill('input[name="replicas"]', "4")
        await page.click("text=Show what it would do")
        await expect(page.locator(".plan-steps li")).to_have_count(6)
        await expect(page.locator(".plan-steps .destructive")).to_have_text(re.compile("run rm -rf build"))
        assert runs.calls == []
        await page.click("text=Start it")
        await page.wait_for_url("**/runs/*")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        request = runs.calls[0][1]
        assert dict(request.parameters) == {"version": "v1.3", "env": "production", "replicas": 4, "dry": False}
        assert len(request.key) == 32


async def test_filters_live_in_the_address(browser: Browser, server: Running) -> None:
    async with opened(browser, server, "/runs") as page:
        await expect(page.locator("tbody tr")).to_have_count(7)
        await page.select_option("#f-state", "failed")
        await page.click("button:has-text('Filter')")
        await page.wait_for_url("**/runs?*state=failed*")
        await expect(page.locator("tbody tr")).to_have_count(1)
        await page.goto(f"{server.url}/runs?state=nonsense")
        await expect(page.locator(".mistake")).to_have_text(re.compile("unknown state 'nonsense'"))
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")


async def test_runs_in_pages(browser: Browser, server: Running, runs: FakeRuns) -> None:
    for number in range(60):
        runs.put(f"03{number:06}")
    async with opened(browser, server, "/runs") as page:
        await expect(page.locator("tbody tr")).to_have_count(50)
        await page.click("text=Older")
        await expect(page.locator("tbody tr")).to_have_count(17)
        await page.click("text=Newest")
        await expect(page.locator("tbody tr")).to_have_count(50)


async def test_the_list_moves_without_a_reload(browser: Browser, server: Running, runs: FakeRuns) -> None:
    async with opened(browser, server, "/runs") as page:
        await expect(page.locator("#run-01992222 .st")).to_have_text("running")
        runs.finish("01992222")
        await expect(page.locator("#run-01992222 .st")).to_have_text("succeeded")


async def test_a_run_is_live(browser: Browser, server: Running, runs: FakeRuns) -> None:
    async with opened(browser, server, "/runs/01992222") as page:
        await expect(page.locator(".node")).to_have_count(6)
        await expect(page.locator('.node[data-step="test"]')).to_have_class("node s-running")
        await expect(page.locator(".out")).to_have_count(4)
        # What programs write stays text, without what a terminal would obey.
        await expect(page.locator(".out").nth(1)).to_contain_text("ok <b>done</b>")
        runs.say("01992222", "lint", "half a li")
        runs.say("01992222", "lint", "ne\n")
        await expect(page.locator(".out").last).to_contain_text("half a line")
        good = StepState.SUCCEEDED
        runs.set_steps("01992222", good, good, StepState.RUNNING)
        await expect(page.locator('.node[data-step="test"]')).to_have_class("node s-up")
        runs.finish("01992222")
        await expect(page.locator("#run-head .st")).to_have_text("succeeded")
        await expect(page.locator("#run-orders")).to_contain_text("Run again")


async def test_output_is_searched_and_followed(browser: Browser, server: Running, runs: FakeRuns) -> None:
    async with opened(browser, server, "/runs/01992222") as page:
        await expect(page.locator(".out")).to_have_count(4)
        await page.fill("#o-search", "warn")
        await expect(page.locator(".out:visible")).to_have_count(1)
        await expect(page.locator("#o-count")).to_have_text("1 of 4 lines")
        await page.fill("#o-search", "")
        await page.select_option("#o-step", "build")
        await expect(page.locator(".out:visible")).to_have_count(2)
        await page.select_option("#o-step", "")
        for number in range(200):
            runs.say("01992222", "test", f"line {number}\n")
        await expect(page.locator(".out").last).to_contain_text("line 199")
        bottom = "(box) => box.scrollTop + box.clientHeight >= box.scrollHeight - 8"
        assert await page.locator("#o-lines").evaluate(bottom)
        await page.locator("#o-lines").evaluate("(box) => { box.scrollTop = 0; }")
        await expect(page.locator("#o-follow")).not_to_be_checked()
        runs.say("01992222", "test", "more\n")
        await expect(page.locator(".out").last).to_contain_text("more")
        assert await page.locator("#o-lines").evaluate("(box) => box.scrollTop") == 0


async def test_orders_say_first_what_they_do(browser: Browser, server: Running, runs: FakeRuns) -> None:
    async with opened(browser, server, "/runs/01992222") as page:
        await page.click("button:has-text('Cancel the run…')")
        await expect(page.locator("dialog")).to_contain_text("Ends what runs: test, lint.")
        await page.click("text=Leave it")
        await expect(page.locator("dialog")).to_have_count(0)
        assert runs.calls == []
        await page.click("button:has-text('Pause…')")
        await page.click("dialog button.primary")
        await expect(page.locator("#run-head .st")).to_have_text("paused")
        await page.click("button:has-text('Cancel the run…')")
        await page.fill("dialog input", "wrong version")
        await page.click("dialog button.primary")
        await expect(page.locator("#run-head .st")).to_have_text("cancelled")
        assert runs.calls[-1] == ("cancel", "01992222", "local:console", "wrong version")


async def test_a_person_approves(browser: Browser, server: Running, runs: FakeRuns) -> None:
    async with opened(browser, server, "/runs/01993333") as page:
        await page.click("button:has-text('Approve sign-off…')")
        await expect(page.locator("dialog")).to_contain_text("The run goes on with roll-out.")
        await page.fill("dialog input", "checked")
        await page.click("dialog button.primary")
        await expect(page.locator("button:has-text('Approve')")).to_have_count(0)
        assert runs.calls == [("decide", "01993333", "sign-off", "local:console", True, "checked")]


async def test_what_failed_is_run_again(browser: Browser, server: Running, runs: FakeRuns) -> None:
    async with opened(browser, server, "/runs/01994444") as page:
        await page.click("button:has-text('Run again what failed…')")
        await expect(page.locator("dialog")).to_contain_text("Keeps the outputs of: build, lint, clean.")
        await page.click("dialog button.primary")
        await page.wait_for_url(re.compile("/runs/0299"))
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        assert runs.calls[0][3] is True


async def test_a_worker_is_drained(browser: Browser, server: Running, runs: FakeRuns) -> None:
    async with opened(browser, server, "/workers") as page:
        await page.click("button:has-text('Drain…')")
        await page.click("dialog button.primary")
        await expect(page.locator(".st").first).to_have_text("draining")


async def test_hostile_names_stay_text(browser: Browser, server: Running, runs: FakeRuns) -> None:
    evil = "<img src=x onerror=window.bad=1>\"'"
    runs.replace("01992222", reason=evil, waiting_for=evil, labels={evil: evil}, parameters={evil: evil})
    runs.say("01992222", "build", f"{evil}\n")
    async with opened(browser, server, "/runs/01992222") as page:
        await expect(page.locator(".out").last).to_contain_text(evil)
        assert await page.evaluate("window.bad") is None
        await page.goto(f"{server.url}/jobs")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await expect(page.locator(".card h2").first).to_have_text("backup/größe <b>")


async def test_empty_pages_teach(browser: Browser) -> None:
    program = FakeProgram(clock=SystemClock())
    program.runs._jobs.clear()
    program.runs._workers.clear()
    async with running(program) as server, opened(browser, server, "/jobs") as page:
        await expect(page.locator(".empty pre")).to_contain_text("jobs:")
        await page.goto(f"{server.url}/runs")
        await expect(page.locator(".empty")).to_contain_text("Nothing has run yet")
        await page.goto(f"{server.url}/workers")
        await expect(page.locator(".empty")).to_contain_text("dogwatch worker run")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
