"""Single sign-on in a real browser at a certified provider, which is another site to it."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, expect
from tests.access import site
from tests.consoles import needs_chromium
from tests.openid_real import CLIENT, PASSWORD, SECRET, needs_provider, real_provider

from dogwatch.access.options import AccessOptions, Binding, OidcOptions

pytestmark = [needs_chromium, needs_provider]


async def test_single_sign_on_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    async with real_provider(tmp_path) as openid:
        oidc = OidcOptions(issuer=openid.issuer, client_id=CLIENT, client_secret=SECRET, title="Example Corp")
        options = AccessOptions(oidc=oidc, bindings=(Binding(group="ops", roles=("operator",)),))
        async with site(tmp_path, options) as web:
            await web.user("root", "admin")
            openid.redirect_uris = [f"{web.url}/login/oidc/callback"]
            await openid.start()
            page = await browser.new_page()
            complaints: list[str] = []
            ours = lambda one: one.type == "error" and web.url in one.location["url"]  # noqa: E731
            page.on("console", lambda one: complaints.append(one.text) if ours(one) else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await page.goto(f"{web.url}/targets/shop")
            await page.get_by_role("link", name="Example Corp").click()
            await page.get_by_label("User").fill("ann")
            await page.get_by_label("Password").fill(PASSWORD)
            await page.get_by_role("button", name="Sign in").click()
            await expect(page).to_have_url(f"{web.url}/targets/shop")
            await expect(page.locator("#live")).to_have_attribute("data-state", "live")
            # What its role opens works: the session is one like any other.
            await page.get_by_role("button", name="Pause").click()
            await page.click("dialog button.primary")
            await expect(page.locator("#toasts")).to_contain_text("Pause shop: done")
            await page.get_by_role("button", name="Log out").click()
            await expect(page).to_have_url(f"{web.url}/login")
            await page.go_back()
            await expect(page).to_have_url(f"{web.url}/login?next=%2Ftargets%2Fshop")
            assert complaints == []
            await page.context.close()
