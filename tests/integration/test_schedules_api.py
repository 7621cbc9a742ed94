"""Schedules over HTTP and on the command line: a real server, a real database, starts that only write a row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from tests.access import site as access_site
from tests.fakes import FakeProgram
from tests.schedules import TABLES, FakeRuns, TimedDatabase, new_scheduler, put, until
from tests.web_server import Running, running

from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule
from dogwatch.cli import schedule as commands
from dogwatch.config.section import Section
from dogwatch.core.clock import ManualClock
from dogwatch.engine.schedules.section import SCHEDULES
from dogwatch.engine.schedules.service import Schedules
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.errors import Conflict, DogwatchError, NotFound, UsageError
from dogwatch.store.state_sqlite import open_sqlite

T0 = 1_800_000_000.0
SPECS = [
    ScheduleSpec(name="nightly/größe", job="backup", cron="* * * * *", labels={"team": "shop"}, doc="Copies."),
    ScheduleSpec(name="report", job="report", every=3600.0),
    ScheduleSpec(name="blocked", job="forbidden", cron="*/2 * * * *"),
]
NIGHTLY = "/api/v1/schedules/nightly%2Fgr%C3%B6%C3%9Fe"


class Site:
    def __init__(self, server: Running, client: httpx.AsyncClient, clock: ManualClock, scheduler: Any) -> None:
        self.server, self.client, self.clock, self.scheduler = server, client, clock, scheduler

    async def get(self, path: str, **query: Any) -> Any:
        response = await self.client.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, path: str, **body: Any) -> Any:
        response = await self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def pass_s(self, seconds: float, fired: int) -> None:
        self.clock.advance(seconds)
        self.scheduler._wake.set()

        async def done() -> bool:
            return sum(self.scheduler.counts.fires.values()) >= fired

        await until(done)

    async def command(self, *words: str) -> None:
        """Run a command beside the server's loop; it raises what the real one turns into an exit code."""
        arguments = [*words, "--server", self.server.url]
        await asyncio.to_thread(commands.schedule.main, arguments, "dogwatch schedule", standalone_mode=False)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    clock = ManualClock(now_s=T0)
    database = await open_sqlite(tmp_path / "state.db", TABLES, clock)
    timed, runs = TimedDatabase(database, clock), FakeRuns()
    scheduler = new_scheduler(timed, runs, clock)
    await put(scheduler, SPECS)
    program = FakeProgram()
    program.services.schedules = Schedules(scheduler, timed, runs)  # type: ignore[arg-type]
    try:

        async def planned() -> bool:
            return all(entry.record is not None for entry in scheduler.entries.values())

        await until(planned)
        async with running(program) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            yield Site(server, client, clock, scheduler)
    finally:
        await scheduler.stop()
        await database.close()


async def test_they_are_listed_with_their_state(site: Site) -> None:
    body = await site.get("/api/v1/schedules")
    assert [(one["name"], one["state"], one["next_s"], one["last"]) for one in body["items"]] == [
        ("nightly/größe", "active", T0 + 60, None),
        ("report", "active", T0 + 3600, None),
        ("blocked", "active", T0 + 120, None),
    ]
    await site.pass_s(120.01, 2)
    body = await site.get("/api/v1/schedules", label="team=shop")
    [item] = body["items"]
    # Of the two that were due, the older came too late to count as in time.
    assert (item["fired"], item["missed"], item["last"]["state"], item["last_run_state"]) == (1, 1, "started", "queued")
    blocked = await site.get("/api/v1/schedules/blocked/fires")
    assert [(one["state"], one["reason"]) for one in blocked["items"]] == [
        ("refused", "a run of 'forbidden' is not over")
    ]
    assert (await site.get("/api/v1/schedules", job="report"))["total"] == 1


async def test_they_come_in_pages(site: Site) -> None:
    names, cursor = [], ""
    for _ in range(3):
        body = await site.get("/api/v1/schedules", limit=1, cursor=cursor)
        names += [one["name"] for one in body["items"]]
        cursor = body["next_cursor"]
    assert (names, cursor) == ([spec.name for spec in SPECS], "")
    refused = await site.client.get("/api/v1/schedules", params={"cursor": "nobody"})
    assert refused.status_code == 400


async def test_fires_come_in_pages(site: Site) -> None:
    for number in range(5):
        await site.post(f"{NIGHTLY}/run", key=f"k{number}")
    await site.pass_s(120.01, 2)
    seen, cursor, pages = [], "", 0
    while pages == 0 or cursor:
        body = await site.get(f"{NIGHTLY}/fires", limit=2, cursor=cursor)
        seen += [one["fire"] for one in body["items"]]
        cursor, pages = body["next_cursor"], pages + 1
    # Five by hand, at the same time; one started and what was missed before it, at the same time, too.
    assert (len(seen), len(set(seen)), pages) == (7, 7, 4)
    refused = await site.client.get(f"{NIGHTLY}/fires", params={"cursor": "x"})
    assert refused.status_code == 400


async def test_pause_resume_and_run(site: Site) -> None:
    assert (await site.post(f"{NIGHTLY}/pause", reason="moving"))["reason"] == "by local:console: moving"
    assert (await site.get(f"{NIGHTLY}/next", count=2))["times_s"] == [T0 + 60, T0 + 120]
    assert (await site.post(f"{NIGHTLY}/resume"))["state"] == "active"
    first = await site.post(f"{NIGHTLY}/run", key="one")
    again = await site.post(f"{NIGHTLY}/run", key="one")
    assert (first["created"], again["created"], first["run_id"] == again["run_id"]) == (True, False, True)
    refused = await site.client.post("/api/v1/schedules/blocked/run", json={})
    assert (refused.status_code, refused.json()["detail"]) == (409, "a run of 'forbidden' is not over")
    for path in ("", "/next", "/fires"):
        missing = await site.client.get(f"/api/v1/schedules/nigthly{path}")
        assert missing.status_code == 404
    unknown = await site.client.post(f"{NIGHTLY}/pause", json={"raeson": "x"})
    assert unknown.status_code == 400


