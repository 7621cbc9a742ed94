"""What a run of a job would do, with every template filled in as far as it is known. Nothing is done or read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.action import Change
from dogwatch.engine.graph_check import levels_of, needs_of
from dogwatch.engine.kinds.job import JobAction
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.masks import MASK, Masker
from dogwatch.engine.parameters import check_parameters, hidden_values, shown_parameters
from dogwatch.engine.scope import condition, with_environment
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.templates import Known, TemplateError, fields, render, template
from dogwatch.engine.values import Json, Trigger
from dogwatch.errors import DogwatchError
from dogwatch.expressions.conditions import ConditionError, ConditionFailure
from dogwatch.expressions.formula import Formula, Reading, readings

# Of a map's items, and of jobs that call jobs.
MOST_ITEMS = 20
MOST_DEPTH = 5


class StepPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a plan. level: steps of one level may run at the same time, from 0.

    runs: False where its condition is false, None where only the run will show. why: the condition, or what about it
    is not known. change: what it would do; `{{ … }}` in it is known at run time only, and unknown is True then.
    problem: why it would fail. items: of a map whose list is known, at most MOST_ITEMS; more: how many besides.
    calls: the plan of the job that it starts.
    """

    name: str
    kind: str
    needs: Sequence[str]
    level: int
    runs: bool | None = True
    why: str = ""
    always: bool = False
    change: Change | None = None
    unknown: bool = False
    problem: str = ""
    items: Sequence[Change] = ()
    more: int = 0
    calls: JobPlan | None = None


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would do. parameters: with defaults, secrets masked. steps: in the order in which they can begin.

    concurrency and locks: what it would wait for, "" and none where it waits for nothing.
    """

    job: str
    parameters: Mapping[str, Json]
    steps: Sequence[StepPlan]
    concurrency: str = ""
    locks: Sequence[str] = ()

    @property
    def problems(self) -> list[str]:
        """Why it would fail, a line for each step."""
        return [f"{step.name}: {step.problem}" for step in self.steps if step.problem]


def plan(
    job: JobSpec,
    parameters: Mapping[str, Json],
    *,
    jobs: Mapping[str, JobSpec] | None = None,
    actor: Actor | None = None,
    trigger: Trigger | None = None,
) -> JobPlan:
    """Return what a run with these parameters would do. jobs: those that its steps may call, planned with it.

    Raises: UsageError for parameters that a run could not be started with.
    """
    return _Planner(jobs or {}, actor, trigger or Trigger()).job(job, check_parameters(job, parameters), 0)


class _Planner:
    def __init__(self, jobs: Mapping[str, JobSpec], actor: Actor | None, trigger: Trigger) -> None:
        self._jobs, self._actor, self._trigger = jobs, actor, trigger

    def job(self, job: JobSpec, parameters: Mapping[str, Json], depth: int) -> JobPlan:
        shown = shown_parameters(job, parameters, MASK)
        about = {"job": job.name, "labels": dict(job.labels), "priority": job.priority, "attempt": 1}
        if self._actor is not None:
            about |= {"actor": self._actor.name, "actor_kind": self._actor.kind}
        values: dict[str, Any] = {
            "params": shown,
            "secrets": dict.fromkeys(job.secrets, MASK),
            "run": about,
            "trigger": msgspec.to_builtins(self._trigger),
        }
        masker = Masker([*job.secrets.values(), *hidden_values(job, parameters)])
        known = _Knowledge(values)
        values["env"] = {name: _text(text, values, known)[0] for name, text in job.env.items()}
        known.unknown_env = {name for name, text in job.env.items() if not _text(text, values, known)[1]}
        specs = {step.name: step for step in job.steps}
        needs = needs_of(job)
        steps = [
            self._step(job, specs[name], (needs[name], level), values, depth)
            for level, names in enumerate(levels_of(job))
            for name in names
        ]
        key = job.concurrency.key or job.name if job.concurrency is not None else ""
        found = JobPlan(
            job=job.name,
            parameters=shown,
            steps=steps,
            concurrency=_text(key, values, known)[0],
            locks=[_text(lock, values, known)[0] for lock in job.locks],
        )
        return _masked(found, masker)

    def _step(
        self, job: JobSpec, step: StepSpec, place: tuple[Sequence[str], int], before: Mapping[str, Any], depth: int
    ) -> StepPlan:
        values = {**before, "run": {**before["run"], "step": step.name}}
        known = _Knowledge(values)
        known.unknown_env = {name for name, text in job.env.items() if "{{" in values["env"][name] and "{{" in text}
        runs, why = _runs(step, job, values, known)
        found = StepPlan(
            name=step.name,
            kind=step.action.kind,
            needs=place[0],
            level=place[1],
            runs=runs,
            why=why,
            always=step.always,
        )
        if runs is False:
            return found
        try:
            action = with_environment(render(step.action, values, known), values["env"])
        except TemplateError as error:
            return msgspec.structs.replace(found, problem=str(error))
        unknown = any(not known(formula) for field in fields(step.action) for formula in field.template.formulas)
        found = msgspec.structs.replace(found, change=action.plan(), unknown=unknown)
        if isinstance(action, MapAction):
            return _with_items(found, action, values, known)
        if isinstance(action, JobAction):
            return self._with_call(found, action, depth)
        return found

    def _with_call(self, found: StepPlan, action: JobAction, depth: int) -> StepPlan:
        called = self._jobs.get(action.job)
        if called is None or depth >= MOST_DEPTH or found.unknown:
            return found
        # What is masked here is not what it will be given: its shape cannot be checked.
        hidden = {name for name, parameter in called.parameters.items() if parameter.secret}
        loose = {
            name: msgspec.structs.replace(parameter, type="string", choices=[], pattern="")
            if name in hidden
            else parameter
            for name, parameter in called.parameters.items()
        }
        try:
            given = check_parameters(msgspec.structs.replace(called, parameters=loose), action.parameters)
        except DogwatchError as error:
            return msgspec.structs.replace(found, problem=str(error))
        return msgspec.structs.replace(found, calls=self.job(called, given, depth + 1))


def _with_items(found: StepPlan, action: MapAction, values: Mapping[str, Any], known: _Knowledge) -> StepPlan:
    if not isinstance(action.over, list):
        return found
    items: list[Change] = []
    for index, item in enumerate(action.over[:MOST_ITEMS]):
        below = {**values, "item": item, "index": index}
        try:
            item_action = with_environment(render(action.do, below, known.of(below)), values["env"])
            items.append(item_action.plan())
        except TemplateError as error:
            return msgspec.structs.replace(found, problem=f"item {index}: {error}")
    return msgspec.structs.replace(found, items=items, more=max(0, len(action.over) - MOST_ITEMS))


class _Knowledge:
    """Says of a formula whether all that it reads is known before a run exists."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.unknown_env: set[str] = set()

    def of(self, values: Mapping[str, Any]) -> _Knowledge:
        other = _Knowledge(values)
        other.unknown_env = self.unknown_env
        return other

    def __call__(self, formula: Formula) -> bool:
        return self.all(formula.readings)

    def all(self, found: Sequence[Reading]) -> bool:
        return all(self._reads(reading.path) for reading in found)

    def _reads(self, path: Sequence[str | int]) -> bool:
        root = path[0]
        if root in ("steps", "result"):
            return False
        if root in ("item", "index"):
            return root in self._values
        if root == "run":
            return len(path) > 1 and path[1] in self._values["run"]
        if root == "env":
            return not self.unknown_env if len(path) == 1 else path[1] not in self.unknown_env
        return True


