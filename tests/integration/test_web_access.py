"""Who gets in, what that one sees, and what is written of it: a real server over a real state database."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.access import LOCAL, PASSWORD, Site, log_in, site

from dogwatch.access.actor import Actor
from dogwatch.access.options import AccessOptions, Lockout, SessionOptions
from dogwatch.access.permissions import Rule

SHOP = {"team": "till"}
OPTIONS = AccessOptions(
    roles={
        "shop": (Rule(nouns=("probe", "host"), verbs=("read", "run"), labels=SHOP),),
        "shop-audit": (Rule(nouns=("audit",), verbs=("read",), labels=SHOP),),
        "hr": (Rule(nouns=("user",), verbs=("read", "create", "change")),),
    }
)


def label(one: Site, *names: str) -> None:
    """Give targets the label team=till."""
    for name in names:
        one.program.watch.replace(name, labels=SHOP)


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with three users; `shop` and `login` carry team=till."""
    async with site(tmp_path, OPTIONS) as one:
        await one.user("rosa", "admin")
        await one.user("ann", "operator")
        await one.user("sam", "shop")
        label(one, "shop", "login")
        yield one


# -- this machine, until there are users -------------------------------------------------------------------------------


async def test_on_loopback_without_users_this_machine_may_do_everything(tmp_path: Path) -> None:
    async with site(tmp_path) as one:
        client = await one.client()
        assert (await client.get("/")).status_code == 200
        assert (await client.post("/api/v1/targets/shop/pause")).status_code == 200
        newest = (await one.events())[0].event
        assert (str(newest.actor), newest.verb, newest.outcome) == ("local:console", "pause", "done")
        # Not through a proxy, which speaks for others.
        forwarded = await client.get("/api/v1/status", headers={"x-forwarded-for": "192.0.2.1"})
        assert forwarded.status_code == 401
        await one.user("rosa", "admin")
        assert (await client.get("/api/v1/status")).status_code == 401
        page = await client.get("/?q=a%20b", headers={"accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2F%3Fq%3Da%2520b")


async def test_beyond_loopback_a_user_must_exist(tmp_path: Path) -> None:
    async with site(tmp_path, listen=":8410") as one:
        client = await one.client()
        answer = await client.get("/api/v1/status")
        assert (answer.status_code, "not set up" in answer.json()["detail"]) == (401, True)
        page = await client.get("/", headers={"accept": "text/html"})
        assert page.headers["location"] == "/setup"
        code = one.access.need_setup()
        form = (await client.get("/setup")).text
        token = form.split('name="form_token" value="')[1].split('"')[0]
        fields = {"form_token": token, "name": "Root", "password": PASSWORD}
        wrong = await client.post("/setup", data={**fields, "code": "x" * 20})
        assert wrong.status_code == 403
        weak = await client.post("/setup", data={**fields, "code": code, "password": "short"})
        assert weak.status_code == 400
        assert (await client.post("/setup", data={**fields, "code": code})).status_code == 303
        assert (await client.get("/api/v1/me")).json()["roles"] == ["admin"]
        # Once only.
        other = await one.client()
        assert (await other.get("/setup")).headers["location"] == "/login"
        assert one.access.need_setup() == ""
        assert [(e.event.verb, e.event.outcome) for e in reversed(await one.events(noun="user"))] == [
            ("create", "refused"),
            ("create", "done"),
            ("login", "done"),
        ]


async def test_writes_nobody_leaves_this_machine_a_viewer(tmp_path: Path) -> None:
    async with site(tmp_path, writes="nobody") as one:
        client = await one.client()
        assert (await client.get("/api/v1/targets")).status_code == 200
        assert (await client.post("/api/v1/targets/shop/pause")).status_code == 403
        assert [(e.event.verb, e.event.outcome) for e in await one.events()] == [("change", "refused")]


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_a_login_makes_a_session_and_a_logout_ends_it(web: Site) -> None:
    ann = await web.browser("ann")
    assert (await ann.get("/api/v1/me")).json()["user"] == "ann"
    assert (await ann.post("/api/v1/targets/shop/pause")).status_code == 200
    assert [str(e.event.actor) for e in await web.events(verb="pause")] == ["user:ann", "user:ann"]
    cookie = ann.cookies["dogwatch_session"]
    page = (await ann.get("/")).text
    assert (await ann.post("/logout", data={"csrf": "wrong"})).headers["location"] == "/"
    assert (await ann.get("/api/v1/me")).status_code == 200
    csrf = page.split('name="csrf" content="')[1].split('"')[0]
    assert (await ann.post("/logout", data={"csrf": csrf})).headers["location"] == "/login"
    stolen = await web.client(cookies={"dogwatch_session": cookie})
    assert (await stolen.get("/api/v1/me")).status_code == 401


async def test_cookies_are_kept_from_scripts_and_other_sites(web: Site) -> None:
    client = await web.client()
    answer = await log_in(client, "ann", PASSWORD)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie
    assert PASSWORD not in answer.text
    page = await client.get("/")
    assert page.headers["cache-control"] == "private, no-store"


async def test_a_session_cannot_be_fixed_before_the_login(web: Site) -> None:
    victim = await web.client(cookies={"dogwatch_session": "attackers-choice"})
    await log_in(victim, "ann", PASSWORD)
    assert victim.cookies.get("dogwatch_session", domain="127.0.0.1") or True
    attacker = await web.client(cookies={"dogwatch_session": "attackers-choice"})
    assert (await attacker.get("/api/v1/me")).status_code == 401
    # A second login in the same browser ends the first session.
    ann = await web.browser("ann")
    first = ann.cookies["dogwatch_session"]
    await log_in(ann, "ann", PASSWORD)
    assert ann.cookies["dogwatch_session"] != first
    assert (await (await web.client(cookies={"dogwatch_session": first})).get("/api/v1/me")).status_code == 401


async def test_changes_need_the_sessions_token(web: Site) -> None:
    ann = await web.browser("ann")
    token = ann.headers.pop("x-csrf-token")
    assert (await ann.post("/api/v1/targets/shop/pause")).status_code == 403
    other = await web.browser("ann")
    foreign = {"x-csrf-token": other.headers["x-csrf-token"]}
    assert (await ann.post("/api/v1/targets/shop/pause", headers=foreign)).status_code == 403
    assert web.program.watch.target("shop").status == "up"
    crossing = {"x-csrf-token": token, "origin": "https://evil.example"}
    assert (await ann.post("/api/v1/targets/shop/pause", headers=crossing)).status_code == 403
    assert (await ann.post("/api/v1/targets/shop/pause", headers={"x-csrf-token": token})).status_code == 200


async def test_a_login_form_of_another_site_is_refused(web: Site) -> None:
    client = await web.client()
    data = {"name": "ann", "password": PASSWORD, "form_token": ""}
    assert (await client.post("/login", data=data)).status_code == 403
    await client.get("/login")
    assert (await client.post("/login", data={**data, "form_token": "guess"})).status_code == 403


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        ("/targets/shop?range=7d", "/targets/shop?range=7d"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("/a\r\nset-cookie: x=y", "/"),
        ("/login?next=/login", "/"),
    ],
)
async def test_after_the_login_one_stays_on_this_site(web: Site, wanted: str, place: str) -> None:
    answer = await log_in(await web.client(), "ann", PASSWORD, next=wanted)
    assert answer.headers["location"] == place
    assert "x=y" not in answer.headers["set-cookie"]