async def test_a_program_without_schedules_says_so() -> None:
    async with running() as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        response = await client.get("/api/v1/schedules")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_the_commands(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await site.command("list")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["STATE", "SCHEDULE", "JOB", "WHEN", "NEXT", "LAST", "BECAME"]
    assert "nightly/größe" in lines[1]
    assert "every 1h" in lines[2]
    await site.command("list", "--job", "nothing")
    assert capsys.readouterr().out == "No schedules match.\n"
    await site.command("pause", "report", "--reason", "the disk")
    assert capsys.readouterr().out == "‖ paused  report\n    by local:console: the disk\n"
    await site.command("resume", "report")
    assert capsys.readouterr().out.startswith("● active  report, next in")
    await site.command("run", "nightly/größe", "--key", "k")
    assert capsys.readouterr().out == "started run-schedule/nightly/größe/manual-k of backup\n"
    await site.command("run", "nightly/größe", "--key", "k")
    assert capsys.readouterr().out.startswith("was started before with this key: run-")
    await site.command("show", "nightly/größe")
    shown = capsys.readouterr().out
    assert "starts backup; 0 started, 0 refused, 0 missed" in shown
    assert "manual-k" in shown
    await site.command("next", "report", "-n", "2", "--json")
    assert [one["time_s"] for one in json.loads(capsys.readouterr().out)] == [T0 + 3600, T0 + 7200]
    await site.command("next")
    assert len(capsys.readouterr().out.splitlines()) == 4
    await site.command("show", "report", "--json")
    assert json.loads(capsys.readouterr().out)["schedule"]["job"] == "report"
    with pytest.raises(NotFound) as caught:
        await site.command("show", "repotr")
    assert caught.value.hint == "did you mean 'report'?"
    with pytest.raises(Conflict):
        await site.command("run", "blocked")
    with pytest.raises(UsageError):
        await site.command("next", "--after", "2026-01-01")


CONFIG = """
schedules:
  - {name: nightly, job: backup, cron: "30 2 * * *", time_zone: Europe/Berlin}
  - {name: hourly, job: report, every: 1h}
  - {name: off, job: report, every: 1h, paused: true}
"""


def _sections() -> tuple[Section[Any], ...]:
    return (SCHEDULES,)


def test_the_next_fires_without_a_daemon(tmp_path: Path) -> None:
    (tmp_path / "dogwatch.yaml").write_text(CONFIG)
    paths = [str(tmp_path / "dogwatch.yaml")]
    found = commands._offline(paths, "", 2, "2026-03-28T12:00", _sections)
    assert [(one["name"], len(one["times_s"])) for one in found] == [("nightly", 2), ("hourly", 2)]
    shown = [commands._when(time_s, "Europe/Berlin") for time_s in found[0]["times_s"]]
    assert shown == ["2026-03-29 03:00:00+02:00", "2026-03-30 02:30:00+02:00"]
    assert commands._offline(paths, "off", 1, "7d", _sections)[0]["name"] == "off"
    with pytest.raises(NotFound):
        commands._offline(paths, "nigthly", 1, "", _sections)
    with pytest.raises(DogwatchError, match="no date or time"):
        commands._offline(paths, "", 1, "soon", _sections)


def test_every_command_has_an_example() -> None:
    for name in commands.schedule.list_commands(click.Context(commands.schedule)):
        assert f"dogwatch schedule {name}" in (commands.schedule.commands[name].help or "")


async def test_whoever_is_limited_to_labels_has_only_those(tmp_path: Path) -> None:
    clock = ManualClock(now_s=T0)
    options = AccessOptions(
        roles={
            "shop": (Rule(nouns=("schedule",), verbs=("read", "run"), labels={"team": "shop"}),),
            "reader": (Rule(nouns=("schedule",), verbs=("read",)),),
        }
    )
    async with access_site(tmp_path, options) as web:
        database = await open_sqlite(tmp_path / "schedules.db", TABLES, clock)
        runs = FakeRuns()
        scheduler = new_scheduler(TimedDatabase(database, clock), runs, clock)
        await put(scheduler, SPECS)
        web.program.services.schedules = Schedules(scheduler, database, runs)  # type: ignore[arg-type]
        try:
            await web.user("root", "admin")
            await web.user("sam", "shop")
            await web.user("rita", "reader")
            sam, rita = await web.browser("sam"), await web.browser("rita")
            listed = await sam.get("/api/v1/schedules")
            assert listed.status_code == 200, listed.text
            body = listed.json()
            assert ([one["name"] for one in body["items"]], body["total"]) == (["nightly/größe"], 1)
            assert (await sam.post(f"{NIGHTLY}/run", json={})).status_code == 200
            # What may not be seen does not exist, and its name is not given away.
            for method, path in (("GET", ""), ("GET", "/next"), ("GET", "/fires"), ("POST", "/run")):
                answer = await sam.request(method, f"/api/v1/schedules/report{path}", json={})
                assert (answer.status_code, "report" in answer.json().get("hint", "")) == (404, False)
            assert (await sam.post(f"{NIGHTLY}/pause", json={})).status_code == 403
            assert (await rita.get("/api/v1/schedules/report")).status_code == 200
            assert (await rita.post("/api/v1/schedules/report/run", json={})).status_code == 403
            actors = [str(request.actor) for request in runs.requests]
            assert actors == ["user:sam"]
        finally:
            await scheduler.stop()
            await database.close()
