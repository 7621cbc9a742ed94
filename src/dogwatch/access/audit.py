"""The audit trail: one event for every change, written in the change's own transaction; a chain of digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.store.database import Tx

GENESIS = "0" * 64


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, from where, on what, why, and how it ended.

    verb: `cancel`, `run`, `create`… outcome: done, refused or failed. before, after: what it changed, no secrets.
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
    """Append an event in the caller's transaction and return its number: no audit, no change."""
    event = AuditEvent(
        time_s=tx.now_s,
        actor=actor,
        verb=verb,
        subject=subject,
        outcome=outcome,
        reason=reason,
        before=before,
        after=after,
    )
    tx.lock("audit")
    last = tx.one("SELECT number, digest FROM audit_events ORDER BY number DESC LIMIT 1")
    number, before_digest = (int(last[0] or 0) + 1, str(last[1])) if last else (1, GENESIS)
    body = msgspec.json.encode(event).decode()
    digest = hashlib.sha256(f"{before_digest}\n{number}\n{body}".encode()).hexdigest()
    tx.send(
        "INSERT INTO audit_events (number, time_s, body, digest) VALUES (:number, :time_s, :body, :digest)",
        number=number,
        time_s=event.time_s,
        body=body,
        digest=digest,
    )
    tx.notify("audit")
    return number
