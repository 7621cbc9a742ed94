"""What an owner writes of its run: steps, its state, that it lets go of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dogwatch.access.actor import SYSTEM
from dogwatch.engine.book import orders, states, topics
from dogwatch.engine.book.approvals import ask
from dogwatch.engine.book.rows import clean, order_of, parsed, step_values
from dogwatch.engine.book.setting import AUDIT, Setting, all_of, first_of
from dogwatch.engine.ledger import Advance, Fenced, Order, StepRow
from dogwatch.engine.values import Json, RunState, StepState
from dogwatch.errors import Conflict
from dogwatch.store.database import Tx

_STEPS = (
    "INSERT INTO steps (run_id, name, state, wake_s, body) VALUES (:run_id, :name, :state, :wake_s, :body) "
    "ON CONFLICT (run_id, name) DO UPDATE SET state = excluded.state, wake_s = excluded.wake_s, body = excluded.body, "
    # A signal stays until the step takes it, by being something else than waiting.
    "signal = CASE WHEN excluded.state = 'waiting' THEN steps.signal ELSE NULL END"
)
_BACK = "RETURNING cancel, paused, stirred, gated, parent, parent_step, reason"
_GOES_ON = (
    "UPDATE runs SET begun = CASE WHEN :steps = 1 THEN 1 ELSE begun END, state = CASE WHEN CAST(:state AS TEXT) <> '' "
    "THEN :state ELSE state END, reason = CASE WHEN :said = 1 THEN :reason ELSE reason END, "
    "waiting_for = CASE WHEN :waits = 1 THEN :waiting_for ELSE waiting_for END "
    "WHERE run_id = :run_id AND fence = :fence AND worker <> '' "
) + _BACK
_ENDS = (
    "UPDATE runs SET state = :state, reason = CASE WHEN :said = 1 THEN :reason ELSE reason END, waiting_for = '', "
    "begun = CASE WHEN :steps = 1 THEN 1 ELSE begun END, ended_s = :now, expires_s = :now + keep_s, ready = 0, "
    "wake_s = NULL, worker = '', paused = 0, stirred = 0 "
    "WHERE run_id = :run_id AND fence = :fence AND worker <> '' "
) + _BACK


def may_cancel(change: Advance) -> bool:
    """Return whether children of the run are cancelled with it, which the audit trail tells."""
    return change.state is not None and change.state.ended and change.state is not RunState.SUCCEEDED


def advance(tx: Tx, setting: Setting, change: Advance) -> Order:
    """Raises: Fenced; Conflict for a state that an owner cannot write."""
    final = change.state is not None and change.state.ended
    if change.state is not None and change.state not in states.OWNER_WRITES:
        raise Conflict(f"a worker cannot make run {change.run_id} {change.state.value}")
    if may_cancel(change):
        tx.lock(AUDIT)
    row = _guarded(tx, change, final)
    cancel, paused, stirred, gated, parent, parent_step, reason = row
    if change.steps:
        tx.many(_STEPS, [step_values(change.run_id, step) for step in change.steps])
        ask(tx, change.run_id, change.steps)
        for step in change.steps:
            if _gave_up(step):
                orders.cancel_called(tx, setting, change.run_id, step.name, step.reason)
    if final:
        assert change.state is not None
        if may_cancel(change):
            orders.cancel_children(tx, setting, change.run_id, SYSTEM, reason)
        whose = None if parent is None else (str(parent), str(parent_step))
        orders.ended(tx, setting, change.run_id, bool(gated), whose, change.state, reason)
        return order_of("", 0, {})
    if change.release:
        _let_go(tx, change.run_id, bool(stirred), bool(paused))
    return order_of(cancel, paused, signals_of(tx, [change.run_id]).get(change.run_id, {}) if stirred else {})


def _gave_up(step: StepRow) -> bool:
    """Return whether an attempt ended badly. One that was cut is made again, and finds what it started."""
    again = step.state is StepState.PENDING and step.attempt > 0 and not step.cut
    return again or step.state in (StepState.FAILED, StepState.CANCELLED)


def _guarded(tx: Tx, change: Advance, final: bool) -> Any:
    values: dict[str, Any] = {
        "run_id": change.run_id,
        "fence": change.fence,
        "state": change.state.value if change.state is not None else "",
        "said": int(change.reason is not None),
        "reason": clean(change.reason or ""),
        "steps": int(bool(change.steps)),
    }
    if final:
        row = first_of(tx, _ENDS, **values, now=tx.now_s)
    else:
        waits = int(change.waiting_for is not None)
        row = first_of(tx, _GOES_ON, **values, waits=waits, waiting_for=clean(change.waiting_for or ""))
    if row is None:
        raise Fenced(f"run {change.run_id} is no longer this worker's")
    return row


def _let_go(tx: Tx, run_id: str, stirred: bool, paused: bool) -> None:
    """Park a run until the earliest of its steps' times, or its deadline; at once ready where something came."""
    row = first_of(
        tx,
        "SELECT min(CASE WHEN state IN ('pending', 'waiting') THEN wake_s END), "
        "sum(CASE WHEN state = 'running' THEN 1 ELSE 0 END) FROM steps WHERE run_id = :run_id",
        run_id=run_id,
    )
    wake_s, running = row or (None, 0)
    ready = not paused and (stirred or bool(running))
    tx.run(
        # A deadline that is over has done its work: cleanup may wait beyond it.
        "UPDATE runs SET worker = '', ready = :ready, wake_s = CASE WHEN :parked = 0 THEN NULL "
        "WHEN deadline_s > :now AND deadline_s < COALESCE(CAST(:wake_s AS DOUBLE PRECISION), deadline_s + 1) "
        "THEN deadline_s ELSE CAST(:wake_s AS DOUBLE PRECISION) END WHERE run_id = :run_id",
        now=tx.now_s,
        ready=int(ready),
        parked=int(not ready and not paused),
        wake_s=wake_s,
        run_id=run_id,
    )
    if ready:
        tx.notify(topics.READY)


def signals_of(tx: Tx, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, Json]]:
    """Return the signals that the steps of these runs have not taken."""
    out: dict[str, dict[str, Json]] = {}
    for run_id in run_ids:
        rows = all_of(
            tx,
            "SELECT name, signal FROM steps WHERE run_id = :run_id AND signal IS NOT NULL AND state = :waiting "
            "ORDER BY name",
            run_id=run_id,
            waiting=StepState.WAITING.value,
        )
        if rows:
            out[run_id] = {str(name): parsed(payload) for name, payload in rows}
    return out
