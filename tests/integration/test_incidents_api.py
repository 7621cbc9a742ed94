"""Incidents over HTTP and on the command line: a real server, a real database, the real deciders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from tests.fakes import FakeProgram
from tests.incidents import Watched
from tests.web_server import Running, running

from dogwatch.access.tables import access_tables
from dogwatch.cli.backtest import backtest, signals
from dogwatch.cli.incident import incident
from dogwatch.cli.rule import rule
from dogwatch.core.clock import SystemClock
from dogwatch.errors import Conflict, NotFound, PermanentError, UsageError
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.backtest_desk import Backtests
from dogwatch.rules.tables import incident_tables
from dogwatch.store.state_sqlite import open_sqlite

RULES = """
rules:
  - name: any-latency
    when: 'probe.duration_s > 0.05'
"""


class Site:
    def __init__(self, server: Running, client: httpx.AsyncClient, watched: Watched) -> None:
        self.server, self.client, self.watched = server, client, watched

    async def get(self, path: str, **query: Any) -> Any:
        response = await self.client.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    async def command(self, group: click.Command, *words: str) -> Any:
        """Run a command beside the server's loop; turns are made while it waits."""
        arguments = [*words, "--server", self.server.url]
        task = asyncio.create_task(asyncio.to_thread(group.main, arguments, "dogwatch", standalone_mode=False))
        while not task.done():
            await asyncio.sleep(0.02)
            await self.watched.part.turn()
        return await task


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    database = await open_sqlite(
        tmp_path / "state.db", (access_tables(), notify_tables(), incident_tables()), SystemClock()
    )
    watched = Watched(database)
    program = FakeProgram()
    program.services.incidents = watched.part
    program.services.backtests = backtests = Backtests(watched.part, watched.clock)
    try:
        await watched.pass_time(30, db=0.1, shop=0.1)
        await watched.pass_time(30, db=-1, shop=-1)
        async with running(program) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            yield Site(server, client, watched)
    finally:
        await backtests.close()
        await watched.part.stop()
        await database.close()


async def test_an_incident_names_its_cause_and_what_it_explains(site: Site) -> None:
    body = await site.get("/api/v1/incidents")
    [item] = body["items"]
    assert (item["number"], item["state"], item["root"], item["explains"]) == (1, "open", "db", 1)
    assert body["next_cursor"] == ""
    detail = await site.get("/api/v1/incidents/1")
    assert [alert["target"] for alert in detail["explains"]] == ["db", "shop"]
    assert [note["kind"] for note in detail["timeline"]] == ["opened", "joined", "told"]
    assert (await site.get("/api/v1/incidents", state="resolved"))["items"] == []
    assert (await site.client.get("/api/v1/incidents/9")).status_code == 404
    assert (await site.client.get("/api/v1/incidents", params={"cursor": "x"})).status_code == 400