async def test_sessions_end_when_idle_and_after_their_longest_time(tmp_path: Path) -> None:
    options = AccessOptions(sessions=SessionOptions(idle=3600, longest=7200))
    async with site(tmp_path, options) as one:
        await one.user("rosa", "admin")
        for change in ("seen_s = seen_s - 3601", "created_s = created_s - 7201"):
            client = await one.browser("rosa")
            await one.access.flush()
            await one.access.database.write(lambda tx, change=change: tx.run(f"UPDATE sessions SET {change}"))
            one.access._forget()
            assert (await client.get("/api/v1/me")).status_code == 401


async def test_use_keeps_a_session_alive(web: Site) -> None:
    ann = await web.browser("ann")
    await web.access.database.write(lambda tx: tx.run("UPDATE sessions SET seen_s = seen_s - 40000"))
    assert (await ann.get("/api/v1/me")).status_code == 200
    await web.access.flush()
    web.access._forget()
    seen = await web.access.database.read(lambda tx: tx.rows("SELECT created_s - seen_s FROM sessions"))
    assert all(float(row[0] or 0) < 60 for row in seen)


@pytest.mark.parametrize("change", ["password", "disable", "delete", "roles"])
async def test_what_changes_about_a_user_holds_at_once(web: Site, change: str) -> None:
    ann, token = await web.browser("ann"), await web.client(token=await web.token("operator", owner="ann"))
    assert (await ann.get("/api/v1/targets")).status_code == 200
    assert (await token.get("/api/v1/targets")).status_code == 200
    if change == "password":
        await web.access.set_password(LOCAL, "ann", "another good password")
    elif change == "disable":
        await web.access.set_disabled(LOCAL, "ann", disabled=True)
    elif change == "delete":
        await web.access.delete_user(LOCAL, "ann")
    else:
        await web.access.set_roles(LOCAL, "ann", [])
    assert (await ann.get("/api/v1/targets")).status_code == (403 if change == "roles" else 401)
    expected = {"password": 200, "roles": 403}.get(change, 401)
    assert (await token.get("/api/v1/targets")).status_code == expected


