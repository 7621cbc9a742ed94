"""Reports over HTTP and on the command line, as far as each may see."""

from __future__ import annotations

import asyncio
import codecs
import csv
import io
from pathlib import Path

import httpx
import pytest
from tests.access import PASSWORD
from tests.consoles import console

from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule
from dogwatch.cli.report import report


async def test_availability_as_json_csv_page_and_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with console(tmp_path) as web, httpx.AsyncClient(base_url=web.url, timeout=60) as client:
        found = (await client.get("/api/v1/reports/availability", params={"since": "7d", "q": "group:web"})).json()
        assert [line["name"] for line in found["groups"]] == ["web"]
        assert len(found["targets"]) == found["whole"]["targets"] == 4
        answer = await client.get("/api/v1/reports/availability.csv")
        assert answer.headers["content-type"].startswith("text/csv")
        kinds = {line["kind"] for line in csv.DictReader(io.StringIO(answer.text))}
        # From a page it comes with what tells spreadsheets that it is UTF-8.
        assert answer.content[:3] != codecs.BOM_UTF8
        named = await client.get("/api/v1/reports/availability.csv?language=zh")
        assert named.content.startswith(codecs.BOM_UTF8 + "类别,".encode())
        assert kinds == {"all", "group", "target"}
        assert "shop/checkout" in (await client.get("/reports/availability")).text
        for wrong in ({"since": "soon"}, {"since": "900d"}, {"month": "2026-13"}, {"month": "2999-01"}):
            assert (await client.get("/api/v1/reports/availability", params=wrong)).status_code == 400, wrong
            assert "mistake" in (await client.get("/reports/availability", params=wrong)).text
        arguments = ["availability", "--since", "30d", "--server", web.url]
        await asyncio.to_thread(report.main, arguments, "dogwatch", standalone_mode=False)
        assert "99." in capsys.readouterr().out
        await asyncio.to_thread(report.main, [*arguments, "--csv"], "dogwatch", standalone_mode=False)
        assert capsys.readouterr().out.startswith("kind,name,group")


async def test_the_inspection_says_what_one_may_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = Rule(nouns=("probe", "incident"), labels={"team": "shop"})
    async with console(tmp_path, AccessOptions(roles={"shop": (rule,)})) as web:
        async with httpx.AsyncClient(base_url=web.url, timeout=60) as client:
            whole = (await client.get("/api/v1/reports/daily")).json()
            assert "nobody has taken incident #1: db is down: timeout" in [one["text"] for one in whole["person"]]
            assert any("messages to ops that were given up" in one["text"] for one in whole["person"])
        await asyncio.to_thread(report.main, ["daily", "--server", web.url], "dogwatch", standalone_mode=False)
        assert "Needs a person" in capsys.readouterr().out
        await web.user("root", "admin")
        await web.user("ann", "shop")
        async with httpx.AsyncClient(base_url=web.url, timeout=60) as client:
            login = await client.post("/api/v1/login", json={"name": "ann", "password": PASSWORD})
            client.headers["authorization"] = f"Bearer {login.json()['secret']}"
            seen = (await client.get("/api/v1/reports/daily")).text
            assert "db is down" not in seen
            assert "mail is down" not in seen
            assert "given up" not in seen
            assert "watch-1" not in seen
            lines = (await client.get("/api/v1/reports/availability")).json()["targets"]
            assert {line["name"] for line in lines} == {
                view.name for view in web.program.watch.targets() if view.labels.get("team") == "shop"
            }
