"""The audit trail: one event for every change, written in the change's own transaction; a chain of digests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.chain import link
from dogwatch.access.conditions import condition_of
from dogwatch.errors import PermanentError
from dogwatch.store.database import Tx

_TEXT_KEPT = 2000
_TAIL = "audit tail"


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, from where, on what, why, and how it ended.

    verb: `cancel`, `run`, `create`… outcome: done, refused or failed; begun for a change outside the state database,
    which a second event then ends. before, after: what it changed, no secrets.
    """

    time_s: float
    actor: Actor
    verb: str
    subject: Subject
    outcome: str = "done"
    reason: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def record(
    tx: Tx,
    actor: Actor,
    verb: str,
    subject: Subject,
    *,
    outcome: str = "done",
    reason: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> int:
    """Append an event in the caller's transaction and return its number: no audit, no change.

    Raises: PermanentError where the trail cannot go on. Overtaken where the actor may change only what it has seen, and
    that was changed (conditions.py).
    """
    condition = condition_of(actor)
    event = AuditEvent(
        time_s=tx.now_s,
        actor=actor,
        verb=verb,
        subject=subject,
        outcome=outcome,
        reason=reason[:_TEXT_KEPT],
        before=before,
        after=after,
    )
    tx.lock("audit")
    if condition is not None and outcome != "refused":
        condition.meet(tx, outcome)
    before_number, before_digest = _tail(tx)
    number, body = before_number + 1, encoded(event)
    digest = link(before_digest, number, body)
    tx.send(
        "INSERT INTO audit_events (number, time_s, actor, verb, noun, name, outcome, body, digest) "
        "VALUES (:number, :time_s, :actor, :verb, :noun, :name, :outcome, :body, :digest)",
        number=number,
        time_s=event.time_s,
        body=body,
        digest=digest,
        **columns(event),
    )
    tx.send("UPDATE audit_tail SET number = :number, digest = :digest WHERE id = 1", number=number, digest=digest)
    tx.memory[_TAIL] = (number, digest)
    tx.notify("audit")
    return number


def _tail(tx: Tx) -> tuple[int, str]:
    """Return the number and digest of the newest event; the trail is locked."""
    known = tx.memory.get(_TAIL)
    if isinstance(known, tuple):
        return known
    # From the tail's own table: where somebody cut the newest events off, a gap stays.
    last = tx.one("SELECT number, digest FROM audit_tail WHERE id = 1")
    if last is None:
        raise PermanentError("the audit trail has lost its end: somebody changed its tables", hint="audit verify")
    return int(last[0] or 0), str(last[1])


def columns(event: AuditEvent) -> dict[str, str]:
    """Return the columns that repeat an event's body."""
    values = {
        "actor": str(event.actor),
        "verb": event.verb,
        "noun": event.subject.noun,
        "name": event.subject.name,
        "outcome": event.outcome,
    }
    # PostgreSQL's text holds no NUL.
    return {key: _proper(text).replace("\0", "\ufffd") for key, text in values.items()}


def encoded(event: AuditEvent) -> str:
    """Return an event as JSON; text that is no proper UTF-8 must not keep it from being written."""
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_proper(msgspec.to_builtins(event, enc_hook=str))).decode()


def _proper(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_proper(key): _proper(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_proper(item) for item in value]
    return value