# -- guessing ----------------------------------------------------------------------------------------------------------


async def test_failed_logins_cost_time(tmp_path: Path) -> None:
    options = AccessOptions(lockout=Lockout(failures=3, first=100, most=1000))
    async with site(tmp_path, options) as one:
        await one.user("rosa", "admin")
        await one.user("ann", "viewer")
        client = await one.client()
        statuses = [(await log_in(client, "rosa", f"wrong {n}")).status_code for n in range(5)]
        assert statuses == [403, 403, 403, 503, 503]
        right = await log_in(client, "rosa", PASSWORD)
        assert right.status_code == 503
        assert "nothing is tried now" in right.text
        # Somebody else, even from the same address, is not kept out by it.
        assert (await log_in(client, "ann", PASSWORD)).status_code == 303
        await one.access.database.write(lambda tx: tx.run("UPDATE lockouts SET until_s = 0"))
        assert (await log_in(client, "rosa", PASSWORD)).status_code == 303
        refused = await one.events(verb="login", outcome="refused")
        assert [e.event.subject.name for e in refused] == ["rosa"] * 3
        assert "wrong" not in json.dumps([msgspec.to_builtins(e) for e in refused]).replace(
            "wrong name or password", ""
        )


async def test_many_guesses_at_once_are_no_more_than_one_after_another(tmp_path: Path) -> None:
    async with site(tmp_path, AccessOptions(lockout=Lockout(failures=3, first=100, most=1000))) as one:
        await one.user("rosa", "admin")
        body = {"name": "rosa", "password": "guess"}
        client = await one.client()
        answers = await asyncio.gather(*(client.post("/api/v1/login", json=body) for _ in range(12)))
        assert sorted(answer.status_code for answer in answers) == [403] * 3 + [503] * 9
        assert "retry-after" in next(a for a in answers if a.status_code == 503).headers


async def test_one_address_cannot_try_many_names(tmp_path: Path) -> None:
    async with site(tmp_path, AccessOptions(lockout=Lockout(failures=1, first=100, most=1000))) as one:
        await one.user("rosa", "admin")
        client = await one.client()
        tries = [
            (await client.post("/api/v1/login", json={"name": f"u{n}", "password": "x"})).status_code for n in range(6)
        ]
        assert tries == [403] * 4 + [503] * 2


