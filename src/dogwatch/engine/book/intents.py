"""From what somebody asks for to what is written: parameters checked, secrets sealed, gates named. No database."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dogwatch.engine.book.gates import Gate
from dogwatch.engine.book.rows import clean, step_values, text
from dogwatch.engine.book.start import Intent
from dogwatch.engine.ledger import StepRow
from dogwatch.engine.masks import Masker
from dogwatch.engine.parameters import hidden_values
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Json, Run, StartRun, StepState, Trigger
from dogwatch.errors import Conflict, PermanentError, UsageError

# Checks and defaults parameters. Raises: UsageError with every mistake.
Check = Callable[[JobSpec, Mapping[str, Json]], Mapping[str, Json]]
# Fills the templates of a text. Raises: UsageError.
Render = Callable[[str, Mapping[str, Any]], str]
MASK = "***"
# Beside the sealed parameters: no parameter can be called so.
_TRIGGER = "trigger.data"
_NAME_KEPT = 500
_KEY_KEPT = 1000
_MOST_HIDDEN = 100
_PRIORITY = 1_000_000_000
# The year 9999.
_LATEST_S = 253_402_300_799.0


class Sealer(Protocol):
    """Encrypts what must lie on disk and not be read there."""

    def seal(self, data: bytes) -> bytes: ...

    def open(self, sealed: bytes) -> bytes:
        """Raises: PermanentError where the key is another one now."""
        ...


def intent_of(spec: JobSpec, request: StartRun, check: Check, render: Render, sealer: Sealer | None) -> Intent:
    """Raises: UsageError."""
    _check_request(request)
    parameters = check(spec, request.parameters)
    masked, trigger, sealed = _sealed(spec, request, parameters, sealer)
    variables = {
        "params": parameters,
        "job": spec.name,
        "env": spec.env,
        "trigger": msgspec.to_builtins(request.trigger),
        "labels": {**spec.labels, **request.labels},
    }
    return Intent(
        spec=spec,
        parameters=masked,
        sealed=sealed,
        labels={**spec.labels, **request.labels},
        placement=_placement(spec),
        actor=request.actor,
        trigger=trigger,
        key=request.key,
        due_s=request.due_s,
        priority=spec.priority if request.priority is None else request.priority,
        reason=request.reason,
        parent=request.parent,
        gates=gates_of(spec, variables, render),
    )


def opened(run: Run, sealed: bytes | None, sealer: Sealer | None) -> Run:
    """Return the run with what of its parameters and trigger is not readable on disk. Raises: PermanentError."""
    if sealed is None:
        return run
    if sealer is None:
        raise PermanentError("there is no key to open them with", hint="set engine.key")
    values: dict[str, Json] = msgspec.json.decode(sealer.open(bytes(sealed)))
    data = values.pop(_TRIGGER, None)
    if isinstance(data, dict):
        run = msgspec.structs.replace(run, trigger=msgspec.structs.replace(run.trigger, data=data))
    return msgspec.structs.replace(run, parameters={**run.parameters, **values})


def item_sealed(step: StepRow, sealer: Sealer | None) -> StepRow:
    """Return a step as it may lie on disk. Raises: UsageError where there is no key for its item."""
    if not step.hidden:
        return step
    try:
        if sealer is None:
            raise UsageError(
                f"{step.name} is about a secret, and there is no key to keep it with", hint="set engine.key"
            )
        sealed = sealer.seal(text(step.item).encode())
    except UsageError:
        # A key of old that only opens seals nothing, either. What has ended needs its item no more.
        if step.state.ended:
            return msgspec.structs.replace(step, item=MASK)
        raise
    return msgspec.structs.replace(step, item=base64.b64encode(sealed).decode())


def item_opened(step: StepRow, sealer: Sealer | None) -> StepRow:
    """Return a step as it is worked with. Raises: PermanentError."""
    if not step.hidden:
        return step
    if sealer is None:
        raise PermanentError("there is no key to open them with", hint="set engine.key")
    return msgspec.structs.replace(step, item=msgspec.json.decode(sealer.open(base64.b64decode(str(step.item)))))


def _check_request(request: StartRun) -> None:
    """Raises: UsageError for what no database holds, or what could be taken for another."""
    if len(request.key) > _KEY_KEPT:
        raise UsageError(f"the key of a start has {len(request.key)} characters; {_KEY_KEPT} are the most")
    if request.priority is not None and abs(request.priority) > _PRIORITY:
        raise UsageError(f"priority {request.priority} is not between -{_PRIORITY} and {_PRIORITY}")
    if request.due_s is not None and not 0 <= request.due_s <= _LATEST_S:
        raise UsageError(f"{request.due_s} is no time at which a run could start")


def rerun_of(
    spec: JobSpec, run: Run, steps: Sequence[StepRow], sealed: bytes | None, gates: Sequence[Gate], **changes: Any
) -> Intent:
    """Return what starts a run again; `changes` are the rest of Intent's fields that the caller decides."""
    return Intent(
        spec=spec,
        parameters=run.parameters,
        sealed=sealed,
        labels=run.labels,
        placement=_placement(spec),
        trigger=run.trigger,
        due_s=None,
        priority=run.priority,
        reason=f"rerun of {run.run_id}",
        parent=None,
        gates=gates,
        rerun_of=run.run_id,
        attempt=run.attempt + 1,
        copied=[step_values("", step) for step in steps],
        **changes,
    )


