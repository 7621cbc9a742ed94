"""Login at a certified OpenID provider, through its own form: a real provider, real HTTP, a real state database."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.access import LOCAL, Site, site
from tests.openid_real import CLIENT, SECRET, RealProvider, needs_provider, real_provider, signed_in, until

from dogwatch.access.options import AccessOptions, Binding, OidcOptions
from dogwatch.access.permissions import Rule

pytestmark = needs_provider


def options(issuer: str, **more: Any) -> AccessOptions:
    return AccessOptions(
        oidc=OidcOptions(issuer=issuer, client_id=CLIENT, client_secret=SECRET, title="Example Corp", **more),
        roles={"shop": (Rule(nouns=("probe",), labels={"team": "shop"}),)},
        bindings=(Binding(group="ops", roles=("operator",)), Binding(group="shop", roles=("shop",))),
    )


@pytest.fixture
async def openid(tmp_path: Path) -> AsyncIterator[RealProvider]:
    async with real_provider(tmp_path) as one:
        yield one


@pytest.fixture
async def web(tmp_path: Path, openid: RealProvider) -> AsyncIterator[Site]:
    async with site(tmp_path, options(openid.issuer)) as one:
        await one.user("root", "admin")
        openid.redirect_uris = [f"{one.url}/login/oidc/callback"]
        await openid.start()
        yield one


async def me(browser: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await browser.get("/api/v1/me")).json()
    return found


async def log_in(web: Site, user: str = "ann") -> tuple[httpx.AsyncClient, httpx.Response]:
    browser = await web.client()
    return browser, await browser.get(await signed_in(browser, user))


async def log_out(browser: httpx.AsyncClient) -> httpx.Response:
    page = (await browser.get("/tokens", headers={"accept": "text/html"})).text
    csrf = re.search(r'name="csrf" content="([^"]+)"', page)
    assert csrf
    return await browser.post("/logout", data={"csrf": csrf[1]})


async def test_from_the_form_of_the_provider_to_roles_and_out_again(web: Site, openid: RealProvider) -> None:
    browser = await web.client()
    assert await signed_in(browser, "ann", "not the password") == ""
    answer = await browser.get(await signed_in(browser, "ann", next_="/targets/shop"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/targets/shop")
    assert (await me(browser))["roles"] == ["operator"]
    session = browser.cookies["dogwatch_session"]
    assert (await log_out(browser)).headers["location"] == "/login"
    assert (await browser.get("/api/v1/me")).status_code == 401
    stolen = await web.client(cookies={"dogwatch_session": session})
    assert (await stolen.get("/api/v1/me")).status_code == 401
    # The provider still knows the browser: it asks nothing again, and its new groups hold.
    openid.user("ann", "shop")
    answer = await browser.get(await signed_in(browser, "nobody", "no password at all"))
    assert answer.status_code == 303
    assert browser.cookies["dogwatch_session"] != session
    assert (await me(browser))["roles"] == ["shop"]
    names = [one["name"] for one in (await browser.get("/api/v1/targets")).json()["items"]]
    assert names
    assert {web.program.watch.target(name).labels.get("team") for name in names} == {"shop"}
    kept = next(user for user in await web.users() if user.name == "ann")
    assert (kept.source, kept.title, kept.email, kept.groups) == (
        "oidc",
        "ann of Example",
        "ann@example.org",
        ("shop",),
    )
    # What is left is the login that ended at the provider, with a wrong password.
    assert len(await web.access.database.read(lambda tx: tx.rows("SELECT digest FROM oidc_logins"))) == 1


async def test_claims_may_come_in_the_token(web: Site, openid: RealProvider) -> None:
    openid.in_token = True
    await openid.restart()
    browser, answer = await log_in(web)
    assert answer.status_code == 303
    assert (await me(browser))["roles"] == ["operator"]


async def test_whoever_cancels_at_the_provider_is_told_so(web: Site) -> None:
    browser = await web.client()
    answer = await until(browser, await browser.get("/login/oidc"), "")
    abort = re.search(r'action="(/interaction/[^"]+/abort)"', answer.text)
    assert abort
    answer = await browser.post(str(answer.url.join(abort[1])))
    answer = await until(browser, answer, "")
    assert (answer.status_code, "access_denied" in answer.text) == (403, True)
    assert (await browser.get("/api/v1/me")).status_code == 401


async def test_the_provider_rotates_its_keys(web: Site, openid: RealProvider) -> None:
    assert (await log_in(web))[1].status_code == 303
    openid.rotate()
    await openid.restart()
    provider = web.access.provider()
    assert provider
    # Keys are asked for anew once in half a minute at most: a stranger's tokens must not make us ask.
    assert (await log_in(web))[1].status_code == 403
    provider._keys_at_s -= 60
    assert (await log_in(web))[1].status_code == 303
    # What was rotated out altogether holds no longer.
    openid.keys = openid.keys[:1]
    await openid.restart()
    assert (await log_in(web))[1].status_code == 303


async def test_a_provider_that_goes_away_in_the_middle(web: Site, openid: RealProvider) -> None:
    browser = await web.client()
    back = await signed_in(browser, "ann")
    await openid.stop()
    answer = await browser.get(back)
    assert (answer.status_code, "cannot ask the OpenID provider" in answer.text) == (503, True)
    assert 'href="/login/oidc' in answer.text, "one can begin again"
    assert "client-secret" not in answer.text
    assert SECRET not in answer.text
    # Local users go on, and so do those who are in.
    local = await web.browser("root")
    assert (await me(local))["user"] == "root"
    await openid.start()
    assert (await browser.get(await signed_in(browser, "ann"))).status_code == 303


async def test_who_is_in_stays_in_while_the_provider_is_away_until_the_session_ends(
    web: Site, openid: RealProvider
) -> None:
    browser, _answer = await log_in(web)
    await openid.stop()
    assert (await me(browser))["user"] == "ann"
    await web.access.flush()
    await web.access.database.write(lambda tx: tx.run("UPDATE sessions SET seen_s = seen_s - 50000"))
    web.access._forget()
    assert (await browser.get("/api/v1/me")).status_code == 401
    page = await browser.get("/targets/shop", headers={"accept": "text/html"})
    assert page.headers["location"] == "/login?next=%2Ftargets%2Fshop"


@pytest.mark.parametrize(("skew_s", "status"), [(50, 303), (-50, 303), (900, 403), (-420, 403)])
async def test_clocks_that_differ(web: Site, openid: RealProvider, skew_s: int, status: int) -> None:
    openid.skew_s = skew_s
    await openid.restart()
    answer = (await log_in(web))[1]
    assert answer.status_code == status
    if status == 403:
        assert "clock" in answer.text, "what to look at is said"


async def test_a_redirect_that_the_provider_does_not_know_leads_nowhere(web: Site, openid: RealProvider) -> None:
    openid.redirect_uris = ["https://elsewhere.example/login/oidc/callback"]
    await openid.restart()
    browser = await web.client()
    answer = await until(browser, await browser.get("/login/oidc"), "")
    assert (answer.status_code, "redirect_uri" in answer.text) == (400, True)


async def test_a_wrong_client_secret_is_said_without_it(tmp_path: Path, openid: RealProvider) -> None:
    wrong = AccessOptions(oidc=OidcOptions(issuer=openid.issuer, client_id=CLIENT, client_secret="not-the-secret"))
    async with site(tmp_path, wrong) as one:
        await one.user("root", "admin")
        openid.redirect_uris = [f"{one.url}/login/oidc/callback"]
        await openid.start()
        answer = (await log_in(one))[1]
        assert (answer.status_code, "invalid_client" in answer.text) == (403, True)
        assert "not-the-secret" not in answer.text + str(await one.events())


async def test_only_groups_that_may_and_users_that_are_not_disabled(tmp_path: Path, openid: RealProvider) -> None:
    async with site(tmp_path, options(openid.issuer, allow_groups=("staff",))) as one:
        await one.user("root", "admin")
        openid.redirect_uris = [f"{one.url}/login/oidc/callback"]
        await openid.start()
        assert (await log_in(one))[1].status_code == 403
        openid.user("ann", "staff", "ops")
        browser, answer = await log_in(one)
        assert answer.status_code == 303
        await one.access.set_disabled(LOCAL, "ann", disabled=True)
        assert (await browser.get("/api/v1/me")).status_code == 401
        assert (await log_in(one))[1].status_code == 403