async def test_an_unknown_user_is_told_the_same_and_takes_as_long(web: Site) -> None:
    client = await web.client()
    hashes: list[str] = []
    matches = web.access.passwords._matches
    web.access.passwords._matches = lambda password, known: hashes.append(known) or matches(password, known)  # type: ignore[method-assign,func-returns-value]
    known = await client.post("/api/v1/login", json={"name": "ann", "password": "nope"})
    unknown = await client.post("/api/v1/login", json={"name": "nobody", "password": "nope"})
    assert known.json() == unknown.json()
    assert len(hashes) == 2, "both are checked against a hash"
    assert hashes[1] == ""


async def test_strangers_cannot_fill_the_trail(web: Site) -> None:
    client = await web.client()
    began_s = time.monotonic()
    for _ in range(3):
        await asyncio.gather(*(client.post("/api/v1/targets/shop/pause") for _ in range(40)))
    refused = await web.events(outcome="refused")
    # Sixty at once, and one a second.
    assert 60 <= len(refused) <= 62 + time.monotonic() - began_s
    assert len(refused) < 120
    assert len(refused) + web.access.unrecorded == 120


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_tokens_expire_and_are_revoked_and_tell_their_last_use(web: Site) -> None:
    ann = await web.browser("ann")
    made = (await ann.post("/api/v1/tokens", json={"name": "ci", "roles": ["viewer"]})).json()
    assert made["secret"].startswith("dw_")
    ci = await web.client(token=made["secret"])
    assert (await ci.get("/api/v1/targets")).status_code == 200
    assert (await ci.post("/api/v1/targets/shop/pause")).status_code == 403
    await web.access.flush()
    listed = (await ann.get("/api/v1/tokens")).json()["items"]
    assert [(one["name"], one["used_from"], one["used_s"] > 0) for one in listed] == [("ci", "127.0.0.1", True)]
    kept = await web.access.database.read(lambda tx: tx.rows("SELECT * FROM tokens"))
    assert made["secret"] not in str(kept), "only its digest is kept"
    await ann.post(f"/api/v1/tokens/{made['token']['id']}/revoke")
    assert (await ci.get("/api/v1/targets")).status_code == 401
    short = (await ann.post("/api/v1/tokens", json={"name": "short", "expires_after_s": 0.001})).json()
    assert (await (await web.client(token=short["secret"])).get("/api/v1/targets")).status_code == 401


async def test_a_token_can_do_no_more_than_its_owner(web: Site) -> None:
    ann = await web.browser("ann")
    answer = await ann.post("/api/v1/tokens", json={"name": "up", "roles": ["admin"]})
    assert answer.status_code == 403
    sam = await web.browser("sam")
    assert (await sam.post("/api/v1/tokens", json={"name": "all", "roles": ["viewer"]})).status_code == 403
    secret = await web.token("operator", owner="ann")
    await web.access.set_roles(LOCAL, "ann", ["viewer"])
    assert (await (await web.client(token=secret)).post("/api/v1/targets/shop/pause")).status_code == 403


async def test_others_tokens_are_nobodys_business(web: Site) -> None:
    ann, rosa = await web.browser("ann"), await web.browser("rosa")
    made = (await rosa.post("/api/v1/tokens", json={"name": "deploy"})).json()
    assert (await ann.get("/api/v1/tokens")).json()["items"] == []
    assert (await ann.post(f"/api/v1/tokens/{made['token']['id']}/revoke")).status_code == 404
    assert (await rosa.post(f"/api/v1/tokens/{made['token']['id']}/revoke")).status_code == 200


@pytest.mark.parametrize("header", ["Bearer", "Bearer x", "Basic cm9vdDpyb290", "Bearer dw_", "Bearer " + "x" * 5000])
async def test_a_token_that_is_none_is_nobody(web: Site, header: str) -> None:
    client = await web.client(headers={"authorization": header})
    assert (await client.get("/api/v1/targets")).status_code == 401


