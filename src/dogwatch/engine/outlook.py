"""What a start of a job would do, as a value that people are shown before it happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.engine.action import Action, Change
from dogwatch.engine.graph_check import needs_of
from dogwatch.engine.masks import Masker
from dogwatch.engine.parameters import check_parameters, hidden_values, shown_parameters
from dogwatch.engine.scope import Scope, start_keys
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.templates import TemplateError, render
from dogwatch.engine.values import Json, Run, RunState, StartRun
from dogwatch.errors import UsageError


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """note: under which condition it does that, "" for always."""

    name: str
    kind: str
    needs: Sequence[str] = ()
    change: Change
    note: str = ""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """parameters: as given and defaulted, secrets masked. locks: what it would hold."""

    job: str
    parameters: Mapping[str, Json]
    steps: Sequence[PlannedStep]
    locks: Sequence[str] = ()


# Raises: NotFound, UsageError (parameters, all mistakes at once).
Planner = Callable[[StartRun], Outlook]


def look_ahead(job: JobSpec, request: StartRun, now_s: float) -> Outlook:
    """Return what a start would do: templates are filled in as far as parameters and the trigger say them.

    Raises: UsageError (parameters, all mistakes at once).
    """
    parameters = check_parameters(job, request.parameters)
    masker = Masker((*job.secrets.values(), *hidden_values(job, parameters)))
    shown = shown_parameters(job, parameters)
    run = Run(
        run_id="RUN",
        job=job.name,
        state=RunState.QUEUED,
        parameters=shown,
        labels={**job.labels, **request.labels},
        actor=request.actor,
        trigger=request.trigger,
        created_s=now_s,
    )
    secrets = dict.fromkeys(job.secrets, "***")
    trigger = {"kind": request.trigger.kind, "name": request.trigger.name, "data": dict(request.trigger.data)}
    try:
        locks = start_keys(job, parameters, trigger).locks
    except TemplateError as error:
        raise UsageError(str(error), hint=error.hint) from error
    needs = needs_of(job)
    steps = []
    for step in job.steps:
        scope = Scope(job=job, run=run, parameters=shown, secrets=secrets, step=step.name)
        steps.append(_planned(step, tuple(needs[step.name]), scope))
    return Outlook(job=job.name, parameters=shown, steps=steps, locks=[masker.mask(lock) for lock in locks])


def _planned(step: StepSpec, needs: Sequence[str], scope: Scope) -> PlannedStep:
    action, whole = _filled(step.action, scope)
    notes = []
    if step.when:
        notes.append(f"only if {step.when}")
    if step.always:
        notes.append("whatever became of the steps before it")
    if step.allow_failure:
        notes.append("its failure does not fail the run")
    if not whole:
        notes.append("what it reads of earlier steps is known only then")
    return PlannedStep(name=step.name, kind=step.action.kind, needs=needs, change=action.plan(), note="; ".join(notes))


def _filled(action: Action, scope: Scope) -> tuple[Action, bool]:
    """Return the action with its templates filled in, where all of them can be now."""
    try:
        values: dict[str, Any] = scope.values()
        return render(action, values), True
    except TemplateError:
        return action, False
