"""One source, several routes: each sink gets what its route makes of the lines, and nothing else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dogwatch.config.load import Loader
from dogwatch.logs.agent import Agent
from dogwatch.logs.section import LOGS


def _found(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("lines", [30, 3000])
async def test_each_sink_gets_what_its_route_says(tmp_path: Path, lines: int) -> None:
    levels = ("debug", "info", "error")
    text = [{"level": levels[n % 3], "n": n, "user": f"u{n}@example.org"} for n in range(lines)]
    for name, some in (("one", text[0::2]), ("two", text[1::2])):
        (tmp_path / f"{name}.log").write_text("".join(json.dumps(one) + "\n" for one in some))
    (tmp_path / "c.yaml").write_text(
        "logs:\n  checkpoint: 100ms\n  sources:\n"
        f"    - {{name: one, file: {{paths: [{tmp_path}/one.log], start: beginning, search: 100ms}}}}\n"
        f"    - {{name: two, file: {{paths: [{tmp_path}/two.log], start: beginning, search: 100ms}}}}\n"
        "  routes:\n"
        "    - {do: [json, {where: 'level == \"error\"'}], to: [errors]}\n"
        "    - {from: [one], do: [json, {where: 'level != \"debug\"'}, {redact: [email]}], to: [open, both]}\n"
        "    - {from: [two], to: [plain, both]}\n"
        "  sinks:\n"
        + "".join(
            f"    - {{name: {name}, file: {{path: {tmp_path}/{name}.out, format: json}}}}\n"
            for name in ("errors", "open", "both")
        )
        + f"    - {{name: plain, file: {{path: {tmp_path}/plain.out}}}}\n"
    )
    spec = Loader([tmp_path / "c.yaml"], [LOGS], environ={}).load().get(LOGS)
    agent = Agent(spec, tmp_path / "state")
    await agent.start()
    wanted = {
        "errors": len([one for one in text if one["level"] == "error"]),
        "open": len([one for one in text[0::2] if one["level"] != "debug"]),
        "plain": len(text[1::2]),
    }
    wanted["both"] = wanted["open"] + wanted["plain"]
    try:
        async with asyncio.timeout(60):
            while {one.name: one.written for one in agent.status()[1]} != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await agent.stop()
    errors, both = _found(tmp_path / "errors.out"), _found(tmp_path / "both.out")
    assert sorted(one["n"] for one in errors) == [one["n"] for one in text if one["level"] == "error"]
    assert all("@" in one["user"] for one in errors), "another route's steps are its own"
    opened = _found(tmp_path / "open.out")
    assert [one["n"] for one in opened] == [one["n"] for one in text[0::2] if one["level"] != "debug"]
    assert {one["user"] for one in opened} == {"***"}
    assert [one for one in both if one["source"] == "one"] == opened
    plain = [json.loads(line) for line in (tmp_path / "plain.out").read_text().splitlines()]
    assert plain == text[1::2]
    assert [json.loads(one["message"]) for one in both if one["source"] == "two"] == plain
    assert len({one["id"] for one in both}) == len(both)
