"""What expressions and templates of a job may read, and the values behind it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from dogwatch.engine.spec import JobSpec
from dogwatch.engine.templates import render_text
from dogwatch.engine.values import Json, Run
from dogwatch.engine.variables import VARIABLES
from dogwatch.expressions.conditions import Condition, ConditionError, ConditionFailure, compile_condition
from dogwatch.expressions.formula import Formula, compile_formula


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """What others may read of a step: `steps.build.outputs.image`, `steps.build.state`."""

    state: str = "pending"
    outputs: Mapping[str, Json] = {}
    reason: str = ""
    attempt: int = 0


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a step of a run can see. parameters: the real ones, secrets opened.

    step and attempt: whose turn it is. item: (its value, its index) in a map. result: outputs of the action, for the
    step's own further outputs.
    """

    job: JobSpec
    run: Run
    parameters: Mapping[str, Json]
    secrets: Mapping[str, str] = {}
    steps: Mapping[str, StepView] = {}
    step: str = ""
    attempt: int = 1
    item: tuple[Json, int] | None = None
    result: Mapping[str, Json] | None = None

    def values(self) -> dict[str, Any]:
        """Return the values by the names of variables.VARIABLES; what is not there at this place is left out."""
        run, trigger = self.run, self.run.trigger
        about = {
            "id": run.run_id,
            "job": run.job,
            "step": self.step,
            "attempt": self.attempt,
            "actor": run.actor.name,
            "actor_kind": run.actor.kind,
            "key": run.key,
            "priority": run.priority,
            "labels": dict(run.labels),
            "rerun_of": run.rerun_of,
            "parent": run.parent[0] if run.parent else "",
            "created_s": run.created_s,
            "started_s": run.started_s,
            "deadline_s": run.deadline_s,
        }
        values: dict[str, Any] = {
            "params": dict(self.parameters),
            "secrets": dict(self.secrets),
            "run": about,
            "trigger": {"kind": trigger.kind, "name": trigger.name, "data": dict(trigger.data)},
        }
        values["env"] = environment(self.job, values)
        values["steps"] = {name: msgspec.to_builtins(view) for name, view in self.steps.items()}
        if self.item is not None:
            values["item"], values["index"] = self.item
        if self.result is not None:
            values["result"] = dict(self.result)
        return values


def environment(job: JobSpec, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the job's environment, filled in. Raises: TemplateError."""
    return {name: render_text(text, values) for name, text in job.env.items()}


class StartKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What orders a run among others, filled in when it is started.

    concurrency: the key of the job's concurrency rule, "" where it has none. locks: names of resources, sorted.
    """

    concurrency: str = ""
    locks: tuple[str, ...] = ()


def start_keys(job: JobSpec, parameters: Mapping[str, Json], trigger: Mapping[str, Json]) -> StartKeys:
    """Return the keys of a run that is about to be started. trigger: kind, name, data.

    Raises: TemplateError.
    """
    values = {"params": dict(parameters), "trigger": dict(trigger)}
    key = ""
    if job.concurrency is not None:
        key = render_text(job.concurrency.key, values) if job.concurrency.key else job.name
    return StartKeys(concurrency=key, locks=tuple(sorted({render_text(lock, values) for lock in job.locks})))


def job_outputs(
    job: JobSpec, run: Run, steps: Mapping[str, StepView], parameters: Mapping[str, Json] | None = None
) -> tuple[dict[str, Json], list[str]]:
    """Return what an ended run gives to the step that started it, and what could not be made, a sentence each.

    parameters: those of the run where not given; no output reads a secret one.
    """
    given = run.parameters if parameters is None else parameters
    values = Scope(job=job, run=run, parameters=given, steps=steps).values()
    return named_outputs(job.outputs, values)


def named_outputs(formulas: Mapping[str, str], values: Mapping[str, Any]) -> tuple[dict[str, Json], list[str]]:
    """Return the values of outputs that are written as expressions, and what could not be made."""
    outputs: dict[str, Json] = {}
    mistakes: list[str] = []
    for name, text in formulas.items():
        try:
            outputs[name] = msgspec.to_builtins(formula(text).value(values))
        except (ConditionError, ConditionFailure) as error:
            mistakes.append(f"output {name}: {error}")
    return outputs, mistakes


@lru_cache(maxsize=1024)
def formula(text: str) -> Formula:
    """Return a compiled expression over variables.VARIABLES. Raises: ConditionError."""
    return compile_formula(text, VARIABLES)


@lru_cache(maxsize=1024)
def condition(text: str) -> Condition:
    """Return a compiled condition over variables.VARIABLES. Raises: ConditionError."""
    return compile_condition(text, VARIABLES)
