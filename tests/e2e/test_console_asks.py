"""Every button that changes something says first what it will do: on every page, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, Page, Request, expect
from tests.access import PASSWORD
from tests.consoles import PAGES, Console, live, needs_chromium

pytestmark = needs_chromium
# What changes nothing that could be regretted: it looks, tries, makes something new that its own form describes, or
# shows its plan on a page of its own.
HARMLESS = (
    r"/logout",
    r"/api/v1/audit/verify",
    r"/api/v1/targets/[^/]+/(run|resume)",
    r"/api/v1/(users|tokens|fleet/plans)",
    r"/status/subscribe",
)
# Where there is something to change beside the table of pages.
MORE = ("/runs/01993333", "/runs/01994444", "/runs/01995555")
UNREADY = "[...document.querySelectorAll('details')].forEach((one) => { one.open = true; })"


def harmless(action: str) -> bool:
    return any(re.fullmatch(one, action.partition("?")[0]) for one in HARMLESS)


async def fill(page: Page) -> None:
    """Give a form what it needs before it can be asked for."""
    for name, text in (("name", "new disks"), ("duration", "2h"), ("password", "a good password")):
        for field in await page.locator(f'form[data-confirm] input[name="{name}"]:visible').all():
            await field.fill(text)


async def asks_first(page: Page, button: str, number: int, changes: list[str]) -> str:
    """Press a button; return what is said before anything happens. Afterwards nothing has."""
    await page.locator(button).nth(number).click()
    dialog = page.locator("dialog")
    await expect(dialog).to_be_visible()
    said = " ".join(await dialog.locator("form > :not(h2, label, .actions)").all_inner_texts())
    await expect(dialog.locator("button.primary")).to_be_enabled()
    await dialog.get_by_role("button", name="Leave it").click()
    await expect(dialog).to_have_count(0)
    assert changes == []
    return said


@pytest.mark.timeout(300)
async def test_every_button_that_changes_something_shows_its_plan_first(browser: Browser, web: Console) -> None:
    await web.user("root", "admin")
    await web.user("ann", "viewer")
    await web.access.set_disabled(web.access_actor, "ann", disabled=True)
    await web.user("bob", "viewer")
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    changes: list[str] = []

    def note(request: Request) -> None:
        if request.method not in ("GET", "HEAD"):
            changes.append(f"{request.method} {request.url}")

    await page.goto(f"{web.url}/login?next=/tokens")
    await page.get_by_label("Name").fill("root")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_label("Name", exact=True).fill("ci")
    await page.get_by_label("viewer").check()
    await page.get_by_role("button", name="Make token").click()
    await expect(page.locator("#secret code")).to_contain_text("dw_")
    page.on("request", note)
    asked: set[str] = set()
    for path in (*PAGES, *MORE):
        await page.goto(web.url + path)
        await live(page)
        await page.evaluate(UNREADY)
        forms = await page.locator('form[method="post"]').evaluate_all(
            "(all) => all.map((one) => [one.getAttribute('action'), one.dataset.confirm ?? ''])"
        )
        unasked = {action for action, title in forms if not title and not harmless(action)}
        assert unasked == set(), path
        await fill(page)
        for button in ("form[data-confirm]:visible button", "button[data-ask]:visible"):
            for number in range(await page.locator(button).count()):
                title = (await page.locator(button).nth(number).inner_text()).split("\n")[0]
                said = await asks_first(page, button, number, changes)
                assert len(said) > 15, (path, title, said)
                asked.add(title)
    # Nothing of it was left out because a page did not show it.
    assert {
        "Pause…", "Acknowledge…", "Resolve…", "Silence…", "Plan it…", "End…", "Agree to exactly this…", "Reject…",
        "Finish the rest…", "Roll back…", "Cancel the run…", "Drain…", "Run now…", "Replay…", "Send again…", "Reload…",
        "Disable…", "Enable…", "Revoke…",
    } <= asked  # fmt: skip
    await context.close()
