"""What tests of runs need: a book over a database, jobs made of actions that do nothing, and a worker's identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dogwatch.access.actor import Actor
from dogwatch.core.clock import Clock, SystemClock
from dogwatch.core.component import Registry
from dogwatch.core.units import Secret
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.ledger import Advance, Claimed, StepRow, WorkerIdentity
from dogwatch.engine.runs import Means, RunBook
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.values import RunState, Started, StartRun, StepState
from dogwatch.errors import UsageError
from dogwatch.store.database import Database

ALICE = Actor(kind="user", name="alice", address="192.0.2.7")
BOB = Actor(kind="user", name="bob")


class Nothing(Action, frozen=True, kw_only=True):
    """Does nothing."""

    kind: ClassVar[str] = "nothing"
    text: str = ""
    token: Secret = ""
    inner: StepSpec | None = None

    def plan(self) -> Change:
        return Change(summary="do nothing")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        return Outcome()


ACTIONS: Registry[Action] = Registry("action", Nothing)


def job(name: str = "build", *steps: StepSpec, **options: Any) -> JobSpec:
    return JobSpec(name=name, steps=list(steps) or [StepSpec(name="one", action=Nothing())], **options)


def check(spec: JobSpec, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let anything through that is no parameter named `bad`."""
    if "bad" in given:
        raise UsageError("bad: no such parameter")
    return {name: parameter.default for name, parameter in spec.parameters.items()} | dict(given)


def render(text: str, variables: Mapping[str, Any]) -> str:
    for name, value in variables["params"].items():
        text = text.replace(f"{{{{ params.{name} }}}}", str(value))
    return text


class Plain:
    """A sealer whose seal anyone can break."""

    def seal(self, data: bytes) -> bytes:
        return data[::-1]

    def open(self, sealed: bytes) -> bytes:
        return sealed[::-1]


def book(database: Database, *jobs: JobSpec, clock: Clock | None = None, **means: Any) -> RunBook:
    by_name = {one.name: one for one in jobs or (job(),)}
    return RunBook(
        database,
        Means(
            jobs=means.pop("current", lambda: by_name),
            actions=ACTIONS,
            clock=clock or SystemClock(),
            check=check,
            render=render,
            sealer=means.pop("sealer", Plain()),
            **means,
        ),
    )


def identity(worker_id: str = "w1", **changes: Any) -> WorkerIdentity:
    values: dict[str, Any] = {
        "worker_id": worker_id, "host": "host-1", "boot_id": "boot", "pid": 100, "labels": {}, "slots": 10,
        "ttl_s": 6.0, "version": "1",
    }  # fmt: skip
    return WorkerIdentity(**values | changes)


async def start(runs: RunBook, name: str = "build", **options: Any) -> Started:
    return await runs.start(StartRun(job=name, actor=options.pop("actor", ALICE), **options))


def step(name: str = "one", state: StepState = StepState.RUNNING, **values: Any) -> StepRow:
    return StepRow(name=name, kind="nothing", state=state, attempt=values.pop("attempt", 1), **values)


async def finish(runs: RunBook, claimed: Claimed, state: RunState = RunState.SUCCEEDED, *steps: StepRow) -> None:
    await runs.advance(Advance(run_id=claimed.run.run_id, fence=claimed.fence, steps=steps, state=state))


async def park(runs: RunBook, claimed: Claimed, *steps: StepRow, **values: Any) -> None:
    await runs.advance(Advance(run_id=claimed.run.run_id, fence=claimed.fence, steps=steps, release=True, **values))
