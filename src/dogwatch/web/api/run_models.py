"""The shapes of jobs, runs and workers in the API. Times are seconds since 1970 UTC, durations seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta

from dogwatch.core.component import nearest
from dogwatch.engine.graph_check import needs_of
from dogwatch.engine.parameters import is_required
from dogwatch.engine.spec import JobSpec, Parameter
from dogwatch.engine.tracing import trace_of
from dogwatch.engine.values import Chunk, Run, RunState, StepRun, Worker
from dogwatch.errors import UsageError

State = Literal["scheduled", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
RunIdParam = Annotated[str, PathParameter(max_length=200, description="Id of a run, or a beginning only one has")]
LabelQuery = Annotated[list[str] | None, QueryParameter(max_items=20, description="`team=shop`; all must match")]
Cursor = Annotated[str, QueryParameter(max_length=2000, description="next_cursor of the page before")]
Reason = Annotated[str, Meta(max_length=2000)]
ShortText = Annotated[str, Meta(max_length=200)]


class ActorOut(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    name: str


class TriggerOut(msgspec.Struct, frozen=True, kw_only=True):
    """Why it was started. kind: manual, schedule, webhook, rule, run, fleet. data: what came with it."""

    kind: str
    name: str
    data: dict[str, Any]


class RunOut(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is now. trace_id: of its spans, and of what its programs log. parent: the run whose step started it.
    duration_s: since it began to work.
    """

    run_id: str
    trace_id: str
    job: str
    state: State
    ended: bool
    reason: str
    waiting_for: str
    parameters: dict[str, Any]
    labels: dict[str, str]
    actor: ActorOut
    trigger: TriggerOut
    key: str
    priority: int
    parent: str
    parent_step: str
    rerun_of: str
    worker: str
    created_s: float
    due_s: float | None
    queued_s: float | None
    started_s: float | None
    ended_s: float | None
    deadline_s: float | None


def run_out(run: Run) -> RunOut:
    parent, step = run.parent or ("", "")
    return RunOut(
        run_id=run.run_id,
        trace_id=trace_of(run.run_id),
        job=run.job,
        state=run.state.value,
        ended=run.state.ended,
        reason=run.reason,
        waiting_for=run.waiting_for,
        parameters=dict(run.parameters),
        labels=dict(run.labels),
        actor=ActorOut(kind=run.actor.kind, name=run.actor.name),
        trigger=TriggerOut(kind=run.trigger.kind, name=run.trigger.name, data=dict(run.trigger.data)),
        key=run.key,
        priority=run.priority,
        parent=parent,
        parent_step=step,
        rerun_of=run.rerun_of,
        worker=run.worker,
        created_s=run.created_s,
        due_s=run.due_s,
        queued_s=run.queued_s,
        started_s=run.started_s,
        ended_s=run.ended_s,
        deadline_s=run.deadline_s,
    )


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. total: matches on all pages, 10000 for 10,000 or more; null behind the first page, for labels, and
    for whoever may see only some. next_cursor: "" on the last page.
    """

    items: list[RunOut]
    total: int | None = None
    next_cursor: str = ""


class StepOut(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run. name: `deploy`, or `deploy[2]` for the third item of a map."""

    name: str
    kind: str
    state: str
    needs: list[str]
    attempt: int
    reason: str
    started_s: float | None
    ended_s: float | None
    wake_s: float | None
    outputs: dict[str, Any]


def step_out(step: StepRun) -> StepOut:
    return StepOut(
        name=step.name,
        kind=step.kind,
        state=step.state.value,
        needs=list(step.needs),
        attempt=step.attempt,
        reason=step.reason,
        started_s=step.started_s,
        ended_s=step.ended_s,
        wake_s=step.wake_s,
        outputs=dict(step.outputs),
    )


