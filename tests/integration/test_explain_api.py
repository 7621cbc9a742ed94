"""Explanations over HTTP, of two teams: each sees its own incidents, actions, evidence and rules, and no others'."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.access import Site, site
from tests.remedying import Acted, probe

from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.engine.tables import engine_tables
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.remedy.evidence import Found
from dogwatch.rules.remedy.keeping import EvidenceKeeper
from dogwatch.rules.remedy.spec import BudgetSpec
from dogwatch.rules.remedy.tables import remedy_tables
from dogwatch.rules.tables import incident_tables
from dogwatch.store.state_sqlite import open_sqlite

SHOP = {"team": "shop"}
OPTIONS = AccessOptions(
    roles={
        "shop": (Rule(nouns=("incident", "run"), verbs=("read",), labels=SHOP),),
        "all": (Rule(nouns=("incident", "run", "rule"), verbs=("read",)),),
        "none": (Rule(nouns=("probe",), verbs=("read",)),),
    }
)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Site, Acted]]:
    tables = (access_tables(), engine_tables(), notify_tables(), incident_tables(), remedy_tables())
    database = await open_sqlite(tmp_path / "incidents.db", tables, SystemClock())
    budget = BudgetSpec(max=1, group="shared")
    probes = [
        probe("shop", labels=SHOP, budget=budget),
        probe("blog", labels={"team": "blog"}),
        probe("gateway", labels=SHOP, depends_on=("blog",)),
        probe("till", labels=SHOP, budget=budget),
    ]
    acted = Acted(database, probes)
    try:
        await acted.pass_time(10, shop=0.1, blog=0.1, gateway=0.1, till=0.1)
        await acted.pass_time(5, shop=-1)
        await acted.pass_time(5, blog=-1, gateway=-1, till=-1)
        await acted.pass_time(15)
        keeper = EvidenceKeeper(database)
        for run in await acted.runs():
            found = Found(
                number=run.parameters["incident"], run_id=run.run_id, target=run.parameters["target"],
                source="this machine", text=f"seen of {run.parameters['target']}",
            )  # fmt: skip
            await keeper.keep(found, f"{run.run_id}.evidence")
        async with site(tmp_path, OPTIONS) as one:
            one.program.services.incidents = acted.part
            one.program.services.database = database
            one.program.services.runs = acted.book
            yield one, acted
    finally:
        await acted.part.stop()
        await database.close()


async def test_whoever_sees_all_is_told_all(two: tuple[Site, Acted]) -> None:
    one, _ = two
    client = await one.client(token=await one.token("all"))
    body = (await client.get("/api/v1/explain/1")).json()
    (action,) = body["actions"]
    assert (action["target"], action["outcome"], action["budget"]) == ("shop", "", "shared")
    assert action["left"] == "1 of 1 in 1h, 1 of 1 at once"
    assert body["rule"]["text"]["name"] == "shop"
    assert body["rule"]["version"] == action["version"]
    assert body["because"][0] == "shop is down: timeout"
    assert [one["text"] for one in [(await client.get(_evidence(1, body))).json()]] == ["seen of shop"]
    by_run = (await client.get(f"/api/v1/explain/{action['run_id']}")).json()
    assert by_run["incident"]["number"] == 1
    # What was not done, and why: a symptom's own remedy, and one that the shared budget holds back.
    blog = next(item["number"] for item in (await _incidents(client)) if item["root"] == "blog")
    why = [(one["target"], one["why"]) for one in (await client.get(f"/api/v1/explain/{blog}")).json()["not_done"]]
    assert ("gateway", "it is explained by blog, and only the cause is acted upon") in why
    till = next(item["number"] for item in (await _incidents(client)) if item["root"] == "till")
    held = (await client.get(f"/api/v1/explain/{till}")).json()
    assert held["actions"] == []
    assert any("1 of 1 in 1h are used up" in one["why"] for one in held["not_done"])
    assert held["budgets"] == [{"budget": "shared", "left": "0 of 1 in 1h, 0 of 1 at once"}]


async def test_a_team_sees_only_its_own(two: tuple[Site, Acted]) -> None:
    one, _ = two
    client = await one.client(token=await one.token("shop"))
    everyone = await one.client(token=await one.token("all"))
    numbers = {item["root"]: item["number"] for item in await _incidents(everyone)}
    assert {item["root"] for item in await _incidents(client)} == {"shop", "till"}
    assert (await client.get(f"/api/v1/explain/{numbers['shop']}")).status_code == 200
    assert (await client.get(f"/api/v1/explain/{numbers['blog']}")).status_code == 404
    blog = (await everyone.get(f"/api/v1/explain/{numbers['blog']}")).json()
    assert (await client.get(_evidence(numbers["blog"], blog))).status_code == 404
    assert (await client.get(f"/api/v1/explain/{blog['actions'][0]['run_id']}")).status_code == 404
    # Not even by way of one's own incident's address.
    name = blog["evidence"][0]["evidence_id"]
    assert (await client.get(f"/api/v1/incidents/{numbers['shop']}/evidence/{name}")).status_code == 404
    text = (await client.get(f"/api/v1/explain/{numbers['till']}")).text
    assert "blog" not in text


async def test_without_the_permission_nothing_is_told(two: tuple[Site, Acted]) -> None:
    one, _ = two
    client = await one.client(token=await one.token("none"))
    assert (await client.get("/api/v1/explain/1")).status_code == 403
    assert (await client.get("/api/v1/incidents/1/evidence/x")).status_code == 403


async def test_what_is_not_there_is_said_so(two: tuple[Site, Acted]) -> None:
    one, _ = two
    client = await one.client(token=await one.token("all"))
    for subject in ("99", "no-such-run", "0", "%23", "9" * 40):
        assert (await client.get(f"/api/v1/explain/{subject}")).status_code == 404, subject


async def _incidents(client: Any) -> Any:
    return (await client.get("/api/v1/incidents")).json()["items"]


def _evidence(number: int, body: Any) -> str:
    return f"/api/v1/incidents/{number}/evidence/{body['evidence'][0]['evidence_id']}"
