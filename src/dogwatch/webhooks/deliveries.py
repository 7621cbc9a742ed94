"""The rows of deliveries: plain functions of a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dogwatch.engine.values import Page
from dogwatch.errors import NotFound
from dogwatch.store.database import Row, Tx, Value, counted_rows, pages
from dogwatch.webhooks.delivery import Delivery, DeliveryState

_COLUMNS = (
    "delivery_id, endpoint, state, reason, event, source_id, remote, run_id, replay_of, actor, received_s, size_bytes,"
    " duplicates"
)
_CHARS = 500
# Rows removed in one transaction, and how many proofs are remembered at most over all endpoints.
_BATCH = 1000
MOST_SEEN = 1_000_000


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """headers, query: as they may be read, secrets masked. payload: as keptpayload stores it."""

    headers: Mapping[str, str]
    query: Mapping[str, str]
    payload: bytes


class Known(Exception):
    """Something of the delivery was seen before. What its transaction did is to be undone; then `seen` says which."""


def seen(tx: Tx, endpoint: str, proofs: Sequence[str]) -> str:
    """Return the id of the delivery that came with one of these before, or ""."""
    for proof in proofs:
        row = tx.one(
            "SELECT delivery_id FROM hook_seen WHERE endpoint = :endpoint AND proof = :proof AND until_s > :now_s",
            endpoint=endpoint,
            proof=proof,
            now_s=tx.now_s,
        )
        if row is not None:
            return str(row[0])
    return ""


def remember(tx: Tx, endpoint: str, delivery_id: str, proofs: Mapping[str, float]) -> None:
    """Know these again from now on. proofs: what → until when, on the database's clock.

    One statement, in one order: nearly every delivery is new, and two processes with the same one wait for each other.
    Raises: Known.
    """
    if not proofs:
        return
    values: dict[str, str | float] = {"endpoint": endpoint, "delivery_id": delivery_id, "now_s": tx.now_s}
    places = []
    for number, (proof, until_s) in enumerate(sorted(proofs.items())):
        values |= {f"proof_{number}": proof, f"until_{number}": until_s}
        places.append(f"(:endpoint, :proof_{number}, :delivery_id, CAST(:until_{number} AS DOUBLE PRECISION))")
    made = tx.run(
        f"INSERT INTO hook_seen (endpoint, proof, delivery_id, until_s) VALUES {', '.join(places)}"  # noqa: S608
        " ON CONFLICT (endpoint, proof) DO UPDATE SET delivery_id = excluded.delivery_id, until_s = excluded.until_s"
        " WHERE hook_seen.until_s <= :now_s",
        **values,
    )
    if made != len(proofs):
        raise Known


def count_duplicate(tx: Tx, delivery_id: str) -> None:
    tx.send(
        "UPDATE hook_deliveries SET duplicates = duplicates + 1 WHERE delivery_id = :delivery_id",
        delivery_id=delivery_id,
    )


def insert(tx: Tx, one: Delivery, content: Content) -> None:
    tx.send(
        f"INSERT INTO hook_deliveries ({_COLUMNS}, headers, query, payload) VALUES (:delivery_id, :endpoint, :state,"  # noqa: S608
        " :reason, :event, :source_id, :remote, :run_id, :replay_of, :actor, :received_s, :size_bytes, 0, :headers,"
        " :asked, :payload)",
        delivery_id=one.delivery_id,
        endpoint=one.endpoint,
        state=one.state.value,
        reason=clean(one.reason),
        event=clean(one.event),
        source_id=clean(one.source_id),
        remote=clean(one.remote),
        run_id=one.run_id,
        replay_of=one.replay_of,
        actor=clean(one.actor),
        received_s=one.received_s,
        size_bytes=one.size_bytes,
        headers=msgspec.json.encode(content.headers).decode(),
        asked=msgspec.json.encode(content.query).decode(),
        payload=content.payload,
    )


def show(tx: Tx, delivery_id: str) -> tuple[Delivery, Content]:
    """delivery_id: whole, or a beginning that only one has.

    Raises: NotFound.
    """
    delivery_id = clean(delivery_id)
    query = f"SELECT {_COLUMNS}, headers, query, payload FROM hook_deliveries WHERE "  # noqa: S608
    row = tx.one(query + "delivery_id = :delivery_id", delivery_id=delivery_id)
    if row is None:
        rows = tx.rows(
            query + "substr(delivery_id, 1, :length) = :delivery_id LIMIT 2",
            length=len(delivery_id),
            delivery_id=delivery_id,
        )
        if len(rows) != 1:
            known = "several deliveries begin so" if rows else "no delivery has this id"
            raise NotFound(f"'{delivery_id[:80]}': {known}", hint="'dogwatch hook deliveries' lists them")
        row = rows[0]
    content = Content(
        headers=msgspec.json.decode(str(row[13]), type=dict[str, str]),
        query=msgspec.json.decode(str(row[14]), type=dict[str, str]),
        payload=bytes(row[15]) if isinstance(row[15], bytes | memoryview) else b"",
    )
    return _row(row), content


def find(
    tx: Tx,
    *,
    endpoint: str = "",
    state: str = "",
    limit: int = 50,
    cursor: str = "",
    among: Sequence[str] | None = None,
    count: bool = False,
) -> Page[Delivery]:
    """Return deliveries, newest first. among: of these endpoints only. count: say how many there are on all pages."""
    names = {f"name_{number}": name for number, name in enumerate(among or ())}
    within = "" if among is None else f" AND endpoint IN ({', '.join(f':{key}' for key in names) or 'NULL'})"
    where = f"(:endpoint = '' OR endpoint = :endpoint) AND (:state = '' OR state = :state){within}"
    values: dict[str, Value] = {**names, "endpoint": clean(endpoint), "state": clean(state)}
    rows = tx.rows(
        f"SELECT {_COLUMNS} FROM hook_deliveries WHERE {where}"  # noqa: S608
        " AND (:cursor = '' OR delivery_id < :cursor) ORDER BY delivery_id DESC LIMIT :limit",
        **values,
        cursor=clean(cursor),
        limit=limit + 1,
    )
    chosen, more = pages(rows, limit)
    items = [_row(row) for row in chosen]
    total = counted_rows(tx, "hook_deliveries", where, **values) if count else None
    return Page(items=items, cursor=items[-1].delivery_id if more else "", total=total)


def newest(tx: Tx) -> dict[str, float]:
    """Return endpoint → when its newest delivery came."""
    rows = tx.rows("SELECT endpoint, MAX(received_s) FROM hook_deliveries GROUP BY endpoint")
    return {str(name): float(time_s or 0.0) for name, time_s in rows}


def names(tx: Tx) -> list[str]:
    return [str(name) for (name,) in tx.rows("SELECT DISTINCT endpoint FROM hook_deliveries")]


def forget(tx: Tx, endpoint: str, *, older_than_s: float, most: int) -> int:
    """Remove deliveries that are older, and the oldest beyond `most`; some at a time, return how many."""
    removed = tx.run(
        "DELETE FROM hook_deliveries WHERE delivery_id IN (SELECT delivery_id FROM hook_deliveries"
        " WHERE endpoint = :endpoint AND received_s < :before_s ORDER BY delivery_id LIMIT :batch)",
        endpoint=endpoint,
        before_s=tx.now_s - older_than_s,
        batch=_BATCH,
    )
    edge = tx.one(
        "SELECT delivery_id FROM hook_deliveries WHERE endpoint = :endpoint"
        " ORDER BY delivery_id DESC LIMIT 1 OFFSET :most",
        endpoint=endpoint,
        most=most,
    )
    if edge is None:
        return removed
    return removed + tx.run(
        "DELETE FROM hook_deliveries WHERE delivery_id IN (SELECT delivery_id FROM hook_deliveries"
        " WHERE endpoint = :endpoint AND delivery_id <= :edge ORDER BY delivery_id LIMIT :batch)",
        endpoint=endpoint,
        edge=edge[0],
        batch=_BATCH,
    )


def forget_seen(tx: Tx, *, most: int = MOST_SEEN) -> int:
    """Remove what need not be known any more, and of too many those that would be forgotten first."""
    removed = tx.run(
        "DELETE FROM hook_seen WHERE (endpoint, proof) IN (SELECT endpoint, proof FROM hook_seen"
        " WHERE until_s <= :now_s ORDER BY until_s LIMIT :batch)",
        now_s=tx.now_s,
        batch=_BATCH,
    )
    row = tx.one("SELECT COUNT(*) FROM hook_seen")
    over = int(row[0] or 0 if row else 0) - most
    if over <= 0:
        return removed
    return removed + tx.run(
        "DELETE FROM hook_seen WHERE (endpoint, proof) IN"
        " (SELECT endpoint, proof FROM hook_seen ORDER BY until_s LIMIT :batch)",
        batch=min(over, _BATCH),
    )


def clean(text: str) -> str:
    """Return one bounded line that every database takes."""
    return " ".join(text.replace("\0", " ").split())[:_CHARS]


def _row(row: Row) -> Delivery:
    return Delivery(
        delivery_id=str(row[0]),
        endpoint=str(row[1]),
        state=DeliveryState(str(row[2])),
        reason=str(row[3]),
        event=str(row[4]),
        source_id=str(row[5]),
        remote=str(row[6]),
        run_id=str(row[7]),
        replay_of=str(row[8]),
        actor=str(row[9]),
        received_s=float(row[10] or 0.0),
        size_bytes=int(row[11] or 0),
        duplicates=int(row[12] or 0),
    )
