"""Traces of runs: each run that ended is sent once, with its steps below it, and what cannot be sent waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from tests.fakes import ManualClock
from tests.fakes_runs import FakeRuns
from tests.receiver import Received, receiving

from dogwatch.core.bus import Bus
from dogwatch.engine.http_client import HttpClient
from dogwatch.engine.traces import TRACES, TracesOptions, TracesPart
from dogwatch.engine.tracing import span_of, trace_of, traceparent
from dogwatch.engine.values import RunState, StepRun, StepState


def spans(request: Received) -> list[dict[str, Any]]:
    body = json.loads(request.body)
    assert body["resourceSpans"][0]["resource"]["attributes"][0]["value"] == {"stringValue": "ops"}
    found: list[dict[str, Any]] = body["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return found


def spawn(name: str, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=name)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def runs(clock: ManualClock) -> FakeRuns:
    return FakeRuns(clock, Bus())


async def test_a_run_that_ended_is_sent_once_with_its_steps(clock: ManualClock, runs: FakeRuns) -> None:
    now_s = clock.now_s()
    part = TracesPart(runs, clock=clock, spawn=spawn)
    runs.put("01aa", state=RunState.RUNNING, started_s=now_s)
    async with receiving() as receiver:
        part.options = TracesOptions(url=receiver.url, service="ops", headers={"X-Key": "k"})
        client = HttpClient(user_agent="t")
        try:
            await part.look()
            runs.put(
                "01aa", state=RunState.FAILED, started_s=now_s, ended_s=now_s + 2.5, reason="no", parent=("00ff", "go")
            )
            runs.step_rows["01aa"] = [
                StepRun(run_id="01aa", name="build", kind="exec", state=StepState.FAILED, attempt=2, reason="exit 1",
                        started_s=now_s + 1, ended_s=now_s + 2),
                StepRun(run_id="01aa", name="later", kind="exec", state=StepState.SKIPPED),
            ]  # fmt: skip
            await part.look()
            assert await part.send(client)
            await part.look()
            assert part.counts == {"sent": 1, "failed": 0, "dropped": 0}
        finally:
            await client.close()
    (request,) = receiver.requests
    assert (request.path, request.headers["x-key"]) == ("/v1/traces", "k")
    run, step = spans(request)
    assert run["traceId"] == step["traceId"] == trace_of("01aa")
    assert step["parentSpanId"] == run["spanId"] == span_of("01aa")
    assert step["spanId"] == span_of("01aa", "build", 2) == traceparent("01aa", "build", 2).split("-")[2]
    assert run["status"] == {"code": 2, "message": "no"}
    assert run["links"] == [{"traceId": trace_of("00ff"), "spanId": span_of("00ff", "go", 1)}]
    assert int(run["endTimeUnixNano"]) - int(run["startTimeUnixNano"]) == 2_500_000_000
    assert (len(run["traceId"]), len(run["spanId"])) == (32, 16)


@pytest.mark.parametrize(("status", "waits"), [(503, True), (429, True), (400, False)])
async def test_what_is_refused_waits_or_is_dropped_and_counted(
    clock: ManualClock, runs: FakeRuns, status: int, waits: bool
) -> None:
    part = TracesPart(runs, clock=clock, spawn=spawn)
    now_s = clock.now_s()
    runs.put("01aa", state=RunState.SUCCEEDED, started_s=now_s, ended_s=now_s)
    async with receiving() as receiver:
        receiver.answer = lambda _request: (status, {})
        part.options = TracesOptions(url=f"{receiver.url}/v1/traces", service="ops")
        client = HttpClient(user_agent="t")
        try:
            await part.look()
            assert await part.send(client) is not waits
            assert str(status) in part.trouble
            assert part.counts["dropped"] == (not waits)
            receiver.answer = lambda _request: (200, {})
            if waits:
                assert await part.send(client)
                assert part.counts["sent"] == 1
                assert len(receiver.requests) == 2
        finally:
            await client.close()
    assert receiver.requests[0].path == "/v1/traces"


async def test_runs_that_ended_long_ago_are_not_sent(clock: ManualClock, runs: FakeRuns) -> None:
    now_s = clock.now_s()
    runs.put("01aa", state=RunState.SUCCEEDED, started_s=now_s - 7200, ended_s=now_s - 7000)
    part = TracesPart(runs, clock=clock, spawn=spawn)
    await part.look()
    assert not part._waiting


def test_a_bad_address_is_found() -> None:
    assert TRACES.check is not None
    faults = list(TRACES.check(msgspec.convert({"url": "collector:4318"}, TracesOptions)))
    assert [fault.path for fault in faults] == [("url",)]
