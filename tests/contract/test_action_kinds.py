"""What every kind of action keeps to, whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.acting import FakeRuns, FakeScene
from tests.action_kinds import CHILD, SECRET, Act, asking, calling, http
from tests.probing import silent_tcp

from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SecretFiles, SourceFile
from dogwatch.config.load import Loader
from dogwatch.config.schema import field_docs, first_sentence, option_doc, structs
from dogwatch.core.component import Registry
from dogwatch.engine.action import Action, Change, Outcome, Wait
from dogwatch.engine.jobs import jobs_section
from dogwatch.engine.kinds import ENGINE_ACTIONS
from dogwatch.engine.kinds.approve import ApproveAction
from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.engine.kinds.http import HttpAction
from dogwatch.engine.kinds.job import JobAction
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.kinds.wait import WaitAction
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.engine.templates import render
from dogwatch.errors import ConfigError, Conflict, DogwatchError, PermanentError

Opener = Callable[[Path], AbstractAsyncContextManager["Act"]]


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


@act
async def wait_good(_: Path) -> AsyncIterator[Act]:
    yield Act(WaitAction(until="2020-01-01T00:00:00Z"))


@act
async def wait_waits(_: Path) -> AsyncIterator[Act]:
    yield Act(WaitAction(for_=60.0))


@act
async def wait_fails(_: Path) -> AsyncIterator[Act]:
    yield Act(WaitAction(until="soon"))


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
