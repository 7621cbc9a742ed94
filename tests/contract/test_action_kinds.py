"""What every kind of action keeps to, whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.acting import START_S, FakeRuns, FakeScene
from tests.probing import Trust, peer, silent_tcp

from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SecretFiles, SourceFile
from dogwatch.config.load import Loader
from dogwatch.config.schema import field_docs, first_sentence, option_doc, structs
from dogwatch.core.component import Registry
from dogwatch.engine.action import Action, Change, Outcome, Wait
from dogwatch.engine.http_client import HttpClient
from dogwatch.engine.jobs import jobs_section
from dogwatch.engine.kinds import ENGINE_ACTIONS
from dogwatch.engine.kinds.approve import ApproveAction, asked_of
from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.engine.kinds.http import LONGEST_RETRY_AFTER_S, HttpAction, retry_after_s
from dogwatch.engine.kinds.job import JobAction
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.kinds.wait import WaitAction
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.engine.port import Runs
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.templates import render
from dogwatch.engine.values import RunState
from dogwatch.errors import ConfigError, Conflict, DogwatchError, PermanentError, TransientError

SECRET = "hunter2-very-secret"
Opener = Callable[[Path], AbstractAsyncContextManager["Act"]]


@dataclass
class Act:
    """An action and the scene it is to meet."""

    action: Action
    scene: FakeScene = field(default_factory=FakeScene)


@dataclass
class Case:
    """One kind. example: as configuration writes it below the step. bad: options with the path that is at fault.

    good: ends well; waits: answers with a Wait; fails: raises; lasts: goes on until it is cancelled. None where there
    is no such thing for the kind.
    """

    example: str
    bad: list[tuple[str, str]]
    good: Opener | None = None
    waits: Opener | None = None
    fails: Opener | None = None
    lasts: Opener | None = None


def act(make: Callable[[Path], AsyncIterator[Act]]) -> Opener:
    return contextlib.asynccontextmanager(make)


# --- exec


@contextlib.asynccontextmanager
async def launching() -> AsyncIterator[FakeScene]:
    launcher = Launcher()
    await launcher.open()
    try:
        yield FakeScene({Launcher: launcher})
    finally:
        await launcher.close()


@act
async def exec_good(_: Path) -> AsyncIterator[Act]:
    async with launching() as scene:
        yield Act(ExecAction(run="echo hello", env={"TOKEN": SECRET}), scene)


@act
async def exec_fails(_: Path) -> AsyncIterator[Act]:
    async with launching() as scene:
        yield Act(ExecAction(run="echo sorry >&2; exit 3"), scene)


@act
async def exec_lasts(_: Path) -> AsyncIterator[Act]:
    async with launching() as scene:
        yield Act(ExecAction(run="sleep 60 & sleep 60"), scene)


# --- http


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    body = await reader.readexactly(int(length[1])) if length else b""
    path = head.split(" ")[1]
    status = re.match(r"/(\d{3})", path)
    text = json.dumps({"head": head, "body": body.decode()}).encode()
    if path == "/big":
        text = b"x" * 500_000
    extra = "Retry-After: 7\r\n" if "retry" in path else ""
    if path == "/move":
        status, extra = re.match(r"/(\d{3})", "/302"), "Location: /there\r\n"
    line = f"HTTP/1.1 {status[1] if status else 200} Fine\r\nContent-Type: application/json\r\n{extra}"
    writer.write(f"{line}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text)
    await writer.drain()


@contextlib.asynccontextmanager
async def asking(**changes: Any) -> AsyncIterator[FakeScene]:
    client = HttpClient()
    try:
        yield FakeScene({HttpClient: client}, **changes)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def http(path: str = "/", **options: Any) -> AsyncIterator[Act]:
    async with peer(_answer) as port, asking() as scene:
        yield Act(HttpAction(url=f"http://127.0.0.1:{port}{path}", **options), scene)


@act
async def http_good(_: Path) -> AsyncIterator[Act]:
    async with http("/x", json={"a": 1}, username="ann", password=SECRET) as one:
        yield one


@act
async def http_fails(_: Path) -> AsyncIterator[Act]:
    async with http("/404") as one:
        yield one


@act
async def http_lasts(_: Path) -> AsyncIterator[Act]:
    with silent_tcp() as port:
        async with asking() as scene:
            yield Act(HttpAction(url=f"http://127.0.0.1:{port}/"), scene)


# --- wait


@act
async def wait_good(_: Path) -> AsyncIterator[Act]:
    yield Act(WaitAction(until="2020-01-01T00:00:00Z"))


@act
async def wait_waits(_: Path) -> AsyncIterator[Act]:
    yield Act(WaitAction(for_=60.0))


@act
async def wait_fails(_: Path) -> AsyncIterator[Act]:
    yield Act(WaitAction(until="soon"))


# --- approve


@act
async def approve_good(_: Path) -> AsyncIterator[Act]:
    scene = FakeScene().wake({"approve": {"by": []}}, {"approve": True, "by": "user:ann", "comment": "fine"})
    yield Act(ApproveAction(message="go?"), scene)


@act
async def approve_waits(_: Path) -> AsyncIterator[Act]:
    yield Act(ApproveAction(by=["group:ops"], expires=60.0))


@act
async def approve_fails(_: Path) -> AsyncIterator[Act]:
    scene = FakeScene().wake({"approve": {"by": []}}, {"approve": False, "by": "user:bob", "comment": "no"})
    yield Act(ApproveAction(), scene)


# --- job

CHILD = JobSpec(
    name="child",
    steps=[StepSpec(name="last", action=WaitAction(for_=1.0))],
    outputs={"size": "steps.last.outputs.size"},
)


def calling(runs: FakeRuns, **changes: Any) -> FakeScene:
    return FakeScene({Runs: runs}, **changes)


@act
async def job_good(_: Path) -> AsyncIterator[Act]:
    runs = FakeRuns(CHILD)
    yield Act(JobAction(job="child", wait=False), calling(runs))


@act
async def job_waits(_: Path) -> AsyncIterator[Act]:
    yield Act(JobAction(job="child"), calling(FakeRuns(CHILD)))


@act
async def job_fails(_: Path) -> AsyncIterator[Act]:
    yield Act(JobAction(job="child"), calling(FakeRuns(CHILD, refusal=Conflict("it runs already"))))


# --- map


@act
async def map_fails(_: Path) -> AsyncIterator[Act]:
    yield Act(MapAction(over=[1], do=WaitAction(for_=1.0)))


CASES: dict[str, Case] = {
    "exec": Case(
        example="exec: {run: 'make {{ params.x }}', env: {A: '{{ params.x }}'}, ok: [0, 3]}",
        bad=[("exec: {}", "exec.run"), ("exec: {run: x, command: [y]}", "exec.run"), ("exec: ''", "exec.run")],
        good=exec_good,
        fails=exec_fails,
        lasts=exec_lasts,
    ),
    "http": Case(
        example="http: {url: 'http://x/{{ params.x }}', json: {a: '{{ params.x }}'}, expect: 'status == 200'}",
        bad=[
            ("http: {}", "http.url"),
            ("http: mailto:x", "http.url"),
            ("http: {url: 'http://'}", "http.url"),
            ("http: {url: 'http://x', form: {a: b}, json: 1}", "http.form"),
            ("http: {url: 'http://x', expect: status}", "http.expect"),
        ],
        good=http_good,
        fails=http_fails,
        lasts=http_lasts,
    ),
    "wait": Case(
        example="wait: {for: '{{ params.x }}'}",
        bad=[("wait: {}", "wait"), ("wait: -5s", "wait.for"), ("wait: {until: 8 o'clock}", "wait.until")],
        good=wait_good,
        waits=wait_waits,
        fails=wait_fails,
    ),
    "approve": Case(
        example="approve: {by: ['role:ops', ann], message: 'ship {{ params.x }}?', expires: 10m}",
        bad=[("approve: {by: ['']}", "approve.by[0]"), ("approve: {expires: 0s}", "approve.expires")],
        good=approve_good,
        waits=approve_waits,
        fails=approve_fails,
    ),
    "job": Case(
        example="job: {job: other, parameters: {y: '{{ params.x }}'}, wait: false}",
        bad=[
            ("job: {}", "job.job"),
            ("job: nobody", "job.job"),
            ("job: {job: other, parameters: {z: 1}}", "job.parameters.z"),
        ],
        good=job_good,
        waits=job_waits,
        fails=job_fails,
    ),
    "map": Case(
        example="map: {over: '{{ [params.x] }}', exec: 'echo {{ item }} {{ index }}', parallel: 2, on_error: collect}",
        bad=[
            ("map: {over: [1]}", "map"),
            ("map: {over: x, wait: 1s}", "map.over"),
            ("map: {over: [], wait: 1s, parallel: 0}", "map.parallel"),
        ],
        fails=map_fails,
    ),
}
KINDS = list(CASES)
TYPES: dict[str, Any] = {
    "int": int,
    "double": int | float,
    "string": str,
    "bool": bool,
    "list": list | tuple,
    "map": dict,
}
JOBS = jobs_section(Registry("action", *ENGINE_ACTIONS))
CATALOG = Catalog([JOBS])


def load(step: str) -> Action:
    """Return the action of a step. Raises: ConfigError."""
    text = f"""
