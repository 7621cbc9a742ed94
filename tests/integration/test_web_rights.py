"""What one may see and change over HTTP, by label and permission; administration."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.access import PASSWORD, Site, log_in, site
from tests.web_rights import SHOP

from dogwatch.access.actor import Actor
from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule


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
