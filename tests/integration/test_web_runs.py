"""Jobs, runs and workers over HTTP, against runs in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.fakes import FakeProgram
from tests.fakes_runs import furnish
from tests.web_server import Running, running

from dogwatch.core.clock import SystemClock
from dogwatch.engine.values import RunState, StepState
from dogwatch.errors import TransientError


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    program = FakeProgram(clock=SystemClock())
    furnish(program.runs)
    async with running(program) as one:
        yield one


class Answer:
    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}

    @property
    def data(self) -> Any:
        return json.loads(self.body)


async def ask(server: Running, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    content = b"" if body is None else json.dumps(body).encode()
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    if body is not None:
        extra += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{extra}\r\n"
    return Answer(await server.raw(head.encode() + content))


async def test_jobs_with_parameters_steps_and_last_run(server: Running) -> None:
    page = (await ask(server, "GET", "/api/v1/jobs")).data
    assert [job["name"] for job in page["items"]] == ["backup/größe <b>", "deploy"]
    assert page["total"] == 2
    deploy = (await ask(server, "GET", "/api/v1/jobs/deploy")).data
    assert {one["name"]: one["required"] for one in deploy["parameters"]}["version"] is True
    assert deploy["steps"][2] == {
        "name": "lint",
        "kind": "exec",
        "needs": ["build"],
        "when": "",
        "always": False,
        "allow_failure": True,
    }
    assert deploy["last_run"]["job"] == "deploy"
    odd = await ask(server, "GET", "/api/v1/jobs/backup%2Fgr%C3%B6%C3%9Fe%20%3Cb%3E")
    assert odd.data["name"] == "backup/größe <b>"


async def test_jobs_in_pages_and_by_label(server: Running) -> None:
    first = (await ask(server, "GET", "/api/v1/jobs?limit=1")).data
    second = (await ask(server, "GET", f"/api/v1/jobs?limit=1&cursor={first['next_cursor']}")).data
    assert [first["items"][0]["name"], second["items"][0]["name"]] == ["backup/größe <b>", "deploy"]
    assert second["next_cursor"] == ""
    labelled = (await ask(server, "GET", "/api/v1/jobs?label=team=shop")).data
    assert [job["name"] for job in labelled["items"]] == ["deploy"]


async def test_an_unknown_job_names_the_nearest(server: Running) -> None:
    answer = await ask(server, "GET", "/api/v1/jobs/deplyo")
    assert (answer.status, answer.data["code"], answer.data["hint"]) == (404, "not_found", "did you mean 'deploy'?")


async def test_plan_says_what_would_happen_and_does_nothing(server: Running) -> None:
    answer = await ask(server, "POST", "/api/v1/jobs/deploy/plan", {"parameters": {"version": "v1.3"}})
    assert answer.status == 200
    assert answer.data["parameters"]["env"] == "staging"
    clean = answer.data["steps"][-1]
    assert (clean["name"], clean["destructive"]) == ("clean", True)
    assert server.program.runs.calls == []


async def test_start_once_for_a_key(server: Running) -> None:
    body = {"parameters": {"version": "v1.3", "token": "hunter2"}, "reason": "release"}
    first = await ask(server, "POST", "/api/v1/jobs/deploy/runs", body, Idempotency_Key="k1")
    again = await ask(server, "POST", "/api/v1/jobs/deploy/runs", body, Idempotency_Key="k1")
    assert (first.status, again.status) == (201, 200)
    assert first.data["run_id"] == again.data["run_id"]
    assert first.headers["location"] == f"/api/v1/runs/{first.data['run_id']}"
    assert b"hunter2" not in first.body
    assert len(server.program.runs.calls) == 1
    request = server.program.runs.calls[0][1]
    assert (request.reason, request.actor.address) == ("release", "127.0.0.1")


async def test_a_start_with_wrong_parameters_is_refused(server: Running) -> None:
    answer = await ask(server, "POST", "/api/v1/jobs/deploy/runs", {"parameters": {"versoin": "v1"}})
    assert (answer.status, answer.data["code"]) == (400, "usage")
    assert "did you mean 'version'?" in answer.data["hint"]
    assert server.program.runs.calls == []


async def test_runs_by_filter_and_page(server: Running) -> None:
    everything = (await ask(server, "GET", "/api/v1/runs")).data["items"]
    assert len(everything) == 7
    first = (await ask(server, "GET", "/api/v1/runs?limit=3")).data
    rest = (await ask(server, "GET", f"/api/v1/runs?limit=10&cursor={first['next_cursor']}")).data
    assert [one["run_id"] for one in first["items"] + rest["items"]] == [one["run_id"] for one in everything]
    still = (await ask(server, "GET", "/api/v1/runs?state=open&job=deploy&label=team=shop")).data["items"]
    assert {one["state"] for one in still} == {"running", "paused"}
    wrong = await ask(server, "GET", "/api/v1/runs?state=runing")
    assert (wrong.status, wrong.data["hint"]) == (400, "did you mean 'running'?")


async def test_a_run_by_the_beginning_of_its_id(server: Running) -> None:
    assert (await ask(server, "GET", "/api/v1/runs/01992")).data["run_id"] == "01992222"
    assert (await ask(server, "GET", "/api/v1/runs/0199")).status == 400
    assert (await ask(server, "GET", "/api/v1/runs/nothing")).status == 404


async def test_a_run_has_a_tag_that_changes_with_it(server: Running) -> None:
    first = await ask(server, "GET", "/api/v1/runs/01992222")
    tag = first.headers["etag"]
    unchanged = await ask(server, "GET", "/api/v1/runs/01992222", If_None_Match=tag)
    assert (unchanged.status, unchanged.body) == (304, b"")
    server.program.runs.replace("01992222", waiting_for="a lock")
    changed = await ask(server, "GET", "/api/v1/runs/01992222", If_None_Match=tag)
    assert changed.status == 200
    stale = await ask(server, "POST", "/api/v1/runs/01992222/cancel", {}, If_Match=tag)
    assert (stale.status, stale.data["code"]) == (412, "conflict")
    assert server.program.runs.calls == []
    fresh = await ask(server, "POST", "/api/v1/runs/01992222/cancel", {}, If_Match=changed.headers["etag"])
    assert fresh.data["state"] == "cancelled"


async def test_orders_reach_the_run(server: Running) -> None:
    runs = server.program.runs
    assert (await ask(server, "POST", "/api/v1/runs/01992222/pause", {"reason": "wait"})).data["state"] == "paused"
    assert (await ask(server, "POST", "/api/v1/runs/01992222/resume", {})).data["state"] == "running"
    decided = {"approve": False, "comment": "not today"}
    assert (await ask(server, "POST", "/api/v1/runs/01993333/decide", decided)).status == 200
    again = await ask(server, "POST", "/api/v1/runs/01994444/rerun", {"failed_only": True}, Idempotency_Key="r")
    assert (again.status, again.data["rerun_of"]) == (201, "01994444")
    late = await ask(server, "POST", "/api/v1/runs/01991111/cancel", {})
    assert (late.status, late.data["code"]) == (409, "conflict")
    assert [call[0] for call in runs.calls] == ["pause", "resume", "decide", "rerun"]
    assert runs.calls[2][1:] == ("01993333", "sign-off", "local:console", False, "not today")
    assert runs.calls[3][3:] == (True, "r")


async def test_orders_from_another_site_are_refused(server: Running) -> None:
    answer = await ask(server, "POST", "/api/v1/runs/01992222/cancel", {}, Origin="http://evil.example")
    assert answer.status == 403
    assert server.program.runs.calls == []


async def test_output_by_step_search_and_cursor(server: Running) -> None:
    whole = (await ask(server, "GET", "/api/v1/runs/01992222/output?limit=2")).data
    assert [one["text"] for one in whole["items"]][1] == "test 1 passed\n"
    rest = (await ask(server, "GET", f"/api/v1/runs/01992222/output?limit=2&after={whole['next_after']}")).data
    assert [one["stream"] for one in rest["items"]] == ["stderr"]
    assert rest["next_after"] is None
    found = (await ask(server, "GET", "/api/v1/runs/01992222/output?step=test&search=WARN")).data
    assert [one["text"] for one in found["items"]] == ["a warning\n"]


async def test_workers_are_listed_and_drained(server: Running) -> None:
    listed = (await ask(server, "GET", "/api/v1/workers")).data["items"]
    assert [one["state"] for one in listed] == ["active", "lost"]
    drained = await ask(server, "POST", "/api/v1/workers/watch-1-4711-a1/drain")
    assert drained.data["state"] == "draining"
    resumed = await ask(server, "POST", "/api/v1/workers/watch-1-4711-a1/resume")
    assert resumed.data["state"] == "active"
    for verb in ("drain", "resume"):
        assert (await ask(server, "POST", f"/api/v1/workers/nobody/{verb}")).status == 404


async def test_a_database_in_trouble_is_a_503_that_says_so(server: Running) -> None:
    server.program.runs.error = TransientError("the state cannot be written: disk full", retry_after_s=3)
    answer = await ask(server, "GET", "/api/v1/runs")
    assert (answer.status, answer.data["code"], answer.headers["retry-after"]) == (503, "transient", "3")


# ── live ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Stream:
    """Reads one event stream."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def event(self) -> tuple[str, Any]:
        """Return the next event that is no beat."""
        name, data = "", ""
        async with asyncio.timeout(60):
            while True:
                line = (await self._reader.readline()).decode().rstrip("\r\n")
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data = line[6:]
                elif not line and name and name != "beat":
                    return name, json.loads(data)

    async def until(self, wanted: str) -> list[tuple[str, Any]]:
        found = []
        while not found or found[-1][0] != wanted:
            found.append(await self.event())
        return found


