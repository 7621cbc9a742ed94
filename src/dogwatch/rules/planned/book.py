"""Windows of maintenance in the state database: plain functions of a transaction."""

from __future__ import annotations

import msgspec

from dogwatch.access import audit
from dogwatch.access.actor import Actor, Subject
from dogwatch.errors import Conflict, NotFound
from dogwatch.rules.maintenance import MaintenanceSpec
from dogwatch.store.database import Row, Tx

TOPIC = "maintenance"
# Windows that one installation keeps, those that are over among them.
MOST = 10_000
_COLUMNS = "window_id, body, made_by, begun_s, ended_s, ended_by"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A window that somebody made. begun_s: when. ended_s: when it was ended by hand, and ended_by: by whom."""

    window_id: str
    spec: MaintenanceSpec
    made_by: str
    begun_s: float
    ended_s: float | None = None
    ended_by: str = ""


def _kept(row: Row) -> Kept:
    return Kept(
        window_id=str(row[0]),
        spec=msgspec.json.decode(str(row[1]), type=MaintenanceSpec),
        made_by=str(row[2]),
        begun_s=float(row[3] or 0.0),
        ended_s=None if row[4] is None else float(row[4]),
        ended_by=str(row[5]),
    )


def load(tx: Tx) -> list[Kept]:
    """Return all windows, the oldest first."""
    return [_kept(row) for row in tx.rows(f"SELECT {_COLUMNS} FROM maintenance_windows ORDER BY begun_s, window_id")]  # noqa: S608


def add(tx: Tx, window_id: str, spec: MaintenanceSpec, actor: Actor) -> Kept:
    """Raises: Conflict where there are too many."""
    row = tx.one("SELECT COUNT(*) FROM maintenance_windows")
    if row is not None and int(row[0] or 0) >= MOST:
        raise Conflict(f"there are {MOST} maintenance windows already", hint="they go when they are old")
    kept = Kept(window_id=window_id, spec=spec, made_by=str(actor), begun_s=tx.now_s)
    body = msgspec.json.encode(spec).decode()
    tx.run(
        "INSERT INTO maintenance_windows (window_id, body, made_by, begun_s, ended_s, ended_by)"
        " VALUES (:window_id, :body, :made_by, :begun_s, NULL, '')",
        window_id=window_id,
        body=body,
        made_by=kept.made_by,
        begun_s=kept.begun_s,
    )
    subject = Subject(noun="incident", name=f"maintenance {spec.name}", labels=spec.match)
    audit.record(tx, actor, "create", subject, reason=spec.reason, after=msgspec.to_builtins(spec))
    tx.notify(TOPIC)
    return kept


def show(tx: Tx, window_id: str) -> Kept:
    """Raises: NotFound."""
    row = tx.one(f"SELECT {_COLUMNS} FROM maintenance_windows WHERE window_id = :window_id", window_id=window_id)  # noqa: S608
    if row is None:
        raise NotFound(f"no maintenance window '{window_id}'", hint="see dogwatch maintenance list")
    return _kept(row)


def end(tx: Tx, window_id: str, actor: Actor, reason: str = "") -> Kept:
    """End a window now. Raises: NotFound, Conflict where it was ended already."""
    kept = show(tx, window_id)
    changed = tx.run(
        "UPDATE maintenance_windows SET ended_s = :now_s, ended_by = :actor"
        " WHERE window_id = :window_id AND ended_s IS NULL",
        now_s=tx.now_s,
        actor=str(actor),
        window_id=window_id,
    )
    if not changed:
        raise Conflict(f"the maintenance '{kept.spec.name}' was ended already", hint=f"by {kept.ended_by}")
    subject = Subject(noun="incident", name=f"maintenance {kept.spec.name}", labels=kept.spec.match)
    audit.record(tx, actor, "change", subject, reason=reason or "ended", before=msgspec.to_builtins(kept.spec))
    tx.notify(TOPIC)
    return msgspec.structs.replace(kept, ended_s=tx.now_s, ended_by=str(actor))


def purge(tx: Tx, before_s: float) -> int:
    """Forget windows that somebody ended before a time."""
    return tx.run("DELETE FROM maintenance_windows WHERE ended_s < :before_s", before_s=before_s)
