"""Who one is over HTTP: sessions, cookies, lockout, tokens."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.access import LOCAL, PASSWORD, Site, log_in, site

from dogwatch.access.options import AccessOptions, Lockout, SessionOptions


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


@pytest.fixture
async def sam(web: Site) -> httpx.AsyncClient:
    """Sees team=till only, and may run it."""
    return await web.client(token=await web.token("shop"))