class ChunkOut(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of output. sequence: give it as `after` for what follows. stream: stdout, stderr, note (Dogwatch's)."""

    step: str
    attempt: int
    sequence: int
    time_s: float
    stream: str
    text: str


def chunk_out(chunk: Chunk) -> ChunkOut:
    return ChunkOut(
        step=chunk.step,
        attempt=chunk.attempt,
        sequence=chunk.sequence,
        time_s=chunk.time_s,
        stream=chunk.stream,
        text=chunk.text,
    )


class OutputPage(msgspec.Struct, frozen=True, kw_only=True):
    """Oldest first. next_after: give it as `after` for what follows; null where there is no more now."""

    items: list[ChunkOut]
    next_after: int | None = None


class ParameterOut(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    doc: str
    type: str
    required: bool
    default: Any
    choices: list[Any]
    pattern: str
    min: float | None
    max: float | None
    secret: bool


def parameter_out(name: str, one: Parameter) -> ParameterOut:
    return ParameterOut(
        name=name,
        doc=one.doc,
        type=one.type,
        required=is_required(one),
        default=None if one.secret else one.default,
        choices=list(one.choices),
        pattern=one.pattern,
        min=one.min,
        max=one.max,
        secret=one.secret,
    )


class JobStepOut(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    needs: list[str]
    when: str
    always: bool
    allow_failure: bool


class JobOut(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the configuration in force has it. last_run: the newest, or null. next_s: when a schedule starts it."""

    name: str
    doc: str
    labels: dict[str, str]
    parameters: list[ParameterOut]
    steps: list[JobStepOut]
    on_error: str
    timeout_s: float
    worker: dict[str, str]
    last_run: RunOut | None = None
    next_s: float | None = None


def job_out(job: JobSpec, last_run: Run | None = None, next_s: float | None = None) -> JobOut:
    needs = needs_of(job)
    return JobOut(
        name=job.name,
        doc=job.doc,
        labels=dict(job.labels),
        parameters=[parameter_out(name, one) for name, one in job.parameters.items()],
        steps=[
            JobStepOut(
                name=step.name,
                kind=step.action.kind,
                needs=list(needs[step.name]),
                when=step.when or "",
                always=step.always,
                allow_failure=step.allow_failure,
            )
            for step in job.steps
        ],
        on_error=job.on_error,
        timeout_s=job.timeout,
        worker=dict(job.worker),
        last_run=None if last_run is None else run_out(last_run),
        next_s=next_s,
    )


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """By name. total: matches on all pages."""

    items: list[JobOut]
    total: int
    next_cursor: str = ""


class WorkerOut(msgspec.Struct, frozen=True, kw_only=True):
    """A process that executes runs. state: active, draining, lost."""

    worker_id: str
    host: str
    pid: int
    state: str
    labels: dict[str, str]
    slots: int
    busy: int
    started_s: float
    heartbeat_s: float
    version: str


def worker_out(worker: Worker) -> WorkerOut:
    return WorkerOut(
        worker_id=worker.worker_id,
        host=worker.host,
        pid=worker.pid,
        state=worker.state,
        labels=dict(worker.labels),
        slots=worker.slots,
        busy=worker.busy,
        started_s=worker.started_s,
        heartbeat_s=worker.heartbeat_s,
        version=worker.version,
    )


class StartIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run is started with. due_s: not before this time. priority: higher goes first; null for the job's own."""

    parameters: dict[str, Any] = {}
    reason: Reason = ""
    labels: dict[ShortText, ShortText] = {}
    due_s: Annotated[float, Meta(ge=0, le=1e11)] | None = None
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] | None = None


class PlanIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    parameters: dict[str, Any] = {}


class PlannedStepOut(msgspec.Struct, frozen=True, kw_only=True):
    """What a step would do. level: steps of one level may run at the same time; steps of a job that is called stand
    after the step that calls it, named `call › step`. runs: false where its condition is false, null where only the
    run will show; why: the condition. problem: why it would fail. unknown: `{{ … }}` in it is known at run time only.
    """

    name: str
    kind: str
    needs: list[str]
    level: int
    runs: bool | None
    why: str
    always: bool
    summary: str
    details: list[str]
    undo: str
    destructive: bool
    unknown: bool
    problem: str


class PlanOut(msgspec.Struct, frozen=True, kw_only=True):
    """What would run, with every template filled in as far as it is known. Nothing was done.

    concurrency and locks: what it would wait for. problems: why it would fail, a line each.
    """

    job: str
    parameters: dict[str, Any]
    steps: list[PlannedStepOut]
    concurrency: str
    locks: list[str]
    problems: list[str]


class ReasonIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Reason = ""


class RerunIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """failed_only: steps that succeeded keep their outputs and are not repeated."""

    failed_only: bool = False


class DecideIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """step: "" where only one waits."""

    approve: bool
    step: ShortText = ""
    comment: Reason = ""


def parse_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return labels written `team=shop`. Raises: UsageError."""
    found = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise UsageError(f"'{label}' is not a label", hint="write it as team=shop")
        found[key] = value
    return found


def parse_states(states: Iterable[str]) -> tuple[RunState, ...]:
    """Return states by their words; `open` stands for all that have not ended. Raises: UsageError."""
    found: list[RunState] = []
    for word in states:
        if word == "open":
            found += [state for state in RunState if not state.ended]
        elif word in list(RunState):
            found.append(RunState(word))
        else:
            raise UsageError(f"unknown state '{word}'", hint=nearest(word, [*RunState, "open"]))
    return tuple(dict.fromkeys(found))
