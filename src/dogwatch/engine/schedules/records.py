"""What is kept of schedules, and every statement about it. A fire is claimed by moving the cursor past it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from dogwatch.engine.port import Starter
from dogwatch.engine.schedules.decide import Fire
from dogwatch.store.database import Row, Tx

TOPIC = "schedules"
# The bound by number is looked after once in so many fires.
_LOOK_AFTER = 50


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule on disk. cursor_s: every fire up to here was decided. paused: by a person. counts: since ever."""

    name: str
    timing: str
    cursor_s: float
    paused: bool
    paused_by: str
    paused_reason: str
    paused_s: float | None
    fired: int
    missed: int
    refused: int
    removed_s: float | None


class FireRow(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a fire. state: started, refused (by the job's concurrency), failed (it could not start), missed
    (several, counted in the reason), manual. fire: its key. claimed_s: when that was decided.
    """

    schedule: str
    fire: str
    fire_s: float
    claimed_s: float
    state: str
    run_id: str = ""
    reason: str = ""


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """Fires that are left out. last_s: the fire time of the last of them."""

    count: int
    last_s: float
    reason: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A decision to be made fact: the cursor goes from one place to another, if it is still there.

    fire: None where fires were missed and none starts. state and reason: for a fire without a run.
    """

    name: str
    timing: str
    from_s: float
    to_s: float
    fire: Fire | None = None
    missed: Missed | None = None
    state: str = "started"
    reason: str = ""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """outcome: done; lost: another scheduler, or a change, was first; early: it is not time yet by the database's
    clock; known: that fire has run before. now_s: by that clock.
    """

    outcome: str
    now_s: float
    run_id: str = ""


def fire_text(fire_s: float) -> str:
    """Return a fire time as its key: `2026-11-21T03:00:00Z`."""
    return datetime.fromtimestamp(fire_s, UTC).isoformat().replace("+00:00", "Z")


def run_key(name: str, fire: str) -> str:
    """Return the idempotency key of a fire's run."""
    return f"schedule/{name}/{fire}"


_COLUMNS = (
    "name, timing, cursor_s, paused, paused_by, paused_reason, paused_s, fired, missed, refused, removed_s"  # as Record
)


def _record(row: Row) -> Record:
    values: dict[str, Any] = dict(zip(Record.__struct_fields__, _in_order(row), strict=True))
    return Record(**values)


def _in_order(row: Row) -> tuple[Any, ...]:
    return (*row[:3], bool(row[3]), *row[4:])


def all_records(tx: Tx) -> dict[str, Record]:
    return {str(row[0]): _record(row) for row in tx.rows(f"SELECT {_COLUMNS} FROM schedules")}  # noqa: S608


def find_record(tx: Tx, name: str) -> Record | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM schedules WHERE name = :name", name=name)  # noqa: S608
    return _record(row) if row else None


def adopt(tx: Tx, wanted: Mapping[str, str]) -> dict[str, Record]:
    """Make the schedules on disk those of the configuration, and return them. wanted: name → timing.

    A new one, or one whose timing changed, begins now: what it would have fired before is not missed.
    """
    tx.lock("schedules")
    known = all_records(tx)
    now_s = tx.now_s
    new = [name for name in wanted if name not in known]
    changed = [
        name
        for name, timing in wanted.items()
        if name in known and (known[name].timing != timing or known[name].removed_s is not None)
    ]
    gone = [name for name, record in known.items() if name not in wanted and record.removed_s is None]
    if not (new or changed or gone):
        return known
    if new:
        tx.many(
            "INSERT INTO schedules (name, timing, cursor_s) VALUES (:name, :timing, :now_s)",
            [{"name": name, "timing": wanted[name], "now_s": now_s} for name in new],
        )
    if changed:
        tx.many(
            "UPDATE schedules SET timing = :timing, removed_s = NULL, "
            "cursor_s = CASE WHEN cursor_s > :now_s THEN cursor_s ELSE :now_s END WHERE name = :name",
            [{"name": name, "timing": wanted[name], "now_s": now_s} for name in changed],
        )
    if gone:
        tx.many(
            "UPDATE schedules SET removed_s = :now_s WHERE name = :name",
            [{"name": name, "now_s": now_s} for name in gone],
        )
    tx.notify(TOPIC)
    return all_records(tx)


def claim(tx: Tx, wanted: Claim, start: Starter | None, *, keep_fires: int) -> Claimed:
    """Move the cursor, note what becomes of the fires it passes, and start the run: all of it or nothing.

    Raises: what start raises; nothing is changed then.
    """
    now_s = tx.now_s
    if wanted.fire is not None and now_s < wanted.fire.due_s:
        return Claimed(outcome="early", now_s=now_s)
    seen = tx.one("SELECT cursor_s FROM schedules WHERE name = :name", name=wanted.name)
    if seen is None or seen[0] != wanted.from_s:
        return Claimed(outcome="lost", now_s=now_s)
    # Every start ends with the audit trail's lock. Taken first, two schedulers whose groups hold the same fires in
    # another order wait for each other here, and not crosswise.
    tx.lock("audit")
    if not _move(tx, wanted, keep_fires):
        return Claimed(outcome="lost", now_s=now_s)
    if wanted.missed is not None:
        fire_s = wanted.missed.last_s
        _note(tx, wanted.name, fire_text(fire_s), fire_s, "missed", reason=wanted.missed.reason)
    if wanted.fire is None:
        return Claimed(outcome="done", now_s=now_s)
    fire = fire_text(wanted.fire.fire_s)
    # The cursor was set back by hand after the clock was: what has run does not run again.
    before = tx.one(
        "SELECT state FROM schedule_fires WHERE schedule = :name AND fire = :fire", name=wanted.name, fire=fire
    )
    if before is not None and before[0] != "missed":
        return Claimed(outcome="known", now_s=now_s)
    run_id = start(tx).run.run_id if start is not None else ""
    if before is not None:
        tx.run("DELETE FROM schedule_fires WHERE schedule = :name AND fire = :fire", name=wanted.name, fire=fire)
    _note(tx, wanted.name, fire, wanted.fire.fire_s, wanted.state, run_id=run_id, reason=wanted.reason)
    return Claimed(outcome="done", now_s=now_s, run_id=run_id)


def _move(tx: Tx, wanted: Claim, keep_fires: int) -> bool:
    """Move the cursor if it is where it was seen; whoever comes second changes no row."""
    row = tx.one(
        "UPDATE schedules SET cursor_s = :to_s, missed = missed + :missed, "
        "fired = fired + :fired, refused = refused + :refused "
        "WHERE name = :name AND timing = :timing AND cursor_s = :from_s AND paused = 0 AND removed_s IS NULL "
        "RETURNING fired + refused",
        name=wanted.name,
        timing=wanted.timing,
        from_s=wanted.from_s,
        to_s=wanted.to_s,
        missed=wanted.missed.count if wanted.missed else 0,
        fired=int(wanted.fire is not None and wanted.state == "started"),
        refused=int(wanted.fire is not None and wanted.state != "started"),
    )
    if row is not None and int(row[0] or 0) % _LOOK_AFTER == 0:
        tx.run(
            "DELETE FROM schedule_fires WHERE schedule = :name AND claimed_s < (SELECT claimed_s FROM schedule_fires "
            "WHERE schedule = :name ORDER BY claimed_s DESC LIMIT 1 OFFSET :keep)",
            name=wanted.name,
            keep=keep_fires,
        )
    return row is not None


def _note(tx: Tx, name: str, fire: str, fire_s: float, state: str, *, run_id: str = "", reason: str = "") -> None:
    tx.run(
        "INSERT INTO schedule_fires (schedule, fire, fire_s, claimed_s, state, run_id, reason) "
        "VALUES (:schedule, :fire, :fire_s, :claimed_s, :state, :run_id, :reason) "
        "ON CONFLICT (schedule, fire) DO NOTHING",
        schedule=name,
        fire=fire,
        fire_s=fire_s,
        claimed_s=tx.now_s,
        state=state,
        run_id=run_id,
        reason=reason[:2000],
    )


def note_manual(tx: Tx, name: str, fire: str, run_id: str, by: str) -> None:
    """Keep that a person started it."""
    _note(tx, name, fire, tx.now_s, "manual", run_id=run_id, reason=f"started by {by}")


def set_paused(tx: Tx, name: str, by: str, reason: str) -> bool:
    """Return whether that changed anything."""
    changed = tx.run(
        "UPDATE schedules SET paused = 1, paused_by = :by, paused_reason = :reason, paused_s = :now_s "
        "WHERE name = :name AND paused = 0",
        name=name,
        by=by,
        reason=reason,
        now_s=tx.now_s,
    )
    tx.notify(TOPIC)
    return changed == 1


def set_resumed(tx: Tx, name: str, *, from_now: bool) -> bool:
    """Let it fire from now on; what the pause passed over is not missed. Return whether it was paused.

    from_now: also where the cursor lies ahead, because the clock was set back.
    """
    cursor = ":now_s" if from_now else "CASE WHEN cursor_s > :now_s THEN cursor_s ELSE :now_s END"
    paused = tx.run(
        f"UPDATE schedules SET paused = 0, paused_by = '', paused_reason = '', paused_s = NULL, cursor_s = {cursor} "  # noqa: S608
        "WHERE name = :name AND paused = 1",
        name=name,
        now_s=tx.now_s,
    )
    if from_now and not paused:
        tx.run("UPDATE schedules SET cursor_s = :now_s WHERE name = :name", name=name, now_s=tx.now_s)
    tx.notify(TOPIC)
    return paused == 1


_FIRE_COLUMNS = "schedule, fire, fire_s, claimed_s, state, run_id, reason"


def find_fires(tx: Tx, name: str, *, limit: int, before: tuple[float, str] | None = None) -> list[FireRow]:
    """Return what became of a schedule's fires, the newest decision first. before: (claimed_s, fire) of a row."""
    before_s, fire = before or (1e18, "")
    rows = tx.rows(
        f"SELECT {_FIRE_COLUMNS} FROM schedule_fires WHERE schedule = :name "  # noqa: S608
        "AND (claimed_s < :before_s OR (claimed_s = :before_s AND fire < :fire)) "
        "ORDER BY claimed_s DESC, fire DESC LIMIT :limit",
        name=name,
        before_s=before_s,
        fire=fire,
        limit=limit,
    )
    return [_fire_row(row) for row in rows]


def _fire_row(row: Row) -> FireRow:
    values: dict[str, Any] = dict(zip(FireRow.__struct_fields__, row, strict=True))
    return FireRow(**values)


def last_fires(tx: Tx, names: Sequence[str]) -> dict[str, FireRow]:
    """Return the newest row of each, of those that have any."""
    found = {}
    for name in names:
        rows = find_fires(tx, name, limit=1)
        if rows:
            found[name] = rows[0]
    return found


def forget(tx: Tx, keep_s: float) -> int:
    """Drop what is older, and schedules that were removed so long ago; return how many rows went."""
    before_s = tx.now_s - keep_s
    tx.run(
        "DELETE FROM schedule_fires WHERE schedule IN (SELECT name FROM schedules WHERE removed_s < :before_s)",
        before_s=before_s,
    )
    tx.run("DELETE FROM schedules WHERE removed_s < :before_s", before_s=before_s)
    return tx.run("DELETE FROM schedule_fires WHERE claimed_s < :before_s", before_s=before_s)