# -- what is seen ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def sam(web: Site) -> httpx.AsyncClient:
    """Sees team=till only, and may run it."""
    return await web.client(token=await web.token("shop"))


async def test_what_may_not_be_seen_is_in_no_list_and_no_count(web: Site, sam: httpx.AsyncClient) -> None:
    page = (await sam.get("/api/v1/targets")).json()
    assert [one["name"] for one in page["items"]] == ["shop", "login"]
    assert page["total"] == 2
    assert sum(page["counts"].values()) == 2
    status = (await sam.get("/api/v1/status")).json()
    assert sum(status["targets"].values()) == 2
    assert status["wrong"] == []
    assert status["hosts"] == 0
    assert (await sam.get("/api/v1/targets?q=db")).json()["total"] == 0
    assert {one["target"] for one in (await sam.get("/api/v1/transitions")).json()["items"]} <= {"shop", "login"}
    assert (await sam.get("/api/v1/hosts")).json()["items"] == []


@pytest.mark.parametrize("part", ["", "/history", "/results", "/failures", "/transitions", "/availability"])
async def test_what_may_not_be_seen_is_not_found_and_not_hinted_at(sam: httpx.AsyncClient, part: str) -> None:
    hidden = await sam.get(f"/api/v1/targets/db-1{part}")
    nothing = await sam.get(f"/api/v1/targets/db-9{part}")
    assert hidden.status_code == nothing.status_code == 404
    assert hidden.json()["detail"].replace("db-1", "db-9") == nothing.json()["detail"]
    assert "db-" not in hidden.json()["hint"]


async def test_pages_show_what_may_be_seen(web: Site, sam: httpx.AsyncClient) -> None:
    html = {"accept": "text/html"}
    page = (await sam.get("/", headers=html)).text
    assert "shop" in page
    for hidden in ("db-1", "resolver", "nightly-backup", "shop/checkout"):
        assert f">{hidden}<" not in page, hidden
        assert (await sam.get(f"/targets/{hidden.replace('/', '%2F')}", headers=html)).status_code == 404
    rows = await sam.get("/fragments/rows", params={"target": ["shop", "db-1"]})
    assert "shop" in rows.text
    assert "db-1" not in rows.text
    assert (await sam.get("/audit", headers=html)).status_code == 403
    assert 'href="/audit"' not in page


async def test_metrics_tell_of_what_may_be_seen(web: Site, sam: httpx.AsyncClient) -> None:
    text = (await sam.get("/metrics")).text
    assert 'target="shop"' in text
    for line in text.splitlines():
        if line and not line.startswith("#") and not line.startswith("dogwatch_web_"):
            assert 'target="shop"' in line or 'target="login"' in line, line
    whole = (await (await web.client(token=await web.token("admin"))).get("/metrics")).text
    assert 'target="db-1"' in whole


async def test_events_tell_of_what_may_be_seen(web: Site, sam: httpx.AsyncClient) -> None:
    async with sam.stream("GET", "/api/v1/events", timeout=10) as stream:
        seen = []
        async for line in stream.aiter_lines():
            if line == ": hello":
                web.program.publish_result("db-1")
                web.program.publish_result("shop")
            if line.startswith("data: ") and "target" in line:
                seen.append(json.loads(line.removeprefix("data: "))["target"])
                break
    assert seen == ["shop"]


async def test_a_stream_ends_with_the_token_that_opened_it(web: Site) -> None:
    rosa = await web.browser("rosa")
    made = (await rosa.post("/api/v1/tokens", json={"name": "live", "roles": ["viewer"]})).json()
    other = await web.client(token=await web.token("viewer"))
    live = await web.client(token=made["secret"])
    async with live.stream("GET", "/api/v1/events") as stream, other.stream("GET", "/api/v1/events") as stays:
        lines, more = stream.aiter_lines(), stays.aiter_lines()
        assert await anext(lines)
        assert await anext(more)
        assert (await rosa.post(f"/api/v1/tokens/{made['token']['id']}/revoke")).status_code == 200
        async with asyncio.timeout(60):
            async for _line in lines:
                pass  # until the server ends it, with its next beat
            async for line in more:
                if line == "event: beat":
                    break
        web.program.publish_result("shop")
        async with asyncio.timeout(60):
            async for line in more:
                if line == "event: result":
                    break
    assert (await live.get("/api/v1/me")).status_code == 401


