"""A command over the fleet as a job that no configuration has, for the engine to carry out."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.spec import Concurrency, JobSpec, Parameter, StepSpec
from dogwatch.engine.values import StartRun, Trigger
from dogwatch.errors import UsageError
from dogwatch.fleet.action import SshAction
from dogwatch.fleet.connection import VARIABLE
from dogwatch.fleet.desked import ApplyAction, PlanAction

JOB = "fleet:run"
STEP = "hosts"
PLAN_JOB, PLAN_STEP = "fleet:plan", "plan"
APPLY_JOB, APPLY_STEP = "fleet:apply", "apply"
_TEXTS = ("run", "script", "copy_file", "target", "fetch", "targets", "limit", "user", "sudo_user")
_LONGEST_S = 24 * 3600.0
_SLACK_S = 120.0


def adhoc_job(
    action: SshAction, *, actor: Actor, reason: str = "", labels: Mapping[str, str] = {}
) -> tuple[JobSpec, StartRun]:
    """Return the job of a command and what starts it. The environment travels as secret parameters.

    Raises: UsageError with what is wrong with the command.
    """
    for path, message, hint in action.faults():
        raise UsageError(f"{'.'.join(map(str, path))}: {message}", hint=hint)
    for name in action.env:
        if not VARIABLE.fullmatch(name):
            raise UsageError(f"'{name[:60]}' cannot be the name of an environment variable")
    given = {f"env_{name}": value for name, value in action.env.items()}
    literal = msgspec.structs.replace(
        action,
        **{name: _literal(getattr(action, name)) for name in _TEXTS},
        args=tuple(_literal(one) for one in action.args),
        env={name: f"{{{{ params.env_{name} }}}}" for name in action.env},
    )
    spec = JobSpec(
        name=JOB,
        doc=action.what,
        steps=[StepSpec(name=STEP, action=literal)],
        parameters={name: Parameter(secret=True) for name in given},
        timeout=(action.deadline or _LONGEST_S) + _SLACK_S,
        labels=labels,
    )
    request = StartRun(
        job=JOB,
        parameters=given,
        actor=actor,
        trigger=Trigger(kind="fleet", name=action.targets[:200], data={"command": action.what[:500]}),
        reason=reason,
    )
    return spec, request


def _literal(text: str) -> str:
    """Return text that no template is looked for in."""
    return text.replace("{{", "\\{{")


def plan_job(
    plan_id: str, what: str, *, actor: Actor, reason: str = "", labels: Mapping[str, str] = {}
) -> tuple[JobSpec, StartRun]:
    """Return the job that makes a plan of the desk. what: its playbook, for people."""
    spec = JobSpec(
        name=PLAN_JOB,
        doc=f"plan {what}",
        steps=[StepSpec(name=PLAN_STEP, action=PlanAction(plan_id=plan_id))],
        timeout=_LONGEST_S,
        labels=labels,
    )
    trigger = Trigger(kind="fleet", name=what[:200], data={"plan": plan_id})
    return spec, StartRun(job=PLAN_JOB, actor=actor, trigger=trigger, reason=reason)


def apply_job(
    action: ApplyAction, what: str, *, actor: Actor, reason: str = "", labels: Mapping[str, str] = {}
) -> tuple[JobSpec, StartRun]:
    """Return the job that applies a plan of the desk; of one plan there is one at a time.

    Raises: UsageError with what is wrong with it.
    """
    for path, message, hint in action.faults():
        raise UsageError(f"{'.'.join(map(str, path))}: {message}", hint=hint)
    literal = msgspec.structs.replace(action, targets=_literal(action.targets))
    spec = JobSpec(
        name=APPLY_JOB,
        doc=action.plan().summary,
        steps=[StepSpec(name=APPLY_STEP, action=literal)],
        timeout=_LONGEST_S,
        labels=labels,
        concurrency=Concurrency(key=action.plan_id, policy="forbid"),
    )
    trigger = Trigger(kind="fleet", name=what[:200], data={"plan": action.plan_id})
    return spec, StartRun(job=APPLY_JOB, actor=actor, trigger=trigger, reason=reason)
