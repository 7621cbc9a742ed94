"""What people ask of runs that exist: cancel, pause, resume; and the end of a run, whoever brings it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dogwatch.access.actor import SYSTEM, Actor, Subject
from dogwatch.access.audit import record
from dogwatch.engine.book import gates, states, topics
from dogwatch.engine.book.rows import RUN, RUN_COLUMNS, clean, run_of, step_of, text
from dogwatch.engine.book.setting import AUDIT, Setting, all_of, first_of
from dogwatch.engine.ledger import StepRow
from dogwatch.engine.values import Json, Run, RunState, StepState
from dogwatch.errors import Conflict, NotFound
from dogwatch.store.database import Tx

_MORE = "gated, begun, cancel, paused, paused_s, keep_s, blocked_on, ready"
# Outputs that a parent is told of its child; more stays with the child.
_OUTPUTS_KEPT = 256 * 1024
# What a run waits for whose definition no worker so far could read.
ANOTHER_PROGRAM = "a worker that can carry it out"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A run whose row this transaction has, and what only the book knows of it."""

    run: Run
    gated: bool
    begun: bool
    cancel: str
    paused: bool
    paused_s: float | None
    keep_s: float | None
    blocked_on: str
    ready: bool


def take(tx: Tx, setting: Setting, run_id: str) -> Held:
    """Read a run and let nobody else change it until the transaction ends. Raises: NotFound."""
    row = first_of(tx, f"SELECT {RUN}, {_MORE} FROM runs WHERE run_id = :run_id{setting.take}", run_id=run_id)
    if row is None:
        raise NotFound(f"no run {run_id}")
    gated, begun, cancel, paused, paused_s, keep_s, blocked_on, ready = row[RUN_COLUMNS:]
    return Held(
        run=run_of(row),
        gated=bool(gated),
        begun=bool(begun),
        cancel=cancel,
        paused=bool(paused),
        paused_s=paused_s,
        keep_s=keep_s,
        blocked_on=blocked_on,
        ready=bool(ready),
    )


def audit(
    tx: Tx, actor: Actor, verb: str, run: Run, *, reason: str = "", after: Mapping[str, Json] | None = None
) -> None:
    record(
        tx,
        actor,
        verb,
        Subject(noun="run", name=run.run_id, labels=run.labels),
        reason=reason,
        before={"state": run.state.value},
        after=after,
    )


def cancel(tx: Tx, setting: Setting, run_id: str, actor: Actor, reason: str) -> Run:
    """Raises: NotFound, Conflict."""
    tx.lock(AUDIT)
    # From below: the end of a child takes its own row and then its parent's, too.
    for below in _descendants(tx, run_id):
        cancel_one(tx, setting, below, actor, _with_parent(run_id, reason))
    held = take(tx, setting, run_id)
    states.check(run_id, held.run.state, RunState.CANCELLED, "cancel")
    return _cancel(tx, setting, held, actor, reason)


def cancel_one(tx: Tx, setting: Setting, run_id: str, actor: Actor, reason: str) -> None:
    """Cancel a run, if it has not ended."""
    held = take(tx, setting, run_id)
    if not held.run.state.ended:
        _cancel(tx, setting, held, actor, reason)


def _cancel(tx: Tx, setting: Setting, held: Held, actor: Actor, reason: str) -> Run:
    run = held.run
    why = clean(reason) or f"cancelled by {actor.name}"
    audit(tx, actor, "cancel", run, reason=reason)
    # Where nothing began there is nothing to clean up, and no worker is needed for the end.
    if run.started_s is None and not run.worker:
        end(tx, setting, held, RunState.CANCELLED, why)
        return shown(tx, run.run_id)
    if held.cancel and not run.worker and run.waiting_for.startswith(ANOTHER_PROGRAM):
        # Who asks a second time gives up on its cleanup.
        end(tx, setting, held, RunState.CANCELLED, f"{why}; nothing was cleaned up: no worker can carry it out")
        return shown(tx, run.run_id)
    tx.run(
        "UPDATE runs SET cancel = CASE WHEN cancel = '' THEN :why ELSE cancel END, stirred = 1, "
        "reason = CASE WHEN paused = 1 THEN '' ELSE reason END, paused = 0, "
        "state = 'running', ready = CASE WHEN worker = '' THEN 1 ELSE ready END, wake_s = NULL WHERE run_id = :run_id",
        why=why,
        run_id=run.run_id,
    )
    _wake(tx, run)
    # Those that were started before this transaction had the row, and after it looked.
    cancel_children(tx, setting, run.run_id, actor, reason)
    return shown(tx, run.run_id)


