"""What the agent counts can be seen: of transforms, of what was dropped and whose it was, of slow conditions."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.receiver import receiving

from dogwatch.config.load import Loader
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.part import LogsPart
from dogwatch.logs.section import LOGS

assert frames.OFFSET
pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")


def value(part: LogsPart, beginning: str) -> float:
    found = [number for family in part.metrics() for text, number in family.series if text.startswith(beginning)]
    return float(sum(found))


async def until(part: LogsPart, beginning: str, wanted: float) -> None:
    async with asyncio.timeout(20):
        while value(part, beginning) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_transforms_are_counted_and_a_slow_condition_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "c.yaml"
    condition = 'tags.exists(t, t == "keep")'
    config.write_text(
        f"logs:\n  checkpoint: 50ms\n  sources: [{{name: s, file: {{paths: [{tmp_path}/*.log], start: beginning}}}}]\n"
        f"  routes: [{{do: [json, {{where: '{condition}'}}]}}]\n"
        f"  sinks: [{{name: o, file: {{path: {tmp_path}/out}}}}]\n"
    )
    (tmp_path / "a.log").write_text('{"tags": ["keep"]}\n{"tags": []}\nnot json\n')
    part = LogsPart(tmp_path / "state")
    prepared = part.prepare(Loader([config], [LOGS], environ={}).load())
    with caplog.at_level(logging.WARNING):
        await prepared.start()
        prepared.swap()
        try:
            name = "dogwatch_logs_transform_events_total"
            await until(part, f'{name}{{route="0",step="0",kind="json",event="unread"}}', 1)
            await until(part, f'{name}{{route="0",step="1",kind="where",event="dropped"}}', 1)
            assert value(part, f'{name}{{route="0",step="1",kind="where",event="row_by_row"}}') == 3
            async with asyncio.timeout(10):
                while "routes[0].do[1].where: is judged record by record" not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            await part.stop()
    assert caplog.text.count("record by record") == 1, "it is said once"


async def test_what_is_dropped_is_counted_by_source_and_sink(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    async with receiving(answer=lambda _request: "hang") as receiver:
        sources = ", ".join(
            f"{{name: {one}, file: {{paths: [{tmp_path}/{one}.log], start: beginning}}}}" for one in "ab"
        )
        config.write_text(
            f"logs:\n  grace: 0s\n  sources: [{sources}]\n  sinks:\n"
            f"    - {{name: away, http: {{url: '{receiver.url}'}}, buffer: {{memory: 1KiB, when_full: drop_newest}}}}\n"
        )
        part = LogsPart(tmp_path / "state")
        prepared = part.prepare(Loader([config], [LOGS], environ={}).load())
        await prepared.start()
        prepared.swap()
        try:
            name = "dogwatch_logs_sink_dropped_total"
            (tmp_path / "a.log").write_text("x" * 2000 + "\n")
            await receiver.until(1)
            with (tmp_path / "a.log").open("a") as file:
                file.write("one\ntwo\n")
            await until(part, f'{name}{{sink="away",source="a"}}', 2)
            (tmp_path / "b.log").write_text("one\n")
            await until(part, f'{name}{{sink="away",source="b"}}', 1)
        finally:
            await part.stop()
