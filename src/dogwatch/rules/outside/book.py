"""Alerts of others in the state database: plain functions of a transaction."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dogwatch.rules.outside.firing import Firing
from dogwatch.rules.outside.read import OutsideAlert
from dogwatch.rules.watcher import Alert
from dogwatch.store.database import Tx

TOPIC = "outside"
_FORGET_S = 7 * 86_400.0
# As far back as backtests go.
_HISTORY_S = 90 * 86_400.0
# Alerts that may fire at the same time; more are not taken.
MOST = 50_000


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an alert. changed: to be asked for what follows."""

    key: str
    alert: Alert
    firing: bool
    changed: int


def take(tx: Tx, alerts: Sequence[OutsideAlert]) -> int:
    """Keep what came in; return how many of it changed anything."""
    tx.lock("outside")
    row = tx.one("SELECT COALESCE(MAX(changed), 0), COUNT(*) FROM outside_alerts")
    number, count = (int(row[0] or 0), int(row[1] or 0)) if row else (0, 0)
    taken = 0
    for one in alerts:
        known = tx.one("SELECT firing FROM outside_alerts WHERE alert_key = :key", key=one.key)
        if known is None and (not one.firing or count >= MOST):
            continue
        if known is not None and not one.firing and not known[0]:
            continue
        number, taken, count = number + 1, taken + 1, count + (known is None)
        tx.run(
            "INSERT INTO outside_alerts (alert_key, body, firing, ends_s, changed)"
            " VALUES (:key, :body, :firing, :ends_s, :changed)"
            " ON CONFLICT (alert_key) DO UPDATE SET body = excluded.body, firing = excluded.firing,"
            " ends_s = excluded.ends_s, changed = excluded.changed",
            key=one.key,
            body=msgspec.json.encode(one.alert).decode(),
            firing=int(one.firing),
            ends_s=one.ends_s,
            changed=number,
        )
        _note(tx, one)
    if taken:
        tx.notify(TOPIC)
    return taken


def _note(tx: Tx, one: OutsideAlert) -> None:
    """Write down when it began, goes on or ended, for backtests."""
    if not one.firing:
        tx.run(
            "UPDATE outside_firings SET ended_s = :now_s WHERE alert_key = :key AND ended_s IS NULL",
            key=one.key,
            now_s=tx.now_s,
        )
        return
    going = tx.run(
        "UPDATE outside_firings SET ends_s = :ends_s WHERE alert_key = :key AND ended_s IS NULL AND ends_s > :now_s",
        key=one.key,
        now_s=tx.now_s,
        ends_s=one.ends_s,
    )
    if not going:
        tx.run("UPDATE outside_firings SET ended_s = ends_s WHERE alert_key = :key AND ended_s IS NULL", key=one.key)
        tx.run(
            "INSERT INTO outside_firings (alert_key, begun_s, ended_s, ends_s, body)"
            " VALUES (:key, :now_s, NULL, :ends_s, :body) ON CONFLICT (alert_key, begun_s) DO NOTHING",
            key=one.key,
            now_s=tx.now_s,
            ends_s=one.ends_s,
            body=msgspec.json.encode(one.alert).decode(),
        )


def firings(tx: Tx, since_s: float, until_s: float) -> list[Firing]:
    """Return when alerts were out in a time, the newest MOST, in the order in which they began."""
    rows = tx.rows(
        "SELECT body, COALESCE(told_s, begun_s), COALESCE(over_s, ended_s), ends_s, over_s"
        " FROM outside_firings WHERE begun_s < :until_s AND COALESCE(over_s, ended_s, ends_s) > :since_s"
        " ORDER BY begun_s DESC, alert_key LIMIT :most",
        since_s=since_s,
        until_s=until_s,
        most=MOST,
    )
    return [
        Firing(
            alert=msgspec.json.decode(str(body), type=Alert),
            begun_s=float(begun_s or 0.0),
            ended_s=_end(ended_s, float(ends_s or 0.0), heard=over_s is not None),
        )
        for body, begun_s, ended_s, ends_s, over_s in reversed(rows)
    ]


def _end(ended_s: object, ends_s: float, *, heard: bool) -> float:
    if not isinstance(ended_s, int | float):
        return ends_s
    return float(ended_s) if heard else min(float(ended_s), ends_s)


def heard(tx: Tx, changes: Sequence[tuple[Change, float]]) -> None:
    """Write down when the rules heard of changes."""
    for change, at_s in changes:
        if change.firing:
            tx.run(
                "UPDATE outside_firings SET told_s = :at_s WHERE alert_key = :key AND told_s IS NULL AND begun_s ="
                " (SELECT MAX(begun_s) FROM outside_firings WHERE alert_key = :key)",
                at_s=at_s,
                key=change.key,
            )
        else:
            tx.run(
                "UPDATE outside_firings SET over_s = :at_s"
                " WHERE alert_key = :key AND over_s IS NULL AND told_s IS NOT NULL",
                at_s=at_s,
                key=change.key,
            )


def changes(tx: Tx, after: int, now_s: float) -> list[Change]:
    """Return what changed after a change, in order, with those that ended by themselves meanwhile."""
    rows = tx.rows(
        "SELECT alert_key, body, firing, ends_s, changed FROM outside_alerts"
        " WHERE changed > :after OR (firing = 1 AND ends_s <= :now_s) ORDER BY changed",
        after=after,
        now_s=now_s,
    )
    return [
        Change(
            key=str(key),
            alert=msgspec.json.decode(str(body), type=Alert),
            firing=bool(firing) and float(ends_s or 0.0) > now_s,
            changed=int(changed or 0),
        )
        for key, body, firing, ends_s, changed in rows
    ]


def purge(tx: Tx, now_s: float) -> int:
    """Forget alerts that have long been over."""
    tx.run("DELETE FROM outside_firings WHERE COALESCE(ended_s, ends_s) <= :before_s", before_s=now_s - _HISTORY_S)
    tx.run("UPDATE outside_alerts SET firing = 0 WHERE firing = 1 AND ends_s <= :before_s", before_s=now_s - 3600.0)
    return tx.run("DELETE FROM outside_alerts WHERE firing = 0 AND ends_s <= :before_s", before_s=now_s - _FORGET_S)
