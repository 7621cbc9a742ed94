"""`dogwatch logs` on real files, and the agent as a part of the daemon."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from dogwatch.config.load import Loader
from dogwatch.config.section import Section
from dogwatch.errors import Conflict
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.agent import Agent
from dogwatch.logs.part import LogsPart
from dogwatch.logs.section import LOGS, LogsSpec

CONFIG = """
logs:
  checkpoint: 100ms
  sources:
    - name: app
      file: {{paths: [{0}/in.log], start: beginning, search: 100ms}}
  routes:
    - do: [json, {{where: 'level != "debug"'}}]
  sinks:
    - name: out
      file: {{path: {0}/{1}, format: json}}
"""


def dogwatch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dogwatch", "logs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def configured(folder: Path, out: str = "out.log") -> Path:
    path = folder / "dogwatch.yaml"
    path.write_text(CONFIG.format(folder, out))
    return path


def test_check_finds_every_mistake_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "logs:\n  sources:\n    - name: a\n      file: {paths: [relative.log]}\n"
        "  routes:\n    - {from: [aa], do: [{where: 'level =='}], to: [o]}\n"
        "  sinks:\n    - name: o\n      http: {url: nowhere}\n"
    )
    found = dogwatch("check", "-c", str(path))
    assert found.returncode == 2
    for words in (
        "not an absolute path",
        "no source is called 'aa'",
        "did you mean 'a'?",
        "do[0].where",
        "not an http",
    ):
        assert words in found.stderr


def test_check_says_what_goes_where(tmp_path: Path) -> None:
    found = dogwatch("check", "-c", str(configured(tmp_path)))
    assert (found.returncode, found.stdout) == (0, "app → json, where → out\nok: 1 sources, 1 sinks\n")


def test_test_shows_each_step(tmp_path: Path) -> None:
    sample = tmp_path / "sample.log"
    sample.write_text('{"level": "debug"}\n{"level": "info", "n": 1}\n')
    found = dogwatch("test", str(tmp_path / "in.log"), "--with", str(sample), "-c", str(configured(tmp_path)))
    assert found.returncode == 0
    assert "where: dropped" in found.stdout
    assert 'where: {"level":"info","n":1}' in found.stdout
    assert dogwatch("test", "nothing", "--with", str(sample), "-c", str(configured(tmp_path))).returncode == 10


def test_run_reads_standard_input_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("logs:\n  sources: [{name: i, stdin: {}}]\n  sinks: [{name: o, stdout: {}}]\n")
    command = [sys.executable, "-m", "dogwatch", "logs", "run", "-c", str(path), "--folder", str(tmp_path / "state")]
    text = "".join(f"line {n}\n" for n in range(5000)) + "no end"
    found = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout == text + "\n"


class Given:
    def __init__(self, spec: LogsSpec) -> None:
        self._spec = spec

    def get(self, section: Section[LogsSpec]) -> LogsSpec:
        return self._spec


@pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
async def test_the_part_follows_the_configuration(tmp_path: Path) -> None:
    assert frames.OFFSET
    part = LogsPart(tmp_path / "state")
    source = tmp_path / "in.log"
    source.write_text('{"level": "info", "n": 1}\n')

    async def put(out: str) -> None:
        spec = Loader([configured(tmp_path, out)], [LOGS], environ={}).load().get(LOGS)
        prepared = part.prepare(Given(spec))  # type: ignore[arg-type]
        await prepared.start()
        prepared.swap()
        await prepared.finish()

    async def until(path: Path, count: int) -> None:
        def ready() -> bool:
            return path.exists() and path.read_text().count("\n") >= count

        async with asyncio.timeout(10):
            while not ready():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    await put("one.log")
    await until(tmp_path / "one.log", 1)
    with pytest.raises(Conflict, match="another agent"):
        await Agent(part.spec, tmp_path / "state").start()
    with source.open("a") as file:
        file.write('{"level": "debug"}\n{"level": "warn", "n": 2}\n')
    await until(tmp_path / "one.log", 2)
    await put("two.log")
    with source.open("a") as file:
        file.write('{"level": "info", "n": 3}\n')
    await until(tmp_path / "two.log", 1)
    sources, sinks = part.status()
    assert sources[0].counts["lines"] == 1, "what the old agent delivered is not read again"
    assert sinks[0].written == 1
    assert 'dogwatch_logs_sink_written_total{sink="out"}' in {s for one in part.metrics() for s, _value in one.series}
    await part.stop()
    assert (tmp_path / "one.log").read_text().count("\n") == 2
