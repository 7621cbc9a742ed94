"""Files that come, grow and go while the agent runs are read soon, although sizes are looked at only when told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dogwatch.config.load import Loader
from dogwatch.logs.agent import Agent
from dogwatch.logs.section import LOGS


async def until(path: Path, text: str) -> None:
    def there() -> bool:
        return path.exists() and text in path.read_text()

    async with asyncio.timeout(60):
        while not there():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("pattern", ["*.log", "*/*.log"])
async def test_new_grown_renamed_and_in_new_folders(tmp_path: Path, pattern: str) -> None:
    logs, out = tmp_path / "logs", tmp_path / "out"
    (logs / "a").mkdir(parents=True)
    where = logs / "a" if pattern == "*.log" else logs
    (tmp_path / "c.yaml").write_text(
        f"logs:\n  sources: [{{name: s, file: {{paths: ['{where}/{pattern}'], start: beginning, search: 200ms}}}}]\n"
        f"  sinks: [{{name: o, file: {{path: '{out}'}}, batch: {{wait: 0s}}}}]\n"
    )
    spec = Loader([tmp_path / "c.yaml"], [LOGS], environ={}).load().get(LOGS)
    agent = Agent(spec, tmp_path / "state")
    await agent.start()
    try:
        first = logs / "a" / "first.log"
        first.write_text("one\n")
        await until(out, "one\n")
        with first.open("a") as file:
            file.write("two\n")
        await until(out, "two\n")
        # Nothing for longer than a turn: the watch must be there again.
        await asyncio.sleep(0.6)
        with first.open("a") as file:
            file.write("three\n")
        await until(out, "three\n")
        first.rename(logs / "a" / "first.log.1")
        first.write_text("four\n")
        await until(out, "four\n")
        if pattern == "*/*.log":
            (logs / "b").mkdir()
            (logs / "b" / "second.log").write_text("five\n")
            await until(out, "five\n")
        else:
            (logs / "a" / "first.log.1").unlink()
            first.unlink()
            (logs / "a").rmdir()
            (logs / "a").mkdir()
            first.write_text("a new first line\n")
            await until(out, "a new first line\n")
            with first.open("a") as file:
                file.write("six\n")
            await until(out, "six\n")
    finally:
        await agent.stop()
    lines = out.read_text().splitlines()
    assert len(lines) == len(set(lines))