def kept(spec: JobSpec, steps: Sequence[StepRow], run_id: str) -> list[StepRow]:
    """Return the steps that a rerun of what failed does not repeat: those that succeeded, cleanup excepted, with the
    items of maps that succeeded.

    Raises: Conflict where nothing failed.
    """
    if all(step.state in (StepState.SUCCEEDED, StepState.SKIPPED) for step in steps):
        done = {step.name for step in steps}
        if all(step.name in done for step in spec.steps):
            raise Conflict(f"no step of run {run_id} has to be repeated: all have succeeded", hint="rerun it whole")
    cleanup = {step.name for step in spec.steps if step.always}
    return [step for step in steps if step.state is StepState.SUCCEEDED and (step.of or step.name) not in cleanup]


def _sealed(
    spec: JobSpec, request: StartRun, parameters: Mapping[str, Json], sealer: Sealer | None
) -> tuple[Mapping[str, Json], Trigger, bytes | None]:
    """Return parameters and trigger as they may lie on disk, and sealed what that leaves out."""
    secret = {
        name: value
        for name, value in parameters.items()
        if value is not None and name in spec.parameters and spec.parameters[name].secret
    }
    trigger = _without_secrets(spec, request, parameters)
    if not secret and trigger is request.trigger:
        return parameters, trigger, None
    if sealer is None:
        raise UsageError(
            f"job {spec.name} has secret parameters, and there is no key to keep them with",
            hint="set engine.key",
        )
    kept = secret if trigger is request.trigger else {**secret, _TRIGGER: request.trigger.data}
    return {**parameters, **dict.fromkeys(secret, MASK)}, trigger, sealer.seal(text(kept).encode())


def _without_secrets(spec: JobSpec, request: StartRun, parameters: Mapping[str, Json]) -> Trigger:
    """Return the trigger without values of secret parameters; the same one where it holds none."""
    before = request.trigger.data
    if not before:
        return request.trigger
    hidden = list(hidden_values(spec, parameters))
    # So many are not looked for one by one.
    if len(hidden) > _MOST_HIDDEN:
        return msgspec.structs.replace(request.trigger, data=dict.fromkeys(before, MASK))
    masker = Masker(hidden)
    data = {key: MASK if key in request.withheld else masker.clean(value) for key, value in before.items()}
    return request.trigger if data == before else msgspec.structs.replace(request.trigger, data=data)


def _placement(spec: JobSpec) -> str:
    return text(spec.worker) if spec.worker else ""


def gates_of(spec: JobSpec, variables: Mapping[str, Any], render: Render) -> list[Gate]:
    """Return the gates that a run has to pass, by name. Raises: UsageError for a template that cannot be filled in."""
    gates: dict[str, Gate] = {}
    masker = Masker(hidden_values(spec, variables["params"]))
    rule = spec.concurrency
    if rule is not None:
        key = _told(render(rule.key, variables), masker) if rule.key else ""
        name = _gate_name(f"job:{spec.name}" + (f"/{key}" if key else ""))
        gates[name] = Gate(name=name, capacity=rule.limit)
    for lock in spec.locks:
        name = _gate_name(f"lock:{_told(render(lock, variables), masker)}")
        gates[name] = Gate(name=name, capacity=1)
    if spec.rate is not None:
        name = _gate_name(f"rate:{spec.name}")
        gates[name] = Gate(name=name, capacity=spec.rate.max, window_s=spec.rate.per)
    return [gates[name] for name in sorted(gates)]


def _told(name: str, masker: Masker) -> str:
    """Return a name that whoever waits for it may read; what is told apart by a secret stays apart."""
    masked = masker.mask(name)
    return name if masked == name else f"{masked}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _gate_name(name: str) -> str:
    """Return a name that every database holds; two that are cut stay two."""
    if len(name) <= _NAME_KEPT:
        return clean(name)
    return clean(name, _NAME_KEPT) + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:16]
