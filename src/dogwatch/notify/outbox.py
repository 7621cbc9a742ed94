"""The outbox's rows: plain functions of a transaction. Who claims a message owns it until its lease ends.

Claims compare and set: of several processes that see the same message, one changes its row and sends it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from dogwatch.core.retry import backoff
from dogwatch.engine.values import Page
from dogwatch.errors import NotFound
from dogwatch.notify.ids import Ids
from dogwatch.notify.message import Enqueued, Message, MessageState, OutboxRow
from dogwatch.store.database import Row, Tx, counted_rows, pages

TOPIC = "outbox"
_COLUMNS = "message_id, destination, body, state, attempts, failures, created_s, since_s, due_s, ended_s, reason"
_REASON_CHARS = 500
# How many are removed in one transaction, so that it stays short.
_BATCH = 1000
# How often the same message is tried at a destination that does not answer before another one is.
_KNOCKS = 20
# But not before it was silent for so long: what waited through an outage of an hour or two arrives in its order.
_DOUBT_S = 7200.0


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender would take: up to `slots` now, of at most `concurrency` in all processes, for lease_s."""

    destination: str
    slots: int
    concurrency: int
    lease_s: float


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """rows: now the sender's own. next_s: wait until the earliest that is not due yet; None for nothing."""

    rows: Sequence[OutboxRow]
    next_s: float | None


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A destination that does not answer. failures: in a row."""

    destination: str
    failures: int
    since_s: float
    retry_s: float
    reason: str


def enqueue(tx: Tx, ids: Ids, message: Message) -> list[Enqueued]:
    """Keep the message for each of its destinations, in the caller's transaction."""
    body = msgspec.json.encode(message).decode()
    # Whatever it is made of, a key is short and of plain characters.
    key = hashlib.sha256(message.dedupe.encode()).hexdigest() if message.dedupe else None
    found = []
    for destination in dict.fromkeys(message.to):
        message_id = ids.new(tx.now_s)
        made = tx.run(
            "INSERT INTO outbox (message_id, destination, dedupe, body, state, attempts, failures, owner, created_s,"
            " since_s, due_s, reason) VALUES (:message_id, :destination, :dedupe, :body, 'queued', 0, 0, '', :now_s,"
            " :now_s, :now_s, '') ON CONFLICT (destination, dedupe) WHERE dedupe IS NOT NULL DO NOTHING",
            message_id=message_id,
            destination=destination,
            dedupe=key,
            body=body,
            now_s=tx.now_s,
        )
        if not made:
            row = tx.one(
                "SELECT message_id FROM outbox WHERE destination = :destination AND dedupe = :dedupe",
                destination=destination,
                dedupe=key,
            )
            message_id = str(row[0]) if row else message_id
        found.append(Enqueued(message_id=message_id, destination=destination, created=bool(made)))
    tx.notify(TOPIC)
    return found


def claim(tx: Tx, owner: str, wants: Sequence[Want]) -> Claims:
    """Take what is due, oldest first; of a destination in trouble one, once its time has come."""
    # One claimer at a time: how many are on their way counts over all processes.
    tx.lock("outbox")
    rows: list[OutboxRow] = []
    later: list[float] = []
    for want in wants:
        rows += _claim_one(tx, owner, want, later)
    return Claims(rows=rows, next_s=min(later) - tx.now_s if later else None)


def _claim_one(tx: Tx, owner: str, want: Want, later: list[float]) -> list[OutboxRow]:
    now_s, name = tx.now_s, want.destination
    concurrency, order = want.concurrency, "message_id"
    trouble = tx.one("SELECT retry_s, since_s FROM outbox_troubles WHERE destination = :name", name=name)
    if trouble is not None:
        if float(trouble[0] or 0.0) > now_s:
            later.append(float(trouble[0] or 0.0))
            return []
        # The oldest knocks until it answers. Should it be that very message which brings it down, another one is let
        # try after so many, or it would keep all others waiting until it is too old.
        concurrency = 1
        if now_s - float(trouble[1] or 0.0) >= _DOUBT_S:
            order = f"attempts / {_KNOCKS}, message_id"
    busy = tx.one(
        "SELECT COUNT(*) FROM outbox WHERE destination = :name AND state = 'sending' AND due_s > :now_s",
        name=name,
        now_s=now_s,
    )
    free = min(want.slots, concurrency - int(busy[0] or 0 if busy else 0))
    due = tx.rows(
        "SELECT message_id FROM outbox WHERE destination = :name AND state IN ('queued', 'sending')"  # noqa: S608
        f" AND due_s <= :now_s ORDER BY {order} LIMIT :free",
        name=name,
        now_s=now_s,
        free=max(0, free),
    )
    rows = [found for (message_id,) in due for found in _take(tx, owner, str(message_id), want.lease_s)]
    if len(rows) < free:
        next_one = tx.one(
            "SELECT MIN(due_s) FROM outbox WHERE destination = :name AND state IN ('queued', 'sending')"
            " AND due_s > :now_s",
            name=name,
            now_s=now_s,
        )
        if next_one is not None and next_one[0] is not None:
            later.append(float(next_one[0]))
    return rows