async def test_whoever_is_limited_to_labels_has_no_tokens_but_their_own(tmp_path: Path) -> None:
    """Tokens have no labels: a role for all nouns of one label is about none of others'."""
    roles = {"all-of-shop": (Rule(nouns=("*",), verbs=("*",), labels=SHOP),)}
    async with site(tmp_path, AccessOptions(roles=roles)) as one:
        await one.user("rosa", "admin")
        await one.user("sam", "all-of-shop")
        rosa, sam = await one.browser("rosa"), await one.browser("sam")
        made = (await rosa.post("/api/v1/tokens", json={"name": "deploy"})).json()["token"]["id"]
        assert (await sam.get("/api/v1/tokens")).json()["items"] == []
        assert (await sam.get(f"/api/v1/tokens/{made}")).status_code == 404
        assert "deploy" not in (await sam.get("/tokens", headers={"accept": "text/html"})).text
        assert (await sam.post(f"/api/v1/tokens/{made}/revoke")).status_code == 404
        assert "deploy" in (await rosa.get("/tokens", headers={"accept": "text/html"})).text


async def test_rights_are_about_the_thing_too(web: Site, sam: httpx.AsyncClient) -> None:
    assert (await sam.post("/api/v1/targets/shop/run")).status_code == 200
    assert (await sam.post("/api/v1/targets/db-1/run")).status_code == 404
    assert (await sam.post("/api/v1/targets/shop/pause")).status_code == 403
    assert (await sam.post("/api/v1/reload")).status_code == 403
    events = [
        (e.event.verb, e.event.subject.name, e.event.outcome) for e in reversed(await web.events(actor="token:test"))
    ]
    assert ("run", "shop", "begun") in events
    assert ("run", "shop", "done") in events
    assert ("change", "/api/v1/reload", "refused") in events


async def test_the_trail_shows_events_on_what_may_be_seen(web: Site) -> None:
    rosa = await web.client(token=await web.token("admin"))
    for name in ("shop", "db-1"):
        await rosa.post(f"/api/v1/targets/{name}/run")
    some = await web.client(token=await web.token("shop-audit"))
    items = (await some.get("/api/v1/audit")).json()["items"]
    assert {item["event"]["subject"]["name"] for item in items} == {"shop"}
    export = (await some.get("/api/v1/audit/export")).text
    assert "db-1" not in export
    assert (await some.post("/api/v1/audit/verify", json={})).status_code == 403
    verdict = (await rosa.post("/api/v1/audit/verify", json={})).json()
    assert verdict["broken"] is None


# -- administration ----------------------------------------------------------------------------------------------------


async def test_nobody_gives_rights_that_it_has_not(web: Site) -> None:
    await web.user("hanna", "hr")
    hanna = await web.browser("hanna")
    new = {"name": "eve", "password": PASSWORD, "roles": ["admin"]}
    assert (await hanna.post("/api/v1/users", json=new)).status_code == 403
    assert (await hanna.post("/api/v1/users/hanna/roles", json={"roles": ["admin"]})).status_code == 403
    assert (await hanna.post("/api/v1/users/rosa/password", json={"password": PASSWORD})).status_code == 403
    assert (await hanna.post("/api/v1/users", json={**new, "roles": ["hr"]})).status_code == 201


