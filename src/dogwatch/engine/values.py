"""What exists while jobs run: runs, steps, triggers, workers. Times are wall-clock seconds since 1970."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from dogwatch.access.actor import Actor

T = TypeVar("T")
# What JSON can say: parameters, outputs, payloads.
Json = Any


class RunState(enum.StrEnum):
    """scheduled: due later. queued: waits for a worker, a lock or its turn. The last three are final."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class StepState(enum.StrEnum):
    """pending: not its turn. waiting: for a time, a decision or another run; costs no worker. skipped: its condition
    was false, or what it needs did not succeed.
    """

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        return self not in (StepState.PENDING, StepState.RUNNING, StepState.WAITING)


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run was started. kind: manual, schedule, webhook, rule, run, fleet. name: which of them, or its id.

    data: what came with it (a webhook's payload, a rule's evidence), as steps read it in `trigger`.
    """

    kind: str = "manual"
    name: str = ""
    data: Mapping[str, Json] = {}


class StartRun(msgspec.Struct, frozen=True, kw_only=True):
    """What starts a run. key: idempotency key; a second start with the same key returns the first one's run.

    due_s: not before this time. priority: higher goes first; None for the job's own. parent: (run id, step name) of
    the step that starts it: it is cancelled with its parent. labels: added to the job's own. withheld: keys of
    trigger.data that are sealed as a whole, beside what holds the value of a secret parameter.
    """

    job: str
    parameters: Mapping[str, Json] = {}
    actor: Actor
    trigger: Trigger = Trigger()
    key: str = ""
    due_s: float | None = None
    priority: int | None = None
    reason: str = ""
    labels: Mapping[str, str] = {}
    parent: tuple[str, str] | None = None
    withheld: tuple[str, ...] = ()


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a job.

    reason: why it is in its state, one sentence. waiting_for: "approval of deploy", "lock db-1", "job backup"; ""
    while it works. parameters: as given and defaulted, secrets masked. attempt: 1, more after a rerun of failed steps.
    """

    run_id: str
    job: str
    state: RunState
    reason: str = ""
    waiting_for: str = ""
    parameters: Mapping[str, Json] = {}
    labels: Mapping[str, str] = {}
    actor: Actor
    trigger: Trigger
    key: str = ""
    priority: int = 0
    parent: tuple[str, str] | None = None
    rerun_of: str = ""
    attempt: int = 1
    worker: str = ""
    created_s: float
    due_s: float | None = None
    queued_s: float | None = None
    started_s: float | None = None
    ended_s: float | None = None
    deadline_s: float | None = None


class StepRun(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run. name: `deploy`, or `deploy[2]` for the third item of a map. attempt: from 1.

    reason: why it failed, waits or was skipped. wake_s: when it is looked at again, while it waits.
    """

    run_id: str
    name: str
    kind: str
    state: StepState
    needs: Sequence[str] = ()
    attempt: int = 0
    reason: str = ""
    started_s: float | None = None
    ended_s: float | None = None
    wake_s: float | None = None
    outputs: Mapping[str, Json] = {}


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a step's output. sequence: within the run, growing. stream: stdout, stderr, or note (the engine's)."""

    run_id: str
    step: str
    attempt: int
    sequence: int
    time_s: float
    stream: str
    text: str


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A process that executes runs. state: active, draining, lost. slots: runs at the same time; busy: those now."""

    worker_id: str
    host: str
    pid: int
    state: str
    labels: Mapping[str, str] = {}
    slots: int
    busy: int = 0
    started_s: float
    heartbeat_s: float
    version: str = ""


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs to list, newest first. cursor: from the page before. labels: all of them must match. count: say how
    many match on all pages.
    """

    job: str = ""
    states: tuple[RunState, ...] = ()
    trigger: str = ""
    parent: str = ""
    labels: Mapping[str, str] = {}
    since_s: float | None = None
    limit: int = 50
    cursor: str = ""
    count: bool = False


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Some of a list. cursor: asks for what follows; "" at the end. total: on all pages, None where not counted."""

    items: Sequence[T]
    cursor: str = ""
    total: int | None = None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """created: False where the key was known and nothing new was started."""

    run: Run
    created: bool