def _take(tx: Tx, owner: str, message_id: str, lease_s: float) -> list[OutboxRow]:
    rows = tx.rows(
        "UPDATE outbox SET state = 'sending', owner = :owner, attempts = attempts + 1, due_s = :until_s"  # noqa: S608
        " WHERE message_id = :message_id AND state IN ('queued', 'sending') AND due_s <= :now_s"
        f" RETURNING {_COLUMNS}",
        owner=owner,
        message_id=message_id,
        now_s=tx.now_s,
        until_s=tx.now_s + lease_s,
    )
    return [_row(row) for row in rows]


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """How long a destination in trouble is left alone: full jitter, `share` being the random part, after `least_s`."""

    reason: str
    share: float
    base_s: float
    cap_s: float
    least_s: float = 0.0


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended. state: delivered, dead, or queued again after wait_s. failed: it counts as this message's.

    pause: where the destination itself is not well.
    """

    state: MessageState
    reason: str = ""
    wait_s: float = 0.0
    failed: bool = False
    pause: Pause | None = None


def finish(tx: Tx, owner: str, row: OutboxRow, ending: Ending) -> bool:
    """Write how an attempt ended; False where the message is somebody else's by now."""
    now_s = tx.now_s
    mine = tx.run(
        "UPDATE outbox SET state = :state, owner = '', failures = failures + :failed, reason = :reason, due_s = :due_s,"
        " ended_s = CAST(:ended_s AS DOUBLE PRECISION)"
        " WHERE message_id = :message_id AND state = 'sending' AND owner = :owner AND attempts = :attempts",
        state=ending.state.value,
        failed=int(ending.failed),
        reason=clean(ending.reason),
        due_s=now_s + ending.wait_s,
        ended_s=None if ending.state is MessageState.QUEUED else now_s,
        message_id=row.message_id,
        owner=owner,
        attempts=row.attempts,
    )
    if not mine:
        return False
    if ending.pause is None:
        tx.send("DELETE FROM outbox_troubles WHERE destination = :destination", destination=row.destination)
    else:
        _pause(tx, row.destination, ending.pause)
    tx.notify(TOPIC)
    return True


def _pause(tx: Tx, destination: str, pause: Pause) -> None:
    known = tx.one("SELECT failures FROM outbox_troubles WHERE destination = :name", name=destination)
    failures = 1 + int(known[0] or 0 if known else 0)
    wait_s = pause.least_s + backoff(failures, base_s=pause.base_s, cap_s=pause.cap_s, random=lambda: pause.share)
    tx.send(
        "INSERT INTO outbox_troubles (destination, failures, since_s, retry_s, reason)"
        " VALUES (:destination, :failures, :now_s, :retry_s, :reason) ON CONFLICT (destination) DO UPDATE SET"
        " failures = excluded.failures, retry_s = excluded.retry_s, reason = excluded.reason",
        destination=destination,
        failures=failures,
        now_s=tx.now_s,
        retry_s=tx.now_s + wait_s,
        reason=clean(pause.reason),
    )


def release(tx: Tx, owner: str) -> int:
    """Give back what this owner holds: a stop. Nothing of it is sent by the owner any more."""
    given = tx.run(
        "UPDATE outbox SET state = 'queued', owner = '', due_s = :now_s WHERE state = 'sending' AND owner = :owner",
        owner=owner,
        now_s=tx.now_s,
    )
    if given:
        tx.notify(TOPIC)
    return given


def redeliver(tx: Tx, message_id: str) -> OutboxRow:
    """Queue an ended message anew, under the same id.

    Raises: NotFound. A message that has not ended stays as it is.
    """
    row = show(tx, message_id)
    tx.run(
        "UPDATE outbox SET state = 'queued', failures = 0, since_s = :now_s, due_s = :now_s, ended_s = NULL"
        " WHERE message_id = :message_id AND state IN ('delivered', 'dead')",
        message_id=row.message_id,
        now_s=tx.now_s,
    )
    tx.notify(TOPIC)
    return show(tx, row.message_id)


