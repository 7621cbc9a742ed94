"""A command over the fleet as a job that no configuration has, for the engine to carry out."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.spec import JobSpec, Parameter, StepSpec
from dogwatch.engine.values import StartRun, Trigger
from dogwatch.errors import UsageError
from dogwatch.fleet.action import SshAction
from dogwatch.fleet.connection import VARIABLE

JOB = "fleet:run"
STEP = "hosts"
_TEXTS = ("run", "script", "targets", "limit", "user", "sudo_user")
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
        **{
            name: _literal(getattr(action, name)) for name in ("run", "script", "targets", "limit", "user", "sudo_user")
        },
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
