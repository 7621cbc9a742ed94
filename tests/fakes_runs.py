"""Runs in memory: what engine/port.py promises, without a database and without work. Runs move when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.component import nearest
from dogwatch.core.metrics import Family
from dogwatch.core.values import Event
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.plan import JobPlan, StepPlan
from dogwatch.engine.port import Starter
from dogwatch.engine.spec import Concurrency, JobSpec, Parameter, StepSpec
from dogwatch.engine.values import (
    Chunk,
    Json,
    Page,
    Run,
    RunFilter,
    RunState,
    Started,
    StartRun,
    StepRun,
    StepState,
    Trigger,
    Worker,
)
from dogwatch.errors import Conflict, NotFound, UsageError

OPERATOR = Actor(kind="local", name="ada", address="127.0.0.1")


class FakeExec(Action, frozen=True, kw_only=True):
    """Says what it would run."""

    kind = "exec"
    run: str

    def plan(self) -> Change:
        return Change(
            summary=f"run {self.run}", undo="nothing: a command is not taken back", destructive="rm" in self.run
        )

    async def apply(self, scene: Scene) -> Outcome | Wait:
        return Outcome()


class FakeApprove(Action, frozen=True, kw_only=True):
    """Waits for a person."""

    kind = "approve"
    who: str = "ops"

    def plan(self) -> Change:
        return Change(summary=f"wait until {self.who} approves")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        return Wait(note=f"approval by {self.who}")


DEPLOY = JobSpec(
    name="deploy",
    doc="Builds the shop, asks, and rolls it out.",
    labels={"team": "shop"},
    parameters={
        "env": Parameter(doc="Where to.", choices=["staging", "production"], default="staging"),
        "version": Parameter(doc="What to roll out.", required=True, pattern=r"v\d+(\.\d+)*"),
        "replicas": Parameter(type="integer", default=2, min=1, max=20),
        "dry": Parameter(type="boolean", default=False),
        "token": Parameter(doc="Of the registry.", secret=True, default=""),
    },
    steps=[
        StepSpec(name="build", action=FakeExec(run="make build")),
        StepSpec(name="test", action=FakeExec(run="make test"), needs=["build"]),
        StepSpec(name="lint", action=FakeExec(run="make lint"), needs=["build"], allow_failure=True),
        StepSpec(name="sign-off", action=FakeApprove(who="ops"), needs=["test", "lint"]),
        StepSpec(name="roll-out", action=FakeExec(run="deploy {{ params.version }}"), needs=["sign-off"]),
        StepSpec(name="clean", action=FakeExec(run="rm -rf build"), needs=["roll-out"], always=True),
    ],
    concurrency=Concurrency(key="{{ params.env }}"),
)
BACKUP = JobSpec(
    name="backup/größe <b>",
    doc="Copies the databases <script>alert(1)</script>.",
    steps=[StepSpec(name="dump", action=FakeExec(run="pg_dump"))],
)


class FakeRuns:
    """Implements Runs. `put` adds a run as it is wanted; `finish` ends one; `say` adds output."""

    def __init__(self, clock: Clock, bus: Bus, jobs: Sequence[JobSpec] = (DEPLOY, BACKUP)) -> None:
        self._clock, self._bus = clock, bus
        self._jobs = list(jobs)
        self.runs: dict[str, Run] = {}
        self.step_rows: dict[str, list[StepRun]] = {}
        self.chunks: dict[str, list[Chunk]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self._keys: dict[tuple[str, str], str] = {}
        self._waiters: set[asyncio.Event] = set()
        now_s = clock.now_s()
        self._workers = [
            Worker(
                worker_id="watch-1-4711-a1",
                host="watch-1",
                pid=4711,
                state="active",
                labels={"zone": "a"},
                slots=4,
                busy=1,
                started_s=now_s - 4000,
                heartbeat_s=now_s - 1,
                version="0.1",
            ),
            Worker(
                worker_id="build-2-99-b2",
                host="build-2",
                pid=99,
                state="lost",
                slots=2,
                started_s=now_s - 9000,
                heartbeat_s=now_s - 600,
                version="0.1",
            ),
        ]

    # ── what a test does ─────────────────────────────────────────────────────────────────────────────────────────

    def put(self, run_id: str, job: str = "deploy", state: RunState = RunState.RUNNING, **more: Any) -> Run:
        now_s = self._clock.now_s()
        run = Run(
            run_id=run_id,
            job=job,
            state=state,
            actor=more.pop("actor", OPERATOR),
            trigger=more.pop("trigger", Trigger()),
            parameters=more.pop("parameters", {"env": "staging", "version": "v1.2"}),
            created_s=more.pop("created_s", now_s - 60),
            queued_s=now_s - 60,
            started_s=more.pop("started_s", None if state in (RunState.QUEUED, RunState.SCHEDULED) else now_s - 58),
            ended_s=more.pop("ended_s", now_s - 5 if state.ended else None),
            labels=more.pop("labels", {"team": "shop"}),
            **more,
        )
        self.runs[run_id] = run
        self.chunks.setdefault(run_id, [])
        spec = self._job(job)
        states = [StepState.PENDING] * len(spec.steps)
        if state == RunState.SUCCEEDED:
            states = [StepState.SUCCEEDED] * len(spec.steps)
        self.set_steps(run_id, *states)
        return run

    def set_steps(self, run_id: str, *states: StepState, reasons: Sequence[str] = ()) -> None:
        """Say how the run's steps are, in the order of its job."""
        run = self.runs[run_id]
        now_s = run.created_s + 60
        spec = self._job(run.job)
        rows = []
        for index, (step, state) in enumerate(zip(spec.steps, states, strict=False)):
            begun = state not in (StepState.PENDING, StepState.SKIPPED)
            rows.append(
                StepRun(
                    run_id=run_id,
                    name=step.name,
                    kind=step.action.kind,
                    state=state,
                    needs=step.needs or (),
                    attempt=1 if begun else 0,
                    reason=reasons[index] if index < len(reasons) else "",
                    started_s=now_s - 50 + index if begun else None,
                    ended_s=now_s - 40 + index if begun and state.ended else None,
                )
            )
        self.step_rows[run_id] = rows
        self._tell()

    def replace(self, run_id: str, **changes: Any) -> Run:
        self.runs[run_id] = msgspec.structs.replace(self.runs[run_id], **changes)
        self._tell()
        return self.runs[run_id]

    def finish(self, run_id: str, state: RunState = RunState.SUCCEEDED, reason: str = "") -> Run:
        return self.replace(run_id, state=state, reason=reason, ended_s=self._clock.now_s(), waiting_for="")

    def say(self, run_id: str, step: str, text: str, stream: str = "stdout") -> None:
        held = self.chunks.setdefault(run_id, [])
        held.append(
            Chunk(
                run_id=run_id,
                step=step,
                attempt=1,
                sequence=len(held) + 1,
                time_s=self._clock.now_s(),
                stream=stream,
                text=text,
            )
        )
        self._tell()

    def _tell(self) -> None:
        self._bus.publish(Event(topic="run", time_s=self._clock.now_s(), data={}))
        for waiter in self._waiters:
            waiter.set()

    def plan(self, request: StartRun) -> JobPlan:
        spec = self._job(request.job)
        self._check(spec, request.parameters)
        steps = [
            StepPlan(
                name=step.name,
                kind=step.action.kind,
                needs=step.needs or (),
                level=at,
                always=step.always,
                change=step.action.plan(),
            )
            for at, step in enumerate(spec.steps)
        ]
        defaults = {name: one.default for name, one in spec.parameters.items()}
        return JobPlan(job=spec.name, parameters={**defaults, **request.parameters}, steps=steps)

    def _check(self, spec: JobSpec, given: Mapping[str, Json]) -> None:
        unknown = set(given) - set(spec.parameters)
        if unknown:
            raise UsageError(f"unknown parameter '{min(unknown)}'", hint=nearest(min(unknown), list(spec.parameters)))
        missing = [name for name, one in spec.parameters.items() if one.required and name not in given]
        if missing:
            raise UsageError(f"parameter '{missing[0]}' must be given")

    # ── the port ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _job(self, name: str) -> JobSpec:
        for job in self._jobs:
            if job.name == name:
                return job
        raise NotFound(f"no job is called '{name}'", hint=nearest(name, [job.name for job in self._jobs]))

    def jobs(self) -> Sequence[JobSpec]:
        return self._jobs

    async def start(self, request: StartRun) -> Started:
        self._raise()
        spec = self._job(request.job)
        self._check(spec, request.parameters)
        key = (request.job, request.key)
        if request.key and key in self._keys:
            return Started(run=self.runs[self._keys[key]], created=False)
        run_id = f"0199{len(self.runs):04x}"
        self._keys[key] = run_id
        self.calls.append(("start", request))
        parameters = {
            name: "***" if spec.parameters[name].secret else value for name, value in request.parameters.items()
        }
        run = self.put(
            run_id, request.job, RunState.QUEUED, parameters=parameters, actor=request.actor, key=request.key
        )
        return Started(run=run, created=True)

    def starter(self, request: StartRun) -> Starter:
        raise NotImplementedError

    async def find(self, wanted: RunFilter) -> Page[Run]:
        self._raise()
        found = [
            run
            for run in sorted(self.runs.values(), key=lambda one: (-one.created_s, one.run_id))
            if (not wanted.job or run.job == wanted.job)
            and (not wanted.states or run.state in wanted.states)
            and (not wanted.trigger or run.trigger.kind == wanted.trigger)
            and (not wanted.parent or (run.parent or ("",))[0] == wanted.parent)
            and all(run.labels.get(key) == value for key, value in wanted.labels.items())
            and (wanted.since_s is None or run.created_s >= wanted.since_s)
        ]
        if wanted.cursor and not wanted.cursor.isdigit():
            raise UsageError("the cursor is not one of ours")
        start = int(wanted.cursor or 0)
        more = start + wanted.limit < len(found)
        return Page(
            items=found[start : start + wanted.limit],
            cursor=str(start + wanted.limit) if more else "",
            total=len(found) if wanted.count else None,
        )

    async def show(self, run_id: str) -> Run:
        self._raise()
        found = [run for key, run in self.runs.items() if key.startswith(run_id)]
        if run_id in self.runs:
            return self.runs[run_id]
        if not found or not run_id:
            raise NotFound(f"no run is called '{run_id}'")
        if len(found) > 1:
            raise UsageError(f"'{run_id}' is the beginning of {len(found)} runs", hint="give more of it")
        return found[0]

    async def steps(self, run_id: str) -> Sequence[StepRun]:
        return self.step_rows[(await self.show(run_id)).run_id]

    async def cancel(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        run = await self._open(run_id)
        self.calls.append(("cancel", run.run_id, str(actor), reason))
        return self.finish(run.run_id, RunState.CANCELLED, reason or f"cancelled by {actor}")

    async def _open(self, run_id: str) -> Run:
        run = await self.show(run_id)
        if run.state.ended:
            raise Conflict(f"the run {run.run_id} has {run.state} already")
        return run

    async def pause(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        run = await self._open(run_id)
        self.calls.append(("pause", run.run_id, str(actor), reason))
        return self.replace(run.run_id, state=RunState.PAUSED)

    async def resume(self, run_id: str, actor: Actor) -> Run:
        run = await self.show(run_id)
        if run.state != RunState.PAUSED:
            raise Conflict(f"the run {run.run_id} is not paused")
        self.calls.append(("resume", run.run_id, str(actor)))
        return self.replace(run.run_id, state=RunState.RUNNING)

    async def rerun(self, run_id: str, actor: Actor, *, failed_only: bool = False, key: str = "") -> Started:
        run = await self.show(run_id)
        if not run.state.ended:
            raise Conflict(f"the run {run.run_id} has not ended")
        self.calls.append(("rerun", run.run_id, str(actor), failed_only, key))
        new = self.put(f"0299{len(self.runs):04x}", run.job, RunState.QUEUED, rerun_of=run.run_id, actor=actor)
        return Started(run=new, created=True)

    async def decide(self, run_id: str, step: str, actor: Actor, *, approve: bool, comment: str = "") -> Run:
        run = await self.show(run_id)
        waiting = [one for one in self.step_rows[run.run_id] if one.state == StepState.WAITING]
        if not waiting or (step and step not in [one.name for one in waiting]):
            raise Conflict(f"nothing of the run {run.run_id} waits for a decision")
        self.calls.append(("decide", run.run_id, step or waiting[0].name, str(actor), approve, comment))
        self.step_rows[run.run_id] = [
            msgspec.structs.replace(one, state=StepState.SUCCEEDED if approve else StepState.FAILED)
            if one in waiting
            else one
            for one in self.step_rows[run.run_id]
        ]
        return self.replace(run.run_id, waiting_for="")

    async def signal(self, run_id: str, step: str, payload: Json) -> None:
        raise NotImplementedError

    async def output(
        self, run_id: str, *, step: str = "", after: int = 0, limit: int = 1000, search: str = ""
    ) -> Sequence[Chunk]:
        run = await self.show(run_id)
        return [
            one
            for one in self.chunks[run.run_id]
            if one.sequence > after and (not step or one.step == step) and search.lower() in one.text.lower()
        ][:limit]

    async def follow(self, run_id: str, *, step: str = "", after: int = 0) -> AsyncIterator[Chunk]:
        run_id = (await self.show(run_id)).run_id
        while True:
            ended = self.runs[run_id].state.ended
            for chunk in await self.output(run_id, step=step, after=after):
                after = chunk.sequence
                yield chunk
            if ended:
                return
            waiter = asyncio.Event()
            self._waiters.add(waiter)
            try:
                await waiter.wait()
            finally:
                self._waiters.discard(waiter)

    async def wait(self, run_id: str) -> Run:
        async for _chunk in self.follow(run_id):
            pass
        return await self.show(run_id)

    async def workers(self) -> Sequence[Worker]:
        self._raise()
        return self._workers

    async def drain(self, worker_id: str, actor: Actor, *, on: bool = True) -> Worker:
        for index, one in enumerate(self._workers):
            if one.worker_id == worker_id:
                self.calls.append(("drain" if on else "resume", worker_id, str(actor)))
                self._workers[index] = msgspec.structs.replace(one, state="draining" if on else "active")
                return self._workers[index]
        raise NotFound(f"no worker is called '{worker_id}'")

    def metrics(self) -> Iterable[Family]:
        return ()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error


def furnish(runs: FakeRuns) -> None:
    """Add one run of every kind, for pages to show."""
    good, running, waiting = StepState.SUCCEEDED, StepState.RUNNING, StepState.WAITING
    runs.put("01991111", state=RunState.SUCCEEDED)
    runs.put("01992222", state=RunState.RUNNING, worker="watch-1-4711-a1")
    runs.set_steps("01992222", good, running, running, StepState.PENDING, StepState.PENDING, StepState.PENDING)
    runs.say("01992222", "build", "compiling shop\n\x1b[32mok\x1b[0m <b>done</b>\n")
    runs.say("01992222", "test", "test 1 passed\n")
    runs.say("01992222", "test", "a warning\n", "stderr")
    runs.put("01993333", state=RunState.RUNNING, waiting_for="approval of sign-off")
    runs.set_steps("01993333", good, good, good, waiting, StepState.PENDING, StepState.PENDING)
    runs.put("01994444", state=RunState.FAILED, reason="step test failed: exit status 2")
    failed = [good, StepState.FAILED, good, StepState.SKIPPED, StepState.SKIPPED, good]
    runs.set_steps("01994444", *failed, reasons=("", "exit status 2"))
    runs.put("01995555", state=RunState.PAUSED)
    runs.put("01996666", "backup/größe <b>", RunState.QUEUED, waiting_for="a worker")
    runs.put("01997777", state=RunState.CANCELLED, reason="cancelled by local:ada")
