"""Old runs go: by age and by number, some at a time, with all that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dogwatch.core.units import Seconds
from dogwatch.engine.book.definitions import ORPHANS_S
from dogwatch.engine.book.setting import all_of, listed
from dogwatch.store.database import Database, Tx, Value

_SLICE = 200
# In one go at most so many slices: the next comes soon, and others want the database, too.
_SLICES = 50
_DAY_S = 86400.0
# A worker that is lost stays on the list for so long.
_LOST_S = 3600.0


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """age_s: ended runs are kept so long, where their job says nothing else. per_job, total: and at most so many."""

    age_s: Seconds = 30 * _DAY_S
    per_job: int = 2_000
    total: int = 100_000


async def prune(database: Database, keeping: Keeping) -> int:
    """Return how many runs were deleted."""
    gone = 0
    for _ in range(_SLICES):
        found = await database.read(lambda tx: _surplus(tx, keeping))
        if not found:
            break
        gone += await database.write(lambda tx, ids=found: _delete(tx, ids))  # type: ignore[misc]
    await database.write(_orphans)
    return gone


# Ended, and nobody waits for it any more.
_OVER = "ended_s IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runs p WHERE p.run_id = runs.parent AND p.ended_s IS NULL)"


def _surplus(tx: Tx, keeping: Keeping) -> list[str]:
    """Return some runs that may go. A run stays as long as its parent has not ended."""
    return (
        _some(tx, "expires_s <= :now", "expires_s", _SLICE, now=tx.now_s)
        or _some(tx, "ended_s <= :until AND expires_s IS NULL", "ended_s", _SLICE, until=tx.now_s - keeping.age_s)
        or _too_many(tx, keeping)
    )


def _some(tx: Tx, condition: str, order: str, most: int, **values: Value) -> list[str]:
    rows = all_of(
        tx,
        f"SELECT run_id FROM runs WHERE {condition} AND {_OVER} ORDER BY {order} LIMIT :most",
        **values,
        most=min(_SLICE, most),
    )
    return [str(row[0]) for row in rows]


def _too_many(tx: Tx, keeping: Keeping) -> list[str]:
    counted = all_of(tx, "SELECT job, count(*) FROM runs WHERE ended_s IS NOT NULL GROUP BY job ORDER BY job")
    for job, count in counted:
        if count > keeping.per_job and (
            found := _some(tx, "job = :job", "created_s", count - keeping.per_job, job=job)
        ):
            return found
    surplus = sum(count for _, count in counted) - keeping.total
    return _some(tx, "1 = 1", "ended_s", surplus) if surplus > 0 else []


def _delete(tx: Tx, run_ids: Sequence[str]) -> int:
    places, values = listed(list(run_ids))
    for table in ("output", "outputs", "steps", "approvals", "run_gates"):
        tx.run(f"DELETE FROM {table} WHERE run_id IN ({places})", **values)
    return tx.run(f"DELETE FROM runs WHERE run_id IN ({places})", **values)


def _orphans(tx: Tx) -> None:
    tx.run(
        "DELETE FROM definitions WHERE seen_s < :before AND NOT EXISTS "
        "(SELECT 1 FROM runs r WHERE r.definition = definitions.digest)",
        before=tx.now_s - ORPHANS_S,
    )
    tx.run(
        "DELETE FROM workers WHERE state = 'lost' AND heartbeat_s < :before AND NOT EXISTS "
        "(SELECT 1 FROM runs r WHERE r.worker = workers.worker_id AND r.worker <> '')",
        before=tx.now_s - _LOST_S,
    )
    tx.run("DELETE FROM gate_starts WHERE NOT EXISTS (SELECT 1 FROM gates g WHERE g.name = gate_starts.gate)")
    tx.run(
        "DELETE FROM gates WHERE used <= 0 AND open_s IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM run_gates r WHERE r.gate = gates.name) "
        "AND NOT EXISTS (SELECT 1 FROM gate_starts s WHERE s.gate = gates.name AND s.time_s > :now - gates.window_s)",
        now=tx.now_s,
    )