jobs:
- {{name: one, parameters: {{x: {{default: v}}}}, steps: [{{name: step, {step}}}]}}
- {{name: other, parameters: {{y: {{required: false}}}}, steps: [{{name: a, wait: 1s}}]}}
"""
    loader = Loader([], CATALOG, environ={})
    reading = Reading(files=(SourceFile("jobs.yaml", text.encode()),))
    return loader.validate(loader.parse_reading(reading, SecretFiles())).get(JOBS)[0].steps[0].action


def openers(name: str) -> list[Any]:
    found = [(kind, getattr(case, name)) for kind, case in CASES.items() if getattr(case, name) is not None]
    return [pytest.param(opener, id=kind) for kind, opener in found]


def test_every_kind_has_a_case() -> None:
    assert [kind.kind for kind in ENGINE_ACTIONS] == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_its_example_is_read_filled_in_and_planned(kind: str) -> None:
    action = load(CASES[kind].example)
    assert action.kind == kind
    values = {"params": {"x": "5m"}, "item": 1, "index": 0}
    for one in (action, render(action, values)):
        change = one.plan()
        assert isinstance(change, Change)
        assert change.summary.strip()
        assert "\n" not in change.summary
    assert "{{ params.x }}" not in render(action, values).plan().summary


@pytest.mark.parametrize(("kind", "bad"), [(kind, bad) for kind in KINDS for bad in CASES[kind].bad])
def test_bad_options_are_refused_with_their_path(kind: str, bad: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(bad[0])
    paths = [problem.path.removeprefix("jobs[0].steps[0]").removeprefix(".") for problem in caught.value.problems]
    assert bad[1] in paths or (bad[1] == kind and f"{kind}" in paths), caught.value


@pytest.mark.parametrize("kind", ENGINE_ACTIONS, ids=KINDS)
def test_it_is_documented(kind: type[Action]) -> None:
    shape = next(shape for shape in structs(CATALOG) if shape.type is kind)
    assert [option.key for option in shape.keys.values() if not option_doc(option, field_docs(kind))] == []
    assert len(first_sentence(kind)) > 20
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "jobs.md").read_text()
    assert f"{kind.kind}:" in guide


@pytest.mark.parametrize("opener", openers("good"))
async def test_it_ends_with_what_it_says_it_gives(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as one:
        outcome = await one.action.apply(one.scene)
        assert isinstance(outcome, Outcome)
        declared = type(one.action).outputs
        assert set(declared) - {"*"} <= set(outcome.outputs)
        if "*" not in declared:
            assert set(outcome.outputs) == set(declared)
        for name, value in outcome.outputs.items():
            wanted = TYPES.get(declared.get(name, "dyn"))
            assert wanted is None or isinstance(value, wanted), name
        assert msgspec.json.decode(msgspec.json.encode(outcome.outputs)) is not None
        assert SECRET not in one.action.plan().summary


@pytest.mark.parametrize("opener", openers("waits"))
async def test_it_waits_with_a_note_and_a_memory_that_can_be_stored(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as one:
        wait = await one.action.apply(one.scene)
        assert isinstance(wait, Wait)
        assert wait.note
        assert wait.until_s is None or wait.until_s > one.scene.now_s
        memory = msgspec.json.decode(msgspec.json.encode(wait.memory))
        # Woken by something that is nobody's answer, before its time: it waits on, for no longer.
        again = await one.action.apply(one.scene.wake(memory, {"nonsense": 1}))
        assert isinstance(again, Wait)
        assert again.until_s == wait.until_s
        assert again.memory == memory


@pytest.mark.parametrize("opener", openers("fails"))
async def test_it_fails_with_an_error_of_ours(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as one:
        with pytest.raises(DogwatchError) as caught:
            await one.action.apply(one.scene)
        assert str(caught.value)


@pytest.mark.parametrize("opener", openers("lasts"))
async def test_it_ends_at_once_when_it_is_cancelled(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as one:
        task = asyncio.create_task(one.action.apply(one.scene))
        await asyncio.sleep(0.2)
        assert not task.done()
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 20.0


@pytest.mark.parametrize("kind", [ExecAction, HttpAction, JobAction])
async def test_a_program_without_the_service_says_so(kind: type[Action]) -> None:
    options = {ExecAction: {"run": "x"}, HttpAction: {"url": "http://x"}, JobAction: {"job": "x"}}[kind]  # type: ignore[index]
    with pytest.raises(PermanentError, match="this program has no"):
        await kind(**options).apply(FakeScene())


# --- what http promises


async def sent(path: str = "/", **options: Any) -> dict[str, Any]:
    async with http(path, **options) as one:
        outcome = await one.action.apply(one.scene)
        assert isinstance(outcome, Outcome)
        return dict(outcome.outputs)


async def test_http_sends_what_it_is_told() -> None:
    found = await sent("/a?b=1", query={"c": "d e", "f": "&"}, headers={"X-One": "1"}, form={"x": "a&b"})
    head = found["json"]["head"]
    assert head.startswith("POST /a?b=1&c=d+e&f=%26 HTTP/1.1")
    assert "X-One: 1" in head
    assert "Idempotency-Key: r1.one" in head
    assert "Content-Type: application/x-www-form-urlencoded" in head
    assert found["json"]["body"] == "x=a%26b"
    found = await sent("/", json={"a": [1]}, headers={"Idempotency-Key": "mine", "content-type": "text/x"})
    assert found["json"]["body"] == '{"a":[1]}'
    assert "Idempotency-Key: mine" in found["json"]["head"]
    assert "content-type: text/x" in found["json"]["head"]
    assert "application/json" not in found["json"]["head"]
    found = await sent("/", username="ann", password="pw")
    assert "Authorization: Basic YW5uOnB3" in found["json"]["head"]
    assert "Idempotency-Key" not in found["json"]["head"]
    assert found["json"]["head"].startswith("GET")


async def test_http_outputs_are_bounded() -> None:
    found = await sent("/big", body_limit=1000)
    assert len(found["body"]) == 1000
    assert found["truncated"] is True
    assert found["json"] is None


async def test_http_follows_redirects_as_told() -> None:
    assert (await sent("/move"))["url"].endswith("/there")
    with pytest.raises(PermanentError, match="status 302"):
        await sent("/move", redirects=0)
    assert (await sent("/move", redirects=0, expect="status == 302"))["status"] == 302


@pytest.mark.parametrize(
    ("path", "error", "wait_s"),
    [
        ("/500", TransientError, None),
        ("/503/retry", TransientError, 7.0),
        ("/429/retry", TransientError, 7.0),
        ("/408", TransientError, None),
        ("/404", PermanentError, None),
        ("/400/retry", PermanentError, None),
    ],
)
async def test_http_says_what_is_worth_another_try(path: str, error: type[DogwatchError], wait_s: float | None) -> None:
    with pytest.raises(error) as caught:
        await sent(path)
    assert getattr(caught.value, "retry_after_s", None) == wait_s
    assert f"status {path[1:4]}" in str(caught.value)


async def test_http_expectations_are_explained() -> None:
    found = await sent("/201", expect='status == 201 && json.head.startsWith("GET") && headers["content-type"] != ""')
    assert found["status"] == 201
    with pytest.raises(PermanentError, match=r"status 200, and json\.body == .done. was false: json\.body is"):
        await sent("/", expect='json.body == "done"')
    with pytest.raises(PermanentError, match="no such key"):
        await sent("/", expect="json.nothing == 1")


async def test_http_trusts_only_whom_it_is_told_to(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    async with peer(_answer, trust.server()) as port, asking() as scene:
        url = f"https://127.0.0.1:{port}/"
        with pytest.raises(PermanentError, match="certificate"):
            await HttpAction(url=url).apply(scene)
        for options in ({"ca_file": trust.ca_file}, {"verify": False}):
            outcome = await HttpAction(url=url, **options).apply(scene)  # type: ignore[arg-type]
            assert isinstance(outcome, Outcome)


async def test_http_keeps_to_its_time_and_the_attempts() -> None:
    with silent_tcp() as port:
        for timeout, left in ((0.1, 30.0), (30.0, 0.1)):
            async with asking(left_s=left) as scene:
                started = time.monotonic()
                with pytest.raises(TransientError):
                    await HttpAction(url=f"http://127.0.0.1:{port}/", timeout=timeout).apply(scene)
                assert time.monotonic() - started < 20


async def test_http_errors_do_not_show_what_may_be_secret() -> None:
    async with http(f"/404?token={SECRET}") as one:
        with pytest.raises(PermanentError) as caught:
            await one.action.apply(one.scene)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2020 08:00:00 GMT", 0.0),
        ("999999999", LONGEST_RETRY_AFTER_S),
        ("Fri, 15 Jan 9999 08:00:00 GMT", LONGEST_RETRY_AFTER_S),
    ],
)
def test_retry_after(value: str, want: float | None) -> None:
    assert retry_after_s(value, START_S) == want


# --- what wait promises


async def test_a_wait_keeps_its_time_over_a_restart() -> None:
    action, scene = WaitAction(for_="10m"), FakeScene()
    wait = await action.apply(scene)
    assert isinstance(wait, Wait)
    assert wait.until_s == START_S + 600
    scene.now_s += 400
    again = await action.apply(scene.wake(wait.memory))
    assert isinstance(again, Wait)
    assert again.until_s == START_S + 600
    scene.now_s += 200
    assert isinstance(await action.apply(scene), Outcome)


@pytest.mark.parametrize(
    ("until", "want"),
    [("2027-01-15T09:00:00+01:00", START_S), ("2027-01-15T08:00:05Z", START_S + 5), (f"{START_S + 9}", START_S + 9)],
)
async def test_a_wait_until_a_time(until: str, want: float) -> None:
    result = await WaitAction(until=until).apply(FakeScene(now_s=START_S - 1))
    assert isinstance(result, Wait)
    assert result.until_s == want


async def test_a_wait_is_bounded() -> None:
    with pytest.raises(PermanentError, match="longer than 366d"):
        await WaitAction(until="2099-01-01T00:00:00Z").apply(FakeScene())


# --- what approve promises


async def test_approval_says_whom_it_asks() -> None:
    wait = await ApproveAction(by=["group:ops", "ann"], message="ship?", expires=60).apply(FakeScene())
    assert isinstance(wait, Wait)
    assert wait.note == "approval by group:ops, ann"
    assert wait.memory == {"approve": {"by": ["group:ops", "ann"], "expires_s": START_S + 60, "message": "ship?"}}
    asked = asked_of(msgspec.json.decode(msgspec.json.encode(wait.memory)))
    assert asked is not None
    assert asked.by == ["group:ops", "ann"]
    assert asked_of({"run_id": "x"}) is None
    assert asked_of({"approve": 3}) is None


async def test_an_answer_is_an_output_and_a_rejection_an_error() -> None:
    scene = FakeScene().wake({"approve": {"by": []}}, {"approve": True, "by": "user:ann", "comment": "fine"})
    outcome = await ApproveAction().apply(scene)
    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"approved": True, "approved_by": "user:ann", "comment": "fine", "expired": False}
    scene.signal = {"approve": False, "by": "user:bob", "comment": "not today"}
    with pytest.raises(PermanentError, match="rejected by user:bob: not today"):
        await ApproveAction().apply(scene)


@pytest.mark.parametrize("then", ["fail", "approve", "skip"])
async def test_an_answer_that_never_comes(then: Any) -> None:
    action, scene = ApproveAction(expires=60, on_expiry=then), FakeScene()
    wait = await action.apply(scene)
    assert isinstance(wait, Wait)
    scene.now_s += 60
    scene.wake(wait.memory)
    if then == "fail":
        with pytest.raises(PermanentError, match="nobody answered within 1m"):
            await action.apply(scene)
        return
    outcome = await action.apply(scene)
    assert isinstance(outcome, Outcome)
    assert (outcome.outputs["approved"], outcome.outputs["expired"]) == (then == "approve", True)


# --- what job promises


async def started(runs: FakeRuns, **changes: Any) -> tuple[JobAction, FakeScene, Wait]:
    action, scene = JobAction(job="child", parameters={"a": 1}), calling(runs, **changes)
    wait = await action.apply(scene)
    assert isinstance(wait, Wait)
    return action, scene, wait


async def test_a_job_is_started_once_as_a_child() -> None:
    runs = FakeRuns(CHILD)
    _, _, wait = await started(runs)
    (request,) = runs.started
    assert (request.job, dict(request.parameters), request.parent) == ("child", {"a": 1}, ("r1", "one"))
    assert (str(request.actor), request.key, request.trigger.kind) == ("run:r1", "r1/one/1", "run")
    assert wait.memory == {"run_id": "c1"}
    # Cut off by a crash after it was started: the next attempt finds it.
    _, _, again = await started(runs, attempt=2)
    assert again.memory == {"run_id": "c1"}
    assert len(runs.started) == 1


async def test_a_job_that_failed_is_started_anew_by_the_next_attempt() -> None:
    runs = FakeRuns(CHILD)
    await started(runs)
    for other in ("two", "three", "four"):
        await started(runs, step=other)
    runs.end("c1", RunState.FAILED)
    _, _, wait = await started(runs, attempt=2)
    assert wait.memory == {"run_id": "c5"}
    assert runs.started[-1].key == "r1/one/2"


async def test_a_signal_brings_the_outputs_of_the_child() -> None:
    runs = FakeRuns(CHILD)
    action, scene, wait = await started(runs)
    signal = {"run_id": "c1", "state": "succeeded", "reason": "", "outputs": {"size": 3}}
    outcome = await action.apply(scene.wake(wait.memory, signal))
    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"size": 3, "run_id": "c1"}
    # The signal of another run is none.
    assert isinstance(await action.apply(scene.wake(wait.memory, {**signal, "run_id": "c9"})), Wait)


async def test_a_lost_signal_is_made_good_by_looking() -> None:
    runs = FakeRuns(CHILD)
    action, scene, wait = await started(runs)
    runs.end("c1", RunState.SUCCEEDED, outputs={"size": 4})
    outcome = await action.apply(scene.wake(wait.memory))
    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"size": 4, "run_id": "c1"}


@pytest.mark.parametrize(("state", "word"), [(RunState.FAILED, "failed"), (RunState.CANCELLED, "was cancelled")])
async def test_a_child_that_fails_fails_the_step(state: RunState, word: str) -> None:
    runs = FakeRuns(CHILD)
    action, scene, wait = await started(runs)
    runs.end("c1", state, "disk full")
    with pytest.raises(PermanentError, match=f"run c1 of child {word}: disk full"):
        await action.apply(scene.wake(wait.memory))
