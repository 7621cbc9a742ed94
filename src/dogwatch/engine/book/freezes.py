"""Deployments that are held while a freeze is on: they stay queued, and are looked at again when it ends."""

from __future__ import annotations

from collections.abc import Sequence

from dogwatch.engine.book import topics
from dogwatch.engine.book.definitions import Definitions
from dogwatch.engine.book.rows import parsed
from dogwatch.engine.book.setting import Setting, all_of, first_of, listed
from dogwatch.engine.spec import deploys
from dogwatch.store.database import Tx

# What a run waits for that is held begins with this.
SIGN = "freeze "
# Freezes end earlier or later than they were meant to: nothing is held longer without another look.
_LOOK_S = 3600.0
_HELD = f"state = 'queued' AND ready = 0 AND wake_s IS NOT NULL AND waiting_for LIKE '{SIGN}%'"


def hold(tx: Tx, setting: Setting, definitions: Definitions, run_ids: Sequence[str]) -> set[str]:
    """Return which of these candidates are held, and keep them until their freeze ends. What has begun goes on."""
    places, values = listed(list(run_ids))
    rows = all_of(
        tx,
        "SELECT run_id, job, labels, definition FROM runs "
        f"WHERE started_s IS NULL AND cancel = '' AND run_id IN ({places})",
        **values,
    )
    held = []
    for run_id, job, labels, digest in rows:
        own = parsed(labels)
        found = setting.frozen(job, own, tx.now_s) if deploys(definitions.get(tx, digest), own) else None
        if found is not None:
            end_s = min(found.end_s, tx.now_s + _LOOK_S)
            held.append({"run_id": run_id, "wake_s": end_s, "why": f"{SIGN}{found.name}"})
    if held:
        tx.many("UPDATE runs SET ready = 0, wake_s = :wake_s, waiting_for = :why WHERE run_id = :run_id", held)
    return {str(one["run_id"]) for one in held}


def any_held(tx: Tx) -> bool:
    return first_of(tx, f"SELECT 1 FROM runs WHERE {_HELD} LIMIT 1") is not None


def thaw(tx: Tx) -> int:
    """Look at all that is held again: freezes are others now. Return how many there were."""
    count = tx.run(f"UPDATE runs SET wake_s = :now WHERE {_HELD}", now=tx.now_s)
    if count:
        tx.notify(topics.READY)
    return count
