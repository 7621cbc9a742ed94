"""Subscribers in the state database: plain functions of a transaction."""

from __future__ import annotations

import msgspec

from dogwatch.access import audit
from dogwatch.access.actor import Actor, Subject
from dogwatch.errors import Conflict, NotFound
from dogwatch.store.database import Row, Tx
from dogwatch.words import Language

# Whoever does not follow the link of the first message is forgotten.
UNCONFIRMED_S = 2 * 86_400.0
_COLUMNS = "subscriber_id, kind, address, token, made_s, confirmed_s, language"


class Subscriber(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who wants to hear. kind: email or webhook. confirmed_s: None until the first link was followed.

    language: in which it is told.
    """

    subscriber_id: str
    kind: str
    address: str
    token: str
    made_s: float
    confirmed_s: float | None = None
    language: Language = "en"


def _of(row: Row) -> Subscriber:
    return Subscriber(
        subscriber_id=str(row[0]),
        kind=str(row[1]),
        address=str(row[2]),
        token=str(row[3]),
        made_s=float(row[4] or 0.0),
        confirmed_s=None if row[5] is None else float(row[5]),
        language="zh" if row[6] == "zh" else "en",
    )


def subscribe(tx: Tx, wanted: Subscriber, actor: Actor, most: int) -> Subscriber | None:
    """Keep a subscriber until it confirms, or return None where the address is known: it is told nothing anew, so that
    nobody can fill another's mailbox from here.

    Raises: Conflict where there are too many.
    """
    tx.run(
        "DELETE FROM status_subscribers WHERE confirmed_s IS NULL AND made_s < :before_s",
        before_s=tx.now_s - UNCONFIRMED_S,
    )
    row = tx.one("SELECT COUNT(*) FROM status_subscribers")
    if row is not None and int(row[0] or 0) >= most:
        raise Conflict("no further subscriptions are taken now", hint="the feed is there for everybody")
    made = tx.run(
        "INSERT INTO status_subscribers (subscriber_id, kind, address, token, made_s, confirmed_s, language)"
        " VALUES (:subscriber_id, :kind, :address, :token, :made_s, NULL, :language)"
        " ON CONFLICT (kind, address) DO NOTHING",
        subscriber_id=wanted.subscriber_id,
        kind=wanted.kind,
        address=wanted.address,
        token=wanted.token,
        made_s=tx.now_s,
        language=wanted.language,
    )
    if not made:
        return None
    audit.record(tx, actor, "create", Subject(noun="notification", name=wanted.subscriber_id), reason="status page")
    return msgspec.structs.replace(wanted, made_s=tx.now_s)


def by_token(tx: Tx, token: str) -> Subscriber:
    """Raises: NotFound."""
    row = tx.one(f"SELECT {_COLUMNS} FROM status_subscribers WHERE token = :token", token=token)  # noqa: S608
    if row is None:
        raise NotFound("there is no such subscription", hint="it may have ended, or its link is too old")
    return _of(row)


def confirm(tx: Tx, token: str, actor: Actor) -> Subscriber:
    """Raises: NotFound."""
    found = by_token(tx, token)
    if found.confirmed_s is not None:
        return found
    tx.run("UPDATE status_subscribers SET confirmed_s = :now_s WHERE token = :token", now_s=tx.now_s, token=token)
    subject = Subject(noun="notification", name=found.subscriber_id)
    audit.record(tx, actor, "change", subject, reason="subscription confirmed")
    return msgspec.structs.replace(found, confirmed_s=tx.now_s)


def unsubscribe(tx: Tx, token: str, actor: Actor) -> None:
    """Raises: NotFound."""
    found = by_token(tx, token)
    tx.run("DELETE FROM status_subscribers WHERE token = :token", token=token)
    subject = Subject(noun="notification", name=found.subscriber_id)
    audit.record(tx, actor, "delete", subject, reason="subscription ended")


def confirmed(tx: Tx) -> list[Subscriber]:
    """Return those who are told, in the order in which they came."""
    rows = tx.rows(
        f"SELECT {_COLUMNS} FROM status_subscribers WHERE confirmed_s IS NOT NULL"  # noqa: S608
        " ORDER BY made_s, subscriber_id"
    )
    return [_of(row) for row in rows]
