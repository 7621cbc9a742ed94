"""Jobs as configuration writes them. What types cannot say is checked by the section (engine/jobs.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dogwatch.core.units import Expression, Seconds, Secret
from dogwatch.engine.action import Action
from dogwatch.engine.values import Json

Count = Annotated[int, Meta(ge=1)]


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that a run is started with.

    doc: what it is for. required: whether it must be given; by default it must be where there is no default.
    type: what it must be. default: where it is not given; without one it must be given. choices: the only values
    allowed. pattern: an RE2 expression that text must match as a whole. min and max: of numbers. secret: masked
    wherever it could appear, and kept encrypted.
    """

    doc: str = ""
    type: Literal["string", "integer", "number", "boolean", "list", "map"] = "string"
    default: Json = None
    required: bool | None = None
    choices: list[Json] = []
    pattern: str = ""
    min: float | None = None
    max: float | None = None
    secret: bool = False


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a step is tried, and how long it waits between: full jitter below base · 2^n, at most cap.

    attempts: in all, the first included. base: the longest first wait. cap: the longest wait of all.
    on: transient: only errors that are worth another try. any: every error.
    """

    attempts: Count = 1
    base: Seconds = 1.0
    cap: Seconds = 60.0
    on: Literal["transient", "any"] = "any"


class Concurrency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many runs of the job (with the same key) at the same time, and what happens to one too many.

    key: a template over parameters; "" for the job itself. limit: that many run at the same time.
    policy: queue: it waits its turn, all of them in order. forbid: it is refused. replace: those before it are
    cancelled.
    """

    key: str = ""
    limit: Count = 1
    policy: Literal["queue", "forbid", "replace"] = "queue"


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `max` starts in any period of length `per`; more wait.

    max: how many. per: how long.
    """

    max: Count
    per: Seconds


class StepSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a job: a name and one action kind.

    name: letters, digits, `_` and `-`. retry: how often it is tried.
    needs: steps that must have succeeded; absent: the step written before it; []: none, it begins at once.
    when: a condition; where it is false the step is skipped. always: cleanup: it runs whatever became of what it needs,
    even after a cancel. allow_failure: its failure does not fail the run. timeout: of one attempt.
    after_crash: what becomes of an attempt that a crash cut off: retry it, or fail, for what must not happen twice.
    outputs: further outputs, name → CEL over `result`.
    """

    name: str
    action: Action
    needs: list[str] | None = None
    when: Expression | None = None
    always: bool = False
    allow_failure: bool = False
    timeout: Seconds | None = None
    retry: Retry = Retry()
    after_crash: Literal["retry", "fail"] = "retry"
    outputs: Mapping[str, Expression] = {}


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something to do, in steps.

    name: by which it is started. secrets: name → value, read by steps as `secrets.name`; never stored, masked in all
    output. timeout: of the whole run. on_error: stop: the first failed step cancels those that run and skips the rest.
    collect: what does not depend on it goes on. worker: labels that a worker must have. locks: names of resources that
    no two runs hold at once, templates. outputs: what the run gives to a step of another job that started it, name →
    CEL over its steps. env: variables that `env.name` reads and that programs of steps are given, templates. labels: to
    select its runs by. concurrency: how many of its runs at the same time. rate: how many starts in a time. priority:
    higher goes first. cleanup_timeout: how long the steps marked `always` may take once the run failed, was cancelled
    or ran out of time. parameters: what a run is started with. doc: what it is for. steps: what is done, in order or as
    `needs` says. keep: how long ended runs are kept; None for the engine's own time. deployment: its runs change what
    runs in production: they wait while a freeze of deployments is on; the label `deployment: "true"` says the same.
    """

    name: str
    doc: str = ""
    steps: list[StepSpec]
    parameters: Mapping[str, Parameter] = {}
    secrets: Mapping[str, Secret] = {}
    env: Mapping[str, str] = {}
    timeout: Seconds = 3600.0
    cleanup_timeout: Seconds = 300.0
    on_error: Literal["stop", "collect"] = "stop"
    outputs: Mapping[str, Expression] = {}
    concurrency: Concurrency | None = None
    locks: list[str] = []
    rate: RateLimit | None = None
    priority: int = 0
    labels: Mapping[str, str] = {}
    worker: Mapping[str, str] = {}
    keep: Seconds | None = None
    deployment: bool = False


def deploys(spec: JobSpec, labels: Mapping[str, str]) -> bool:
    """Return whether a run is a deployment. labels: of the run."""
    return spec.deployment or labels.get("deployment") == "true"
