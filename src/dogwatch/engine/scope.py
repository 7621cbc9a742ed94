"""What expressions and templates of a job may read, and the values behind it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from dogwatch.engine.action import Action
from dogwatch.engine.ledger import StepRow
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.templates import TemplateError, render_text
from dogwatch.engine.values import Json, Run, StepRun
from dogwatch.engine.variables import VARIABLES
from dogwatch.errors import UsageError
from dogwatch.expressions.conditions import Condition, ConditionError, ConditionFailure, compile_condition
from dogwatch.expressions.formula import Formula, compile_formula

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Action)


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """What others may read of a step: `steps.build.outputs.image`, `steps.build.state`."""

    state: str = "pending"
    outputs: Mapping[str, Json] = {}
    reason: str = ""
    attempt: int = 0

    @classmethod
    def of(cls, step: StepRow | StepRun) -> StepView:
        return cls(state=step.state.value, outputs=step.outputs, reason=step.reason, attempt=step.attempt)


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


def with_environment(action: A, env: Mapping[str, str]) -> A:
    """Return an action that has variables of its own with the job's below them."""
    own = getattr(action, "env", None)
    if isinstance(own, Mapping) and env:
        return msgspec.structs.replace(action, env={**env, **own})
    return action


def start_text(text: str, values: Mapping[str, Any]) -> str:
    """Return a concurrency key or the name of a lock, filled in when a run is started. values: params, trigger.

    Raises: UsageError.
    """
    try:
        filled = render_text(text, values)
    except TemplateError as error:
        raise UsageError(str(error), hint=error.hint) from None
    if text and not filled.strip():
        raise UsageError(f"'{text}' is empty with these parameters")
    return filled


def job_outputs(job: JobSpec, run: Run, steps: Sequence[StepRun]) -> dict[str, Json]:
    """Return what an ended run gives to the step that started it; an output that cannot be made is left out."""
    if not job.outputs:
        return {}
    views = {step.name: StepView.of(step) for step in steps}
    values = Scope(job=job, run=run, parameters=run.parameters, steps=views).values()
    outputs: dict[str, Json] = {}
    for name, text in job.outputs.items():
        try:
            outputs[name] = msgspec.to_builtins(formula(text).value(values))
        except (ConditionError, ConditionFailure) as error:
            log.info("run %s: output %s of the job cannot be made: %s", run.run_id, name, error)
    return outputs


@lru_cache(maxsize=1024)
def formula(text: str) -> Formula:
    """Return a compiled expression over variables.VARIABLES. Raises: ConditionError."""
    return compile_formula(text, VARIABLES)


@lru_cache(maxsize=1024)
def condition(text: str) -> Condition:
    """Return a compiled condition over variables.VARIABLES. Raises: ConditionError."""
    return compile_condition(text, VARIABLES)