def _with_parent(run_id: str, reason: str) -> str:
    return f"its parent {run_id} was cancelled" + (f": {reason}" if reason else "")


def _descendants(tx: Tx, run_id: str, step: str = "") -> list[str]:
    """Return the runs below one that have not ended, the deepest first. step: only what that step started."""
    rows = all_of(
        tx,
        "WITH RECURSIVE below (run_id, depth) AS ("
        "SELECT run_id, 1 FROM runs WHERE parent = :run_id AND ended_s IS NULL AND cancel = '' "
        "AND (CAST(:step AS TEXT) = '' OR parent_step = :step) UNION ALL "
        "SELECT r.run_id, b.depth + 1 FROM runs r JOIN below b ON r.parent = b.run_id "
        "WHERE r.ended_s IS NULL AND r.cancel = '' AND b.depth < 64) "
        "SELECT run_id FROM below ORDER BY depth DESC, run_id",
        run_id=run_id,
        step=step,
    )
    return [str(row[0]) for row in rows]


def cancel_children(tx: Tx, setting: Setting, run_id: str, actor: Actor, reason: str) -> None:
    """Cancel what a run that ends or is cancelled has started and what has not ended."""
    for below in _descendants(tx, run_id):
        cancel_one(tx, setting, below, actor, _with_parent(run_id, reason))


def cancel_called(tx: Tx, setting: Setting, run_id: str, step: str, reason: str) -> None:
    """Cancel what a step has started that gave up on it: failed, was cancelled, or is about to be tried again."""
    for below in _descendants(tx, run_id, step):
        cancel_one(
            tx, setting, below, SYSTEM, f"{step} of {run_id} did not wait for it" + (f": {reason}" if reason else "")
        )


def _wake(tx: Tx, run: Run) -> None:
    tx.notify(topics.of_worker(run.worker) if run.worker else topics.READY)


def end(tx: Tx, setting: Setting, held: Held, state: RunState, reason: str) -> None:
    """End a run that nobody owns."""
    run = held.run
    tx.run(
        "UPDATE runs SET state = :state, reason = :reason, waiting_for = '', ended_s = :now, expires_s = :expires_s, "
        "ready = 0, blocked_on = '', wake_s = NULL, paused = 0 WHERE run_id = :run_id",
        state=state.value,
        reason=reason,
        now=tx.now_s,
        expires_s=None if held.keep_s is None else tx.now_s + held.keep_s,
        run_id=run.run_id,
    )
    ended(tx, setting, run.run_id, held.gated, run.parent, state, reason)


def ended(
    tx: Tx, setting: Setting, run_id: str, gated: bool, parent: tuple[str, str] | None, state: RunState, reason: str
) -> None:
    """Do what follows from the end of a run: its gates open, and its parent hears of it."""
    if gated:
        gates.release(tx, setting, run_id)
    if parent is not None:
        payload = {
            "run_id": run_id,
            "state": state.value,
            "reason": reason,
            "outputs": _bounded(setting.outputs(tx, run_id)),
        }
        signal(tx, setting, parent[0], parent[1], payload, running=True)
    tx.notify(topics.of_run(run_id))


def _bounded(outputs: Mapping[str, Json]) -> Mapping[str, Json]:
    return outputs if len(text(outputs)) <= _OUTPUTS_KEPT else {}


