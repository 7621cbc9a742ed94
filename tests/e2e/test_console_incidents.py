"""Incidents in a real browser: what is wrong comes first, is taken, silenced and closed; labels limit what is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect
from tests.access import PASSWORD
from tests.consoles import Console, console, live, needs_chromium

from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule

pytestmark = needs_chromium


@pytest.fixture
async def page(browser: Browser, web: Console) -> AsyncIterator[Page]:
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    await context.close()
    assert complaints == []


async def test_open_incidents_come_first(page: Page, web: Console) -> None:
    await page.goto(web.url)
    await live(page)
    first = page.locator("main h2").first
    await expect(first).to_have_text("Open incidents")
    lines = page.locator("#now ul.wrong").first.locator("li")
    await expect(lines).to_have_count(2)
    await expect(lines.nth(1)).to_contain_text("db is down: timeout")
    await expect(lines.nth(1)).to_contain_text("explains 1 more")
    # What an incident tells of is not told a second time; what none tells of is.
    await expect(page.locator("section[aria-labelledby=wrong-now] .head a")).to_have_text(["shop/checkout", "blog"])
    # Without a reload: what was resolved is gone.
    await web.watched.part.order(2, "resolve", web.access_actor, text="by mail")
    await expect(lines).to_have_count(1)


async def test_an_incident_is_taken_commented_and_resolved(page: Page, web: Console) -> None:
    await page.goto(f"{web.url}/incidents")
    await live(page)
    await page.click("text=#1 db")
    await page.wait_for_url("**/incidents/1")
    await live(page)
    explains = page.locator("section[aria-labelledby=explains-title] li")
    await expect(explains).to_have_count(2)
    await expect(explains.nth(1).locator("a")).to_have_attribute("href", "/targets/shop")
    await page.click("text=Acknowledge…")
    await expect(page.locator("dialog")).to_contain_text("nobody else is told")
    await page.click("text=Leave it")
    await expect(page.locator(".st").first).to_have_text("open")
    await page.click("text=Acknowledge…")
    await page.fill("dialog input", "on it")
    await page.click("dialog button.primary")
    await expect(page.locator(".st").first).to_have_text("acknowledged")
    await page.click("text=Comment…")
    await page.fill("dialog input", "<img src=x onerror=window.bad=1>")
    await page.click("dialog button.primary")
    timeline = page.locator("section[aria-labelledby=timeline-title] li")
    await expect(timeline.last).to_contain_text("<img src=x onerror=window.bad=1>")
    assert await page.evaluate("window.bad") is None
    await page.click("text=Give it back…")
    await page.click("dialog button.primary")
    await expect(page.locator(".st").first).to_have_text("open")
    await page.click("text=Resolve…")
    await page.fill("dialog input", "restarted")
    await page.click("dialog button.primary")
    await expect(page.locator(".st").first).to_have_text("resolved")
    await expect(page.locator("text=Acknowledge…")).to_have_count(0)


async def test_an_incident_is_silenced_and_told_of_again(page: Page, web: Console) -> None:
    await page.goto(f"{web.url}/incidents/2")
    await live(page)
    await page.click("summary:has-text('Silence it…')")
    await page.select_option("#s-duration", "8h")
    await page.fill("#s-reason", "known")
    await page.click("button:text-is('Silence…')")
    await expect(page.locator("dialog")).to_contain_text("It stays open")
    assert web.watched.part.silences() == []
    await page.click("dialog button.primary")
    await expect(page.locator(".facts")).to_contain_text("known")
    [silence] = web.watched.part.silences()
    assert (silence.number, silence.reason) == (2, "known")
    await page.goto(f"{web.url}/incidents")
    await page.get_by_role("button", name="End the silence").click()
    await expect(page.locator("dialog")).to_contain_text("People are told again")
    await page.click("dialog button.primary")
    await expect(page.locator("#silences-title")).to_have_count(0)
    assert web.watched.part.silences() == []


async def test_the_list_is_filtered_in_the_address(page: Page, web: Console) -> None:
    await web.watched.part.order(2, "resolve", web.access_actor)
    await page.goto(f"{web.url}/incidents")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(1)
    await page.select_option("#f-state", "resolved")
    await page.fill("#f-q", "team=secret-mail")
    await page.click("button:has-text('Filter')")
    await page.wait_for_url("**/incidents?q=team%3Dsecret-mail&state=resolved&severity=")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("mail")
    await page.goto(f"{web.url}/incidents?state=all&severity=critical")
    await expect(page.locator(".empty")).to_contain_text("No incident matches")


async def test_rules_are_backtested_from_their_page(page: Page, web: Console) -> None:
    await page.goto(f"{web.url}/rules?q=slow")
    await expect(page.locator("tbody tr")).to_contain_text("slow-checkout")
    await page.select_option("#b-since", "1h")
    await page.click("button:text-is('Look')")
    await expect(page.locator(".found")).to_contain_text("2 incidents")
    await expect(page.locator(".found li")).to_have_count(2)


async def _logged_in(browser: Browser, web: Console, name: str) -> tuple[BrowserContext, Page]:
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    await page.goto(f"{web.url}/login")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await live(page)
    return context, page


async def test_what_may_not_be_seen_is_nowhere(browser: Browser, tmp_path: Path) -> None:
    """A user limited to team=shop: on pages, in counts, in search, in streams."""
    rule = Rule(nouns=("probe", "incident", "rule", "run", "job", "host"), verbs=("*",), labels={"team": "shop"})
    options = AccessOptions(roles={"shop": (rule,)})
    async with console(tmp_path, options) as web:
        await web.user("root", "admin")
        await web.user("ann", "shop")
        context, page = await _logged_in(browser, web, "ann")
        heard: list[str] = []
        await page.expose_function("heard", lambda text: heard.append(text))  # noqa: PLW0108 Playwright marks what it is given
        await page.evaluate(
            "() => { const s = new EventSource('/api/v1/events');"
            "for (const t of ['incident', 'result', 'transition', 'run'])"
            "s.addEventListener(t, (e) => window.heard(e.data)); return new Promise((done) => { s.onopen = done; }); }"
        )
        await web.watched.part.order(1, "comment", web.access_actor, text="psst")
        await web.watched.part.order(2, "comment", web.access_actor, text="psst")
        for path in ("/", "/incidents", "/incidents?state=all", "/rules", "/audit", "/settings"):
            await page.goto(web.url + path)
            text = await page.content()
            assert "secret-mail" not in text, path
            assert "db is down" not in text, path
            assert "mail is down" not in text, path
        for number in (1, 2):
            answer = await page.goto(f"{web.url}/incidents/{number}")
            assert answer is not None
            assert answer.status == 404
        await page.goto(web.url)
        await expect(page.locator("#incidents-open")).to_have_count(0)
        found = await page.evaluate("fetch('/fragments/palette?q=down').then((one) => one.json())")
        assert [one for one in found if one["kind"] == "incident"] == []
        assert not any('"number"' in one for one in heard)
        await context.close()


async def test_maintenance_is_planned_and_ended(page: Page, web: Console) -> None:
    await page.goto(f"{web.url}/maintenance")
    await live(page)
    await page.get_by_label("Name", exact=True).fill("new disks")
    await page.get_by_label("Targets").fill("db-1, shop*")
    await page.get_by_label("From now on, for").fill("2h")
    await page.click("button:text-is('Plan it…')")
    await expect(page.locator("dialog")).to_contain_text("3 of 12 targets: of these no incident opens")
    await expect(page.locator("dialog")).to_contain_text("shop/checkout")
    await page.click("dialog button.primary")
    row = page.locator("tr:has-text('new disks')")
    await expect(row).to_contain_text("db-1, shop*")
    await expect(row).to_contain_text("ends in 2 hr")
    await row.get_by_role("button").click()
    await expect(page.locator("dialog")).to_contain_text("people are told")
    await page.click("dialog button.primary")
    await expect(row.locator(".st")).to_have_text("over")
    soon = datetime.now(UTC) + timedelta(days=2)
    await page.get_by_label("Name", exact=True).fill("tonight")
    await page.get_by_label("Begins", exact=True).fill(soon.strftime("%Y-%m-%dT22:00"))
    await page.get_by_label("Ends", exact=True).fill(soon.strftime("%Y-%m-%dT23:00"))
    await page.click("button:text-is('Plan it…')")
    await expect(page.locator("dialog")).to_contain_text("All 12 targets: no incident opens")
    await page.click("dialog button.primary")
    await expect(page.locator("tr:has-text('tonight') .st")).to_have_text("next")