async def opened(server: Running, path: str, **headers: str) -> tuple[Stream, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
    return Stream(reader), writer


async def test_output_is_followed_to_its_end(server: Running) -> None:
    runs = server.program.runs
    stream, writer = await opened(server, "/api/v1/runs/01992222/output/follow?step=test")
    assert [(await stream.event())[1]["text"] for _ in range(2)] == ["test 1 passed\n", "a warning\n"]
    runs.say("01992222", "build", "not this step\n")
    runs.say("01992222", "test", "test 2 passed\n")
    assert (await stream.event())[1]["text"] == "test 2 passed\n"
    runs.finish("01992222")
    name, run = await stream.event()
    assert (name, run["state"]) == ("end", "succeeded")
    writer.close()
    await writer.wait_closed()


async def test_who_comes_back_goes_on_where_it_was(server: Running) -> None:
    stream, writer = await opened(server, "/api/v1/runs/01992222/output/follow", Last_Event_ID="2")
    assert (await stream.event())[1]["sequence"] == 3
    writer.close()
    await writer.wait_closed()


async def test_a_run_is_followed_with_its_steps(server: Running) -> None:
    runs = server.program.runs
    stream, writer = await opened(server, "/api/v1/runs/01992222/events")
    first = [await stream.event() for _ in range(10)]
    assert sorted(name for name, _ in first) == ["output"] * 3 + ["run"] + ["step"] * 6
    good = StepState.SUCCEEDED
    runs.set_steps("01992222", good, good, StepState.RUNNING)
    changed = await stream.event()
    assert (changed[0], changed[1]["name"], changed[1]["state"]) == ("step", "test", "succeeded")
    runs.say("01992222", "lint", "last words\n")
    runs.finish("01992222", RunState.FAILED, "lint failed")
    rest = await stream.until("end")
    assert ("output", "last words\n") in [(name, data.get("text")) for name, data in rest]
    assert rest[-1][1]["reason"] == "lint failed"
    writer.close()
    await writer.wait_closed()


async def test_a_stream_of_an_unknown_run_is_a_problem(server: Running) -> None:
    for path in ("events", "output/follow"):
        assert (await ask(server, "GET", f"/api/v1/runs/nothing/{path}")).status == 404


async def test_streams_are_bounded_and_end_with_the_server() -> None:
    program = FakeProgram(clock=SystemClock())
    furnish(program.runs)
    async with running(program, streams=1) as server:
        stream, writer = await opened(server, "/api/v1/runs/01992222/events")
        await stream.event()
        assert (await ask(server, "GET", "/api/v1/runs/01992222/events")).status == 429
        server.stop.set()
        await stream.until("bye")
        writer.close()
        await writer.wait_closed()