def signal(tx: Tx, setting: Setting, run_id: str, step: str, payload: Json, *, running: bool = False) -> bool:
    """Give a waiting step a payload and wake its run; return whether it waits. The first signal stays.

    running: a step that runs takes it, too: a child run can end before its parent's step is written as waiting.
    """
    row = first_of(tx, f"SELECT worker, paused, ended_s FROM runs WHERE run_id = :run_id{setting.take}", run_id=run_id)
    if row is None or row[2] is not None:
        return False
    worker, paused, _ = row
    given = tx.run(
        "UPDATE steps SET signal = :payload WHERE run_id = :run_id AND name = :step AND signal IS NULL "
        "AND (state = 'waiting' OR (state = 'running' AND :running = 1))",
        payload=text(payload),
        run_id=run_id,
        step=step,
        running=int(running),
    )
    if not given:
        return False
    ready = not worker and not paused
    tx.run(
        "UPDATE runs SET stirred = 1, ready = CASE WHEN :ready = 1 THEN 1 ELSE ready END, "
        "wake_s = CASE WHEN :ready = 1 THEN NULL ELSE wake_s END WHERE run_id = :run_id",
        ready=int(ready),
        run_id=run_id,
    )
    if worker or ready:
        tx.notify(topics.of_worker(worker) if worker else topics.READY)
    return True


def pause(tx: Tx, setting: Setting, run_id: str, actor: Actor, reason: str) -> Run:
    """Raises: NotFound, Conflict."""
    tx.lock(AUDIT)
    held = take(tx, setting, run_id)
    run = held.run
    if held.paused:
        raise Conflict(f"cannot pause run {run_id}: it is paused")
    if held.cancel:
        raise Conflict(f"cannot pause run {run_id}: it is being cancelled")
    states.check(run_id, run.state, RunState.PAUSED, "pause")
    audit(tx, actor, "pause", run, reason=reason)
    why = clean(reason)
    tx.run(
        "UPDATE runs SET paused = 1, paused_s = :now, state = 'paused', reason = :reason, ready = 0, blocked_on = '', "
        "wake_s = NULL, stirred = 1 WHERE run_id = :run_id",
        now=tx.now_s,
        reason=f"paused by {actor.name}" + (f": {why}" if why else ""),
        run_id=run_id,
    )
    if run.worker:
        tx.notify(topics.of_worker(run.worker))
    elif held.ready and held.gated:
        # Its turn is another's now.
        gates.pass_on(tx, setting, run_id)
    return shown(tx, run_id)


def resume(tx: Tx, setting: Setting, run_id: str, actor: Actor) -> Run:
    """Raises: NotFound, Conflict."""
    tx.lock(AUDIT)
    held = take(tx, setting, run_id)
    run = held.run
    if not held.paused:
        raise Conflict(f"cannot resume run {run_id}: it is not paused")
    audit(tx, actor, "resume", run)
    later = run.started_s is None and run.due_s is not None and run.due_s > tx.now_s
    state = RunState.RUNNING if run.started_s is not None else RunState.SCHEDULED if later else RunState.QUEUED
    states.check(run_id, run.state, state, "resume")
    # The time in which it was made to stand still is not its own.
    stood_s = max(0.0, tx.now_s - held.paused_s) if held.paused_s is not None and not run.worker else 0.0
    tx.run(
        "UPDATE runs SET paused = 0, paused_s = NULL, state = :state, reason = '', waiting_for = '', stirred = 1, "
        "ready = :ready, wake_s = :wake_s, deadline_s = deadline_s + :stood_s, "
        "queued_s = CASE WHEN :queued = 1 THEN COALESCE(queued_s, :now) ELSE queued_s END "
        "WHERE run_id = :run_id",
        state=state.value,
        ready=int(not run.worker and not later),
        wake_s=run.due_s if later else None,
        queued=int(state is RunState.QUEUED),
        now=tx.now_s,
        stood_s=stood_s,
        run_id=run_id,
    )
    _wake(tx, run)
    return shown(tx, run_id)


def shown(tx: Tx, run_id: str) -> Run:
    row = first_of(tx, f"SELECT {RUN} FROM runs WHERE run_id = :run_id", run_id=run_id)
    if row is None:
        raise NotFound(f"no run {run_id}")
    return run_of(row)


def waiting(tx: Tx, run_id: str) -> list[StepRow]:
    """Return the steps of a run that wait."""
    rows = all_of(
        tx,
        "SELECT name, state, signal, body FROM steps WHERE run_id = :run_id AND state = :state ORDER BY name",
        run_id=run_id,
        state=StepState.WAITING.value,
    )
    return [step_of(row) for row in rows]
