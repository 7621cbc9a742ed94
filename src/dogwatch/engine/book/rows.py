"""Rows of runs and steps as values, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.ledger import Order, StepRow
from dogwatch.engine.values import Run, RunState, StepState, Trigger

RUN = (
    "run_id, job, state, reason, waiting_for, parameters, labels, actor, trigger_kind, trigger_name, trigger_data, "
    "start_key, priority, parent, parent_step, rerun_of, attempt, worker, created_s, due_s, queued_s, started_s, "
    "ended_s, deadline_s"
)
RUN_COLUMNS = len(RUN.split(","))

_actors = msgspec.json.Decoder(Actor)
_steps = msgspec.json.Decoder(StepRow)
_json = msgspec.json.Decoder()
_encode = msgspec.json.Encoder(order="deterministic").encode


def text(value: Any) -> str:
    """Return JSON for a column; the same text for the same value."""
    try:
        return _encode(value).decode()
    except UnicodeEncodeError:
        # Half characters, as programs print them, must not keep a step from being written.
        return _encode(_whole(msgspec.to_builtins(value))).decode()


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value


def parsed(value: Any) -> Any:
    return _json.decode(value)


def clean(value: str, limit: int = 2000) -> str:
    """Return text that every database holds: no NUL, no half characters, not endless."""
    return value[:limit].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def run_of(row: Sequence[Any]) -> Run:
    (
        run_id, job, state, reason, waiting_for, parameters, labels, actor, trigger_kind, trigger_name, trigger_data,
        start_key, priority, parent, parent_step, rerun_of, attempt, worker, created_s, due_s, queued_s, started_s,
        ended_s, deadline_s,
    ) = row[:RUN_COLUMNS]  # fmt: skip
    return Run(
        run_id=run_id,
        job=job,
        state=RunState(state),
        reason=reason,
        waiting_for=waiting_for,
        parameters=_json.decode(parameters),
        labels=_json.decode(labels),
        actor=_actors.decode(actor),
        trigger=Trigger(kind=trigger_kind, name=trigger_name, data=_json.decode(trigger_data)),
        key=start_key or "",
        priority=priority,
        parent=(parent, parent_step) if parent is not None else None,
        rerun_of=rerun_of,
        attempt=attempt,
        worker=worker,
        created_s=created_s,
        due_s=due_s,
        queued_s=queued_s,
        started_s=started_s,
        ended_s=ended_s,
        deadline_s=deadline_s,
    )


def step_of(row: Sequence[Any]) -> StepRow:
    """Return a step from its name, state, signal and body."""
    _, _, signal, body = row
    step = _steps.decode(body)
    return step if signal is None else msgspec.structs.replace(step, signal=(_json.decode(signal),))


def step_values(run_id: str, step: StepRow) -> dict[str, Any]:
    """Return what is written of a step. Its signal has a column of its own: others write it, too."""
    body = step if step.signal is None else msgspec.structs.replace(step, signal=None)
    return {
        "run_id": run_id,
        "name": step.name,
        "state": step.state.value,
        "wake_s": None if step.state.ended or step.state is StepState.RUNNING else step.wake_s,
        "body": text(body),
    }


def order_of(cancel: str, paused: Any, signals: Mapping[str, Any]) -> Order:
    return Order(cancel=cancel, paused=bool(paused), signals=signals)