async def test_an_admin_stays(web: Site) -> None:
    rosa = await web.browser("rosa")
    for path, body in (("disable", None), ("roles", {"roles": ["viewer"]})):
        answer = await rosa.post(f"/api/v1/users/rosa/{path}", json=body)
        assert (answer.status_code, "nobody would be left" in answer.text) == (409, True)
    assert (await rosa.delete("/api/v1/users/rosa")).status_code == 409


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "ann"}, "already"),
        ({"name": "x1", "password": "short"}, "shorter"),
        ({"name": "marianne", "password": "marianne-marianne"}, "guess"),
        ({"name": "x1", "password": "aaaaaaaaaaaaaaa"}, "guess"),
        ({"name": "x1", "roles": ["king"]}, "king"),
    ],
)
async def test_users_that_cannot_be(web: Site, body: dict[str, Any], word: str) -> None:
    rosa = await web.browser("rosa")
    answer = await rosa.post("/api/v1/users", json={"password": PASSWORD, **body})
    assert answer.status_code in (400, 409)
    assert word in answer.text
    assert PASSWORD not in answer.text


async def test_one_changes_ones_own_password_with_the_old_one(web: Site) -> None:
    ann = await web.browser("ann")
    new = "another good password"
    assert (await ann.post("/api/v1/me/password", json={"password": new, "current": "no"})).status_code == 403
    assert (await ann.post("/api/v1/me/password", json={"password": new, "current": PASSWORD})).status_code == 200
    assert (await ann.get("/api/v1/me")).status_code == 401
    assert (await log_in(await web.client(), "ann", new)).status_code == 303


async def test_no_password_stands_anywhere(web: Site, tmp_path: Path) -> None:
    rosa = await web.browser("rosa")
    await rosa.post("/api/v1/users", json={"name": "eve", "password": PASSWORD})
    assert "argon2id" in str(await web.users())
    assert "argon2" not in (await rosa.get("/api/v1/users")).text
    for file in await asyncio.to_thread(lambda: list(tmp_path.glob("state.db*"))):
        assert PASSWORD.encode() not in file.read_bytes()


async def test_pages_of_administration(web: Site) -> None:
    rosa = await web.browser("rosa")
    await rosa.post("/api/v1/tokens", json={"name": "<b>ci</b>", "labels": {"team": "shop"}})
    for path, word in (
        ("/users", "ann"),
        ("/tokens", "&lt;b&gt;ci"),
        ("/audit", "user:rosa"),
        ("/audit?q=verb:login", "login"),
    ):
        page = await rosa.get(path, headers={"accept": "text/html"})
        assert page.status_code == 200
        assert word in page.text
        assert "<b>ci" not in page.text
    ann = await web.browser("ann")
    assert (await ann.get("/users", headers={"accept": "text/html"})).status_code == 403
    assert (await ann.get("/tokens", headers={"accept": "text/html"})).status_code == 200


# -- no audit, no change -----------------------------------------------------------------------------------------------


async def test_without_its_event_nothing_is_changed(web: Site) -> None:
    rosa = await web.client(token=await web.token("admin"))
    await web.access.database.write(lambda tx: tx.run("DELETE FROM audit_tail"))
    answer = await rosa.post("/api/v1/targets/shop/pause")
    assert answer.status_code == 502
    assert web.program.watch.target("shop").status == "up"
    answer = await rosa.post("/api/v1/users", json={"name": "eve", "password": PASSWORD})
    assert answer.status_code == 502
    assert "eve" not in str(await web.users())


async def test_a_change_that_fails_is_said_to_have_failed(web: Site) -> None:
    rosa = await web.client(token=await web.token("admin"))
    web.program.reload.problems = ("dogwatch.yaml:3: no",)
    await rosa.post("/api/v1/reload")
    first, second = (e.event for e in reversed(await web.events(verb="reload")))
    assert (first.outcome, second.outcome, second.reason) == ("begun", "failed", "dogwatch.yaml:3: no")


# -- runs --------------------------------------------------------------------------------------------------------------


