"""Login at a real OpenID provider, an honest one and ones that lie."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.access import LOCAL, Site, site
from tests.openid import CLIENT, SECRET, Provider, path_of, provider

from dogwatch.access.options import AccessOptions, Binding, OidcOptions

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
async def openid() -> AsyncIterator[Provider]:
    async with provider() as one:
        yield one


def options(issuer: str, **more: Any) -> AccessOptions:
    oidc = OidcOptions(issuer=issuer, client_id=CLIENT, client_secret=SECRET, title="Example Corp", **more)
    return AccessOptions(oidc=oidc, bindings=(Binding(group="ops", roles=("operator",)),))


@pytest.fixture
async def web(tmp_path: Path, openid: Provider) -> AsyncIterator[Site]:
    async with site(tmp_path, options(openid.issuer)) as one:
        await one.user("root", "admin")
        yield one


async def begin(web: Site, browser: httpx.AsyncClient, target: str = "/") -> str:
    """Return where the provider sends the browser back to."""
    answer = await browser.get("/login/oidc", params={"next": target})
    assert answer.status_code == 303, answer.text
    async with httpx.AsyncClient(trust_env=False) as outside:
        back = await outside.get(answer.headers["location"])
    assert back.status_code == 302
    return path_of(back.headers["location"])


async def log_in(web: Site, browser: httpx.AsyncClient | None = None) -> tuple[httpx.AsyncClient, httpx.Response]:
    browser = browser or await web.client()
    return browser, await browser.get(await begin(web, browser))


async def test_groups_become_roles(web: Site, openid: Provider) -> None:
    browser = await web.client()
    assert "Example Corp" in (await browser.get("/login")).text
    answer = await browser.get(await begin(web, browser, "/targets/shop"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/targets/shop")
    me = (await browser.get("/api/v1/me")).json()
    assert (me["user"], me["roles"]) == ("ann", ["operator"])
    asked = openid.asked[0]
    assert asked["code_challenge"]
    assert asked["redirect_uri"] == f"{web.url}/login/oidc/callback"
    # What the provider says at the next login holds.
    openid.user = {**openid.user, "groups": []}
    await log_in(web, browser)
    assert (await browser.get("/api/v1/me")).json()["roles"] == []
    events = [(str(e.event.actor), e.event.verb) for e in reversed(await web.events(noun="user", name="ann"))]
    assert events == [("oidc:ann", "create"), ("user:ann", "login"), ("oidc:ann", "change"), ("user:ann", "login")]


LIES: dict[str, tuple[Change, str]] = {
    "another audience": (lambda claims: {**claims, "aud": "other"}, "aud"),
    "another's among audiences": (
        lambda claims: {**claims, "aud": [CLIENT, "other"], "azp": "other"},
        "another program",
    ),
    "audiences without azp": (lambda claims: {**claims, "aud": [CLIENT, "other"]}, "another program"),
    "no audience": (lambda claims: {key: one for key, one in claims.items() if key != "aud"}, "aud"),
    "expired": (lambda claims: {**claims, "exp": int(time.time()) - 120}, "expired"),
    "no expiry": (lambda claims: {key: one for key, one in claims.items() if key != "exp"}, "exp"),
    "another issuer": (lambda claims: {**claims, "iss": "https://evil.example"}, "iss"),
    "another nonce": (lambda claims: {**claims, "nonce": "replayed"}, "another login"),
    "no nonce": (lambda claims: {key: one for key, one in claims.items() if key != "nonce"}, "another login"),
    "no subject": (lambda claims: {key: one for key, one in claims.items() if key != "sub"}, "sub"),
    "issued tomorrow": (lambda claims: {**claims, "iat": int(time.time()) + 86400}, "future"),
}


async def refused(web: Site, browser: httpx.AsyncClient, answer: httpx.Response, word: str) -> None:
    assert answer.status_code == 403, answer.text
    assert word in answer.text
    assert (await browser.get("/api/v1/me")).status_code == 401
    assert (await web.events(verb="login"))[0].event.outcome == "refused"
    assert "ann" not in str(await web.users())


@pytest.mark.parametrize(("lie", "word"), LIES.values(), ids=LIES)
async def test_tokens_that_are_not_for_this_login_are_refused(
    web: Site, openid: Provider, lie: Change, word: str
) -> None:
    openid.change = lie
    await refused(web, *await log_in(web), word)


@pytest.mark.parametrize(
    "forge", ["unsigned", "signed_with_public_key", "signed_with_client_secret", "signed_by_another"]
)
async def test_tokens_that_the_provider_did_not_sign_are_refused(web: Site, openid: Provider, forge: str) -> None:
    openid.forge = getattr(openid, forge)
    await refused(web, *await log_in(web), "does not hold")


async def test_an_answer_is_good_once(web: Site, openid: Provider) -> None:
    browser = await web.client()
    back = await begin(web, browser)
    assert (await browser.get(back)).status_code == 303
    again = await browser.get(back)
    assert (again.status_code, "not under way" in again.text) == (403, True)
    # The provider, too, takes a code once: with another state it is refused there.
    other = await begin(web, browser)
    code = re.search(r"code=([^&]+)", back)
    assert code
    replayed = await browser.get(re.sub(r"code=[^&]+", f"code={code[1]}", other))
    assert (replayed.status_code, "does not take its code" in replayed.text) == (403, True)


async def test_an_answer_is_good_in_the_browser_that_asked(web: Site) -> None:
    """Login CSRF: an attacker's answer, opened in somebody else's browser."""
    attacker, victim = await web.client(), await web.client()
    back = await begin(web, attacker)
    await victim.get("/login")
    await refused(web, victim, await victim.get(back), "not under way")


async def test_an_answer_is_good_for_ten_minutes(web: Site) -> None:
    browser = await web.client()
    back = await begin(web, browser)
    await web.access.database.write(lambda tx: tx.run("UPDATE oidc_logins SET created_s = created_s - 601"))
    assert (await browser.get(back)).status_code == 403


async def test_a_state_that_was_guessed_is_refused(web: Site) -> None:
    browser = await web.client()
    back = await begin(web, browser)
    assert (await browser.get(re.sub(r"state=[^&]+", "state=guess", back))).status_code == 403
    assert (await browser.get("/login/oidc/callback")).status_code == 403
    refusal = await browser.get(back.split("?")[0], params={"error": "access_denied", "state": "x"})
    assert refusal.status_code == 403


async def test_new_keys_of_the_provider_are_fetched(web: Site, openid: Provider) -> None:
    assert (await log_in(web))[1].status_code == 303
    openid.new_key()
    provider_ = web.access.provider()
    assert provider_
    provider_._keys_at_s -= 60
    assert (await log_in(web))[1].status_code == 303


async def test_claims_come_from_userinfo_where_the_token_has_none(web: Site, openid: Provider) -> None:
    openid.in_userinfo = {"groups", "preferred_username"}
    browser, _answer = await log_in(web)
    assert (await browser.get("/api/v1/me")).json()["roles"] == ["operator"]
    openid.userinfo_sub = "8"
    openid.user = {**openid.user, "sub": "9", "preferred_username": "eve"}
    other, answer = await log_in(web)
    # Somebody else's answer is not used: no groups, and for a name the subject.
    assert answer.status_code == 303
    assert (await other.get("/api/v1/me")).json() | {"permissions": {}} == {
        "actor": "user:9",
        "how": "session",
        "user": "9",
        "roles": [],
        "permissions": {},
    }


async def test_a_name_that_is_taken_is_not_taken_over(web: Site, openid: Provider) -> None:
    openid.user = {**openid.user, "preferred_username": "root"}
    answer = (await log_in(web))[1]
    assert (answer.status_code, "another user" in answer.text) == (409, True)
    # One who is renamed at the provider stays who it was here.
    openid.user = {**openid.user, "preferred_username": "ann"}
    await log_in(web)
    openid.user = {**openid.user, "preferred_username": "root"}
    browser, _answer = await log_in(web)
    assert (await browser.get("/api/v1/me")).json()["user"] == "ann"


async def test_only_members_may_log_in(tmp_path: Path, openid: Provider) -> None:
    async with site(tmp_path, options(openid.issuer, allow_groups=("staff",))) as one:
        await one.user("root", "admin")
        assert (await log_in(one))[1].status_code == 403
        openid.user = {**openid.user, "groups": ["staff"]}
        assert (await log_in(one))[1].status_code == 303


async def test_a_disabled_user_stays_out(web: Site) -> None:
    await log_in(web)
    await web.access.set_disabled(LOCAL, "ann", disabled=True)
    browser, answer = await log_in(web)
    assert answer.status_code == 403
    assert (await browser.get("/api/v1/me")).status_code == 401


async def test_a_provider_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    async with site(tmp_path, options("http://127.0.0.1:9")) as one:
        await one.user("root", "admin")
        answer = await (await one.client()).get("/login/oidc")
        assert (answer.status_code, "cannot ask the OpenID provider" in answer.text) == (503, True)


async def test_a_provider_that_calls_itself_otherwise_is_refused(tmp_path: Path, openid: Provider) -> None:
    async with site(tmp_path, options(openid.issuer + "/")) as one:
        await one.user("root", "admin")
        answer = await (await one.client()).get("/login/oidc")
        assert "calls itself" in answer.text
