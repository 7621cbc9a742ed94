"""Approvals: what steps ask of people, who may answer, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.engine.book import orders
from dogwatch.engine.book.rows import clean, parsed, text
from dogwatch.engine.book.setting import AUDIT, Setting, first_of
from dogwatch.engine.ledger import StepRow
from dogwatch.engine.values import Json, Run, StepState
from dogwatch.errors import Conflict, NotAllowed
from dogwatch.store.database import Tx

# Whether an actor is one of these: "role:ops", "group:ops".
IsIn = Callable[[Actor, str], bool]


def question(memory: Json) -> Mapping[str, Json] | None:
    """Return what an approve step asks, out of what its Wait remembers: {"approve": {"by": […], "expires_s": …}}."""
    asked = memory.get("approve") if isinstance(memory, Mapping) else None
    return asked if isinstance(asked, Mapping) else None


def ask(tx: Tx, run_id: str, steps: Sequence[StepRow]) -> None:
    """Write down what the steps among these ask that wait for a decision."""
    for step in steps:
        if step.state is not StepState.WAITING or (asked := question(step.memory)) is None:
            continue
        tx.run(
            "INSERT INTO approvals (run_id, step, asked_s, expires_s, allowed) "
            "VALUES (:run_id, :step, :now, :expires_s, :allowed) ON CONFLICT (run_id, step) DO UPDATE SET "
            "expires_s = excluded.expires_s, allowed = excluded.allowed, "
            # It asks again, unless its answer has not been taken yet.
            "decided_s = CASE WHEN EXISTS (SELECT 1 FROM steps s WHERE s.run_id = approvals.run_id "
            "AND s.name = approvals.step AND s.signal IS NOT NULL) THEN approvals.decided_s ELSE NULL END",
            run_id=run_id,
            step=step.name,
            now=tx.now_s,
            expires_s=asked.get("expires_s"),
            allowed=text(list(asked.get("by") or ())),
        )


def may(actor: Actor, allowed: Sequence[str], is_in: IsIn) -> bool:
    """Return whether an actor may decide. allowed: names ("alice", "user:alice"), kinds ("kind:local"), roles
    ("role:ops") and groups ("group:ops"); nobody named: everybody who may approve at all.
    """
    if not allowed:
        return True
    for one in allowed:
        if one.startswith(("role:", "group:")):
            if is_in(actor, one):
                return True
        elif one in (actor.name, str(actor), f"kind:{actor.kind}"):
            return True
    return False


def decide(
    tx: Tx, setting: Setting, run_id: str, step: str, actor: Actor, is_in: IsIn, *, approve: bool, comment: str
) -> Run | NotAllowed:
    """Return the run; a refusal is returned, not raised, so that its audit event is written.

    Raises: NotFound, Conflict.
    """
    tx.lock(AUDIT)
    held = orders.take(tx, setting, run_id)
    found = _asking(tx, run_id, step)
    row = first_of(
        tx,
        "SELECT expires_s, allowed, decided_s, approved, actor FROM approvals WHERE run_id = :run_id AND step = :step",
        run_id=run_id,
        step=found.name,
    )
    expires_s, allowed, decided_s, approved, decider = row or (None, "[]", None, None, None)
    if decided_s is not None:
        raise Conflict(f"step {found.name} of run {run_id} was {'approved' if approved else 'rejected'} by {decider}")
    if expires_s is not None and expires_s <= tx.now_s:
        raise Conflict(f"cannot decide on step {found.name} of run {run_id}: the time for it is over")
    verb = "approve" if approve else "reject"
    subject = Subject(noun="run", name=run_id, labels=held.run.labels)
    if not may(actor, parsed(allowed), is_in):
        record(tx, actor, verb, subject, outcome="refused", reason=comment, after={"step": found.name})
        return NotAllowed(
            f"{actor} may not decide on step {found.name} of run {run_id}",
            hint=f"ask one of {', '.join(parsed(allowed))}",
        )
    tx.run(
        "UPDATE approvals SET decided_s = :now, approved = :approved, actor = :actor, comment = :comment "
        "WHERE run_id = :run_id AND step = :step",
        now=tx.now_s,
        approved=int(approve),
        actor=clean(str(actor)),
        comment=clean(comment),
        run_id=run_id,
        step=found.name,
    )
    payload = {"approve": approve, "by": str(actor), "comment": comment}
    orders.signal(tx, setting, run_id, found.name, payload)
    record(tx, actor, verb, subject, reason=comment, after={"step": found.name})
    return orders.shown(tx, run_id)


def _asking(tx: Tx, run_id: str, step: str) -> StepRow:
    asking = [one for one in orders.waiting(tx, run_id) if question(one.memory) is not None]
    if step:
        asking = [one for one in asking if one.name == step]
        if not asking:
            raise Conflict(f"step {step} of run {run_id} waits for no decision")
    if not asking:
        raise Conflict(f"run {run_id} waits for no decision")
    if len(asking) > 1:
        names = ", ".join(one.name for one in asking)
        raise Conflict(f"several steps of run {run_id} wait for a decision: {names}", hint="name one")
    return asking[0]