def _text(text: str, values: Mapping[str, Any], known: Known) -> tuple[str, bool]:
    """Return a text with what is known filled in, and whether that is all of it; as it is where it cannot be."""
    found = template(text)
    try:
        return found.fill(values, known), all(known(formula) for formula in found.formulas)
    except TemplateError:
        return text, False


def _runs(step: StepSpec, job: JobSpec, values: Mapping[str, Any], known: _Knowledge) -> tuple[bool | None, str]:
    if step.when is None:
        return True, ""
    found = list(readings(step.when))
    secret = {name for name, parameter in job.parameters.items() if parameter.secret}
    hidden = any(
        one.path[0] == "secrets" or (one.path[0] == "params" and (len(one.path) == 1 or one.path[1] in secret))
        for one in found
    )
    if hidden and (secret or any(one.path[0] == "secrets" for one in found)):
        return None, f"{step.when}: reads a secret"
    if not known.all(found):
        return None, step.when
    try:
        holds = condition(step.when).test(values)
        return holds, step.when if holds else condition(step.when).explain(values)
    except (ConditionError, ConditionFailure) as error:
        return None, str(error)


def _masked(found: JobPlan, masker: Masker) -> JobPlan:
    """Return the plan without secrets that stand in it as they are."""
    if not masker:
        return found
    return msgspec.convert(masker.clean(msgspec.to_builtins(found)), JobPlan)