async def test_from_the_command_line(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await site.command(incident, "list")
    assert "db is down" in capsys.readouterr().out
    await site.command(incident, "ack", "1", "--text", "on it")
    assert "acknowledged" in capsys.readouterr().out
    await site.command(incident, "comment", "1", "disk is full")
    await site.command(incident, "show", "1")
    shown = capsys.readouterr().out
    assert "disk is full" in shown
    assert "Holds, the first first:" in shown
    await site.command(incident, "ack", "1", "--undo")
    await site.command(incident, "resolve", "1")
    with pytest.raises(Conflict):
        await site.command(incident, "ack", "1")
    with pytest.raises(NotFound):
        await site.command(incident, "show", "7")
    capsys.readouterr()
    await site.command(incident, "list", "--all", "--json")
    [item] = json.loads(capsys.readouterr().out)
    assert item["state"] == "resolved"


async def test_silences_begin_and_end(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await site.command(incident, "silence", "--label", "team=shop", "--for", "30m", "--reason", "move", "--json")
    silence = json.loads(capsys.readouterr().out)
    assert silence["match"] == {"team": "shop"}
    await site.command(incident, "silences")
    assert "team=shop" in capsys.readouterr().out
    await site.command(incident, "unsilence", silence["silence_id"])
    assert site.watched.part.silences() == []
    with pytest.raises(UsageError):
        await site.command(incident, "silence", "--for", "1h")
    with pytest.raises(UsageError):
        await site.command(incident, "silence", "1", "--for", "soon")


async def test_rules_are_tried_on_what_was_recorded(
    site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    await site.command(rule, "list")
    assert "slow" in capsys.readouterr().out
    await site.command(backtest, "--since", "1h", "--json")
    found = json.loads(capsys.readouterr().out)["first"]
    assert [(one["root"], one["explains"]) for one in found["incidents"]] == [("db", 1)]
    assert [one["lines"] for one in found["notices"]] == [["#1 opened: db is down: timeout; explains 1 more"]]
    file = tmp_path / "new.yaml"
    file.write_text(RULES)
    await site.command(rule, "plan", "-c", str(file), "--since", "1h")
    assert "any-latency: db" in capsys.readouterr().out
    await site.command(backtest, "--since", "1h", "--against", str(file))
    assert "With the other rules:" in capsys.readouterr().out
    # A rehearsal writes nothing.
    assert len((await site.get("/api/v1/incidents"))["items"]) == 1


def test_rules_are_checked_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    assert rule.main(["check", "-c", str(file)], "dogwatch rule", standalone_mode=False) == 0
    assert capsys.readouterr().out == "ok: 1 rule\n"
    file.write_text(RULES.replace("duration_s", "duraton_s") + "    notify: [nobody]\n")
    assert rule.main(["check", "-c", str(file)], "dogwatch rule", standalone_mode=False) == 2
    told = capsys.readouterr().err
    assert "did you mean 'probe.duration_s'?" in told
    assert "rules[0].when" in told


async def test_a_backtest_in_the_background(site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(RULES)
    await site.command(backtest, "--since", "1h", "--against", str(file))
    out = capsys.readouterr().out
    assert "db is down" in out
    assert "With the other rules:" in out
    # Another rule finds the same outage: it is neither missed nor new.
    assert "(by any-latency, not target-down): opened" in out
    await site.command(backtest, str(file), "--incident", "1", "--json")
    state = json.loads(capsys.readouterr().out)
    assert (state["state"], state["share"]) == ("done", 1.0)
    assert "any-latency" in state["first"]["fired"]
    assert (await site.client.get("/api/v1/backtests/bt_none")).status_code == 404
    assert (await site.client.post("/api/v1/backtests", json={"since_s": 3600, "incident": 99})).status_code == 404
    response = await site.client.post("/api/v1/backtests", json={"since_s": 3600})
    assert response.status_code == 202
    name = response.json()["backtest_id"]
    found = response.json()
    for _ in range(500):
        found = await site.get(f"/api/v1/backtests/{name}")
        if found["state"] != "running":
            break
        await asyncio.sleep(0.02)
    assert found["first"]["total_incidents"] == 1


async def test_an_outage_in_a_library(site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "db.signals"
    await site.command(signals, "export", "--incident", "1", "-o", str(path))
    assert "names the outage" in capsys.readouterr().out
    signals.main(["check", str(path)], "dogwatch signals", standalone_mode=False)
    assert "2 targets" in capsys.readouterr().out
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(RULES)
    assert await site.command(backtest, str(good), "--signals", str(path)) == 0
    assert "found after" in capsys.readouterr().out
    # What only the thresholds find is not found where the label asks for a rule.
    label = path.with_suffix(".yaml")
    label.write_text(label.read_text() + "    rules: [slow*]\n")
    assert await site.command(backtest, str(good), "--signals", str(path), "--json") == 1
    [found] = json.loads(capsys.readouterr().out)
    assert found["outages"][0]["number"] == 0
    bad.write_text(RULES.replace("any-latency", "slow-now"))
    assert await site.command(backtest, str(good), "--signals", str(path), "--against", str(bad)) == 0
    assert "missed" in capsys.readouterr().out
    with pytest.raises(UsageError, match="which rules"):
        await site.command(backtest, "--signals", str(path))
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(PermanentError, match="cut off"):
        await site.command(backtest, str(good), "--signals", str(path))
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(PermanentError, match="damaged"):
        signals.main(["check", str(path)], "dogwatch signals", standalone_mode=False)
    label.write_text("outages: [{name: x, from: soon, to: later}]\n")
    path.write_bytes(content)
    with pytest.raises(UsageError):
        await site.command(backtest, str(good), "--signals", str(path))