def show(tx: Tx, message_id: str) -> OutboxRow:
    """message_id: whole, or a beginning that only one has.

    Raises: NotFound.
    """
    message_id = clean(message_id)
    exact = tx.one(f"SELECT {_COLUMNS} FROM outbox WHERE message_id = :message_id", message_id=message_id)  # noqa: S608
    if exact is not None:
        return _row(exact)
    rows = tx.rows(
        f"SELECT {_COLUMNS} FROM outbox WHERE substr(message_id, 1, :length) = :message_id LIMIT 2",  # noqa: S608
        message_id=message_id,
        length=len(message_id),
    )
    if len(rows) != 1:
        known = "several messages begin so" if rows else "no message has this id"
        raise NotFound(f"'{message_id[:80]}': {known}", hint="'dogwatch notify outbox' lists them")
    return _row(rows[0])


def find(
    tx: Tx, *, destination: str = "", state: str = "", limit: int = 50, cursor: str = "", count: bool = False
) -> Page[OutboxRow]:
    """Return messages, newest first. count: say how many there are on all pages."""
    where = "(:destination = '' OR destination = :destination) AND (:state = '' OR state = :state)"
    values = {"destination": clean(destination), "state": clean(state)}
    rows = tx.rows(
        f"SELECT {_COLUMNS} FROM outbox WHERE {where}"  # noqa: S608
        " AND (:cursor = '' OR message_id < :cursor) ORDER BY message_id DESC LIMIT :limit",
        **values,
        cursor=clean(cursor),
        limit=limit + 1,
    )
    chosen, more = pages(rows, limit)
    items = [_row(row) for row in chosen]
    total = counted_rows(tx, "outbox", where, **values) if count else None
    return Page(items=items, cursor=items[-1].message_id if more else "", total=total)


def counts(tx: Tx) -> dict[tuple[str, str], int]:
    """Return (destination, state) → how many."""
    rows = tx.rows("SELECT destination, state, COUNT(*) FROM outbox GROUP BY destination, state")
    return {(str(name), str(state)): int(count or 0) for name, state, count in rows}


def troubles(tx: Tx) -> dict[str, Trouble]:
    rows = tx.rows("SELECT destination, failures, since_s, retry_s, reason FROM outbox_troubles")
    return {
        str(name): Trouble(
            destination=str(name),
            failures=int(failures or 0),
            since_s=float(since_s or 0.0),
            retry_s=float(retry_s or 0.0),
            reason=str(reason),
        )
        for name, failures, since_s, retry_s, reason in rows
    }


def bury(tx: Tx, destination: str, *, older_than_s: float, most: int, reason: str) -> int:
    """Make dead letters of what waited too long, and of the oldest beyond `most`."""
    old = tx.run(
        "UPDATE outbox SET state = 'dead', ended_s = :now_s, reason = :reason WHERE destination = :destination"
        # A sender that was lost may have left it; of a destination that is gone nobody takes it over.
        " AND (state = 'queued' OR (state = 'sending' AND due_s <= :now_s)) AND since_s < :before_s",
        now_s=tx.now_s,
        reason=reason,
        destination=destination,
        before_s=tx.now_s - older_than_s,
    )
    edge = tx.one(
        "SELECT message_id FROM outbox WHERE destination = :destination AND state = 'queued'"
        " ORDER BY message_id DESC LIMIT 1 OFFSET :most",
        destination=destination,
        most=most,
    )
    if edge is None:
        return old
    return old + tx.run(
        "UPDATE outbox SET state = 'dead', ended_s = :now_s, reason = :reason WHERE destination = :destination"
        " AND state = 'queued' AND message_id <= :edge",
        now_s=tx.now_s,
        reason=f"more than {most} waited",
        destination=destination,
        edge=edge[0],
    )


def forget(tx: Tx, destination: str, state: MessageState, *, older_than_s: float) -> int:
    """Remove ended messages that are older, some at a time; return how many."""
    return tx.run(
        "DELETE FROM outbox WHERE message_id IN (SELECT message_id FROM outbox WHERE destination = :destination"
        " AND state = :state AND ended_s < :before_s ORDER BY ended_s LIMIT :batch)",
        destination=destination,
        state=state.value,
        before_s=tx.now_s - older_than_s,
        batch=_BATCH,
    )


def clean(text: str) -> str:
    """Return one bounded line that every database takes."""
    return " ".join(text.replace("\0", " ").split())[:_REASON_CHARS]


def _row(row: Row) -> OutboxRow:
    return OutboxRow(
        message_id=str(row[0]),
        destination=str(row[1]),
        message=msgspec.json.decode(str(row[2]), type=Message),
        state=MessageState(str(row[3])),
        attempts=int(row[4] or 0),
        failures=int(row[5] or 0),
        created_s=float(row[6] or 0.0),
        since_s=float(row[7] or 0.0),
        due_s=float(row[8] or 0.0),
        ended_s=None if row[9] is None else float(row[9]),
        reason=str(row[10]),
    )
