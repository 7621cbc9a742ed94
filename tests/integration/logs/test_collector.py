"""OpenTelemetry's own collector: the `otlp` sink's records and the traces of our runs, as it understands them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes import ManualClock
from tests.fakes_runs import FakeRuns
from tests.integration.logs.test_real_sinks import TRACE, block, deliver
from tests.log_peers import Peer, running, unique
from tests.log_peers_more import Collector, attributes
from tests.unit.engine.test_traces import spawn

from dogwatch.core.bus import Bus
from dogwatch.engine.http_client import HttpClient
from dogwatch.engine.traces import TracesOptions, TracesPart
from dogwatch.engine.tracing import span_of, trace_of
from dogwatch.engine.values import RunState, StepRun, StepState
from dogwatch.logs.sinks.otlp import OtlpSink

pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")


@pytest.fixture(scope="module")
def collector() -> Iterator[Peer]:
    with running(Collector) as peer:
        yield peer


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_records_have_their_level_trace_and_attributes(
    collector: Collector, tmp_path: Path, compression: str
) -> None:
    name = unique("shop")
    line = (
        f'{{"message": "boom", "level": "error", "trace_id": "{TRACE}", "span_id": "00f067aa0ba902b7", '
        '"timestamp": "2026-11-21T07:00:00.25Z", "n": 9007199254740993, '
        '"user": {"name": "bo", "ages": [1, 2.5, null, true]}}'
    )
    made = block(line, '{"message": "plain"}', columns=True)
    sink = OtlpSink(url=collector.url, resource={"service.name": name}, compression=compression)  # type: ignore[arg-type]
    await deliver(sink, tmp_path, made)
    await until(lambda: len(collector.records(name)) == 2)
    first, second = collector.records(name)
    assert (first["body"]["stringValue"], first["severityText"], first["severityNumber"]) == ("boom", "error", 17)
    assert (first["traceId"], first["spanId"]) == (TRACE, "00f067aa0ba902b7")
    assert first["timeUnixNano"] == "1795244400250000000"
    found = attributes(first)
    assert found["log.record.uid"] == made.ids()[0]
    assert found["n"] == "9007199254740993"
    assert found["user"]["values"][0] == {"key": "name", "value": {"stringValue": "bo"}}
    assert second["body"]["stringValue"] == "plain"
    assert not (tmp_path / "dead").exists()


async def test_runs_become_traces(collector: Collector) -> None:
    clock = ManualClock()
    runs = FakeRuns(clock, Bus())
    now_s = clock.now_s()
    part = TracesPart(runs, clock=clock, spawn=spawn)
    part.options = TracesOptions(url=collector.url, service="ops")
    runs.put("01aa", state=RunState.FAILED, started_s=now_s, ended_s=now_s + 2.5, reason="no")
    runs.step_rows["01aa"] = [
        StepRun(run_id="01aa", name="build", kind="exec", state=StepState.FAILED, attempt=2, reason="exit 1",
                started_s=now_s + 1, ended_s=now_s + 2),
    ]  # fmt: skip
    client = HttpClient(user_agent="t")
    try:
        await part.look()
        assert await part.send(client)
    finally:
        await client.close()
    await until(lambda: len(collector.spans()) == 2)
    run, step = collector.spans()
    assert run["traceId"] == step["traceId"] == trace_of("01aa")
    assert (run["spanId"], step["parentSpanId"]) == (span_of("01aa"), span_of("01aa"))
    assert step["spanId"] == span_of("01aa", "build", 2)
    assert run["status"] == {"message": "no", "code": 2}
