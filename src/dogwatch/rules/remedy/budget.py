"""Budgets: at most so many actions in a time, and at once. The same question is asked by the pure decider of what it
remembers, and by a transaction of what all processes have claimed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dogwatch.core.units import format_duration
from dogwatch.rules.remedy.values import Budget, Use
from dogwatch.store.database import Tx


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """Whether another action fits. why: it does not. retry_s: until when it is not worth asking again; 0 where
    nobody knows. left: of the budget, in words.
    """

    ok: bool
    why: str = ""
    retry_s: float = 0.0
    left: str = ""


def room(budget: Budget, uses: Sequence[Use], now_s: float) -> Room:
    """Return whether an action may be made now. uses: of the budget's scope, in any order. Pure."""
    counted = sorted(use.time_s for use in uses if use.time_s > now_s - budget.per_s)
    under_way = [use for use in uses if use.open and use.until_s > now_s]
    most = budget.most_at_once
    per = format_duration(budget.per_s)
    left = (
        f"{max(0, budget.max - len(counted))} of {budget.max} in {per}, "
        f"{max(0, most - len(under_way))} of {most} at once"
    )
    if len(counted) >= budget.max:
        why = f"budget {budget.scope}: {len(counted)} of {budget.max} in {per} are used up"
        # Of so many that count, the one that must become too old first.
        free_s = counted[len(counted) - budget.max] + budget.per_s
        return Room(ok=False, why=why, retry_s=max(0.0, free_s - now_s), left=left)
    if len(under_way) >= most:
        return Room(ok=False, why=f"budget {budget.scope}: {len(under_way)} of {most} at once are under way", left=left)
    return Room(ok=True, left=left)


def claim(tx: Tx, budget: Budget, key: str, *, lasts_s: float) -> Room:
    """Claim an action in the caller's transaction: its start and this are on disk together, or neither is.

    A key that has claimed already has its claim. lasts_s: after so long it counts as ended in any case.
    """
    tx.lock(f"budget {budget.scope}")
    if tx.one("SELECT 1 FROM budget_claims WHERE claim_key = :key", key=key) is not None:
        return Room(ok=True, left="claimed before")
    now_s = tx.now_s
    rows = tx.rows(
        "SELECT claim_key, claimed_s, until_s, ended_s FROM budget_claims WHERE scope = :scope"
        " AND (claimed_s > :since_s OR (ended_s IS NULL AND until_s > :now_s))",
        scope=budget.scope,
        since_s=now_s - budget.per_s,
        now_s=now_s,
    )
    uses = [
        Use(key=str(row[0]), time_s=float(row[1] or 0), until_s=float(row[2] or 0), open=row[3] is None) for row in rows
    ]
    found = room(budget, uses, now_s)
    if found.ok:
        tx.run(
            "INSERT INTO budget_claims (claim_key, scope, claimed_s, until_s) VALUES (:key, :scope, :now_s, :until_s)",
            key=key,
            scope=budget.scope,
            now_s=now_s,
            until_s=now_s + lasts_s,
        )
    return found


def release(tx: Tx, key: str, *, void: bool = False) -> None:
    """End a claim: it counts no longer as one at once. void: nor as one in its time: nothing was done."""
    if void:
        tx.send("DELETE FROM budget_claims WHERE claim_key = :key", key=key)
    else:
        tx.send(
            "UPDATE budget_claims SET ended_s = :now_s WHERE claim_key = :key AND ended_s IS NULL",
            key=key,
            now_s=tx.now_s,
        )


def forget(tx: Tx, before_s: float) -> None:
    """Remove claims that no budget looks at any more."""
    tx.send("DELETE FROM budget_claims WHERE claimed_s < :before_s AND until_s < :before_s", before_s=before_s)