async def test_runs_and_jobs_of_others_are_not_there(tmp_path: Path) -> None:
    teams = {
        "shop-runs": (Rule(nouns=("run", "job"), verbs=("read", "run"), labels={"team": "shop"}),),
        "reader": (Rule(nouns=("run", "job")), Rule(nouns=("run",), verbs=("cancel",), labels={"team": "shop"})),
    }
    async with site(tmp_path, AccessOptions(roles=teams)) as one:
        runs: Any = one.program.runs
        for number in range(30):
            labels = {"team": "blog"} if number % 3 else {"team": "shop"}
            runs.put(f"run-{number:02}", labels=labels, created_s=one.program.clock.now_s() - number)
        client = await one.client(token=await one.token("shop-runs"))
        listed = (await client.get("/api/v1/runs", params={"limit": 8})).json()
        assert len(listed["items"]) == 8
        more = (await client.get("/api/v1/runs", params={"limit": 8, "cursor": listed["next_cursor"]})).json()
        names = [run["run_id"] for run in listed["items"] + more["items"]]
        assert sorted(names) == [f"run-{number:02}" for number in range(0, 30, 3)]
        for path in ("", "/steps", "/output"):
            assert (await client.get(f"/api/v1/runs/run-01{path}")).status_code == 404
            assert (await client.get(f"/api/v1/runs/run-00{path}")).status_code == 200
        html = {"accept": "text/html"}
        assert (await client.get("/runs/run-01", headers=html)).status_code == 404
        page = (await client.get("/runs", headers=html)).text
        assert "run-00" in page
        assert "run-01" not in page
        assert [job["name"] for job in (await client.get("/api/v1/jobs")).json()["items"]] == ["deploy"]
        assert (await client.get("/jobs/backup%2Fgr%C3%B6%C3%9Fe%20%3Cb%3E", headers=html)).status_code == 404
        assert (await client.post("/api/v1/runs/run-00/cancel", json={})).status_code == 403
        assert (await client.get("/api/v1/schedules")).status_code == 403
        # Seeing all is not being allowed all.
        reader = await one.client(token=await one.token("reader"))
        assert (await reader.get("/api/v1/runs/run-01")).status_code == 200
        assert (await reader.post("/api/v1/runs/run-01/cancel", json={})).status_code == 403
        async with asyncio.timeout(60):
            while not (found := await one.events(outcome="refused", noun="run")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # it is recorded once it is answered
        refused = found[0].event
        assert (refused.verb, refused.subject.noun, refused.subject.labels) == ("cancel", "run", {"team": "blog"})
        assert (await reader.post("/api/v1/runs/run-00/cancel", json={})).status_code == 200
        assert (await reader.post("/api/v1/jobs/deploy/runs", json={})).status_code == 403


async def test_two_tokens_of_one_name_are_told_apart(web: Site) -> None:
    one, two = await web.token("viewer"), await web.token("admin")
    for secret in (one, two):
        client = await web.client(token=secret)
        await client.post("/api/v1/targets/shop/pause")
    actors = {str(e.event.actor) for e in await web.events(actor="token:test#")}
    assert len(actors) == 2
    (refused,) = await web.events(outcome="refused")
    weak = str(refused.event.actor)
    assert web.access.is_in(Actor(kind="token", name=weak.removeprefix("token:")), "role:viewer")
    assert not web.access.is_in(Actor(kind="token", name=weak.removeprefix("token:")), "role:admin")


async def test_too_much_at_once_is_answered_429(tmp_path: Path) -> None:
    from dogwatch.web.options import RateOptions

    async with site(tmp_path, rate=RateOptions(max=5, per=60.0, local=True)) as web:
        await web.user("rosa", "admin")
        client = await web.client(token=await web.token("viewer"))
        answers = [await client.get("/api/v1/targets") for _ in range(7)]
        assert [one.status_code for one in answers] == [200] * 5 + [429] * 2
        assert answers[-1].headers["retry-after"] in ("12", "11", "24", "23")
        assert answers[-1].json()["code"] == "too_many"
        other = await web.client(token=await web.token("viewer"))
        assert (await other.get("/api/v1/targets")).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
