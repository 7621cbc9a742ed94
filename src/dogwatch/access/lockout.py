"""What failed logins cost: a wait that doubles, for the account and for the address."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dogwatch.access.options import Lockout
from dogwatch.access.tokens import digest_of
from dogwatch.store.database import Tx

# One address may stand for many people.
_ADDRESS_FREE = 4
_KEPT = 10_000


def wait_after(failures: int, free: int, options: Lockout) -> float:
    """Return the seconds in which nothing is tried after so many failures in a row."""
    over = failures - free
    return 0.0 if over < 0 else min(options.first * 2.0 ** min(over, 60), options.most)


def keys(name: str, address: str) -> Sequence[tuple[str, int]]:
    """Return what is counted, with how many times the free failures it has."""
    found = [(f"user:{digest_of(name)[:32]}", 1)]
    if address:
        found.append((f"address:{digest_of(address)[:32]}", _ADDRESS_FREE))
    return found


def attempt(name: str, address: str, options: Lockout) -> Callable[[Tx], float]:
    """Return work that lets one password be tried, and counts it as failed until it has succeeded: of many that are
    sent at once, no more than are free get through. It returns 0, or for how long nothing is tried.
    """

    def work(tx: Tx) -> float:
        tx.lock("lockout")
        counted = []
        for key, times in keys(name, address):
            row = tx.one("SELECT failures, until_s, last_s FROM lockouts WHERE what = :key", key=key)
            if row and float(row[1] or 0) > tx.now_s:
                return float(row[1] or 0) - tx.now_s
            fresh = row and float(row[2] or 0) > tx.now_s - options.forget
            counted.append((key, int(row[0] or 0) + 1 if row and fresh else 1, options.failures * times))
        for key, failures, free in counted:
            _count(tx, key, failures, wait_after(failures, free, options))
        tx.run("DELETE FROM lockouts WHERE last_s < :old", old=tx.now_s - options.forget)
        tx.run(
            "DELETE FROM lockouts WHERE what IN "
            "(SELECT what FROM lockouts ORDER BY last_s DESC LIMIT 1000 OFFSET :kept)",
            kept=_KEPT,
        )
        return 0.0

    return work


def _count(tx: Tx, key: str, failures: int, wait_s: float) -> None:
    tx.run(
        "INSERT INTO lockouts (what, failures, last_s, until_s) VALUES (:key, :failures, :now, :until_s) "
        "ON CONFLICT (what) DO UPDATE SET failures = excluded.failures, last_s = excluded.last_s, "
        "until_s = excluded.until_s",
        key=key,
        failures=failures,
        now=tx.now_s,
        until_s=tx.now_s + wait_s,
    )


def succeeded(tx: Tx, name: str, address: str) -> None:
    """Forget the account's failures. Of the address's only this attempt: one good password among many bad ones proves
    nothing.
    """
    account, *others = [key for key, _times in keys(name, address)]
    tx.run("DELETE FROM lockouts WHERE what = :key", key=account)
    for key in others:
        tx.run("UPDATE lockouts SET failures = failures - 1, until_s = 0 WHERE what = :key AND failures > 0", key=key)
