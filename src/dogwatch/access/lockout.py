"""What failed logins cost: a wait that doubles. It is for whoever tries, not for the account: who has logged in from a
place before is not locked out there by what others do elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from dogwatch.access.options import Lockout
from dogwatch.access.tokens import digest_of
from dogwatch.store.database import Tx

# How many times the failures that are free: one address may stand for many people, and from everywhere together come
# those of many addresses.
_ADDRESS_FREE, _EVERYWHERE_FREE = 4, 20
_KEPT = 10_000
_PLACES_KEPT, _PLACES_S = 100_000, 90 * 86400.0


class Place(msgspec.Struct, frozen=True):
    """Where a login comes from. device: a secret that the browser was given when somebody last logged in, or ""."""

    address: str = ""
    device: str = ""


def wait_after(failures: int, free: int, options: Lockout) -> float:
    """Return the seconds in which nothing is tried after so many failures in a row."""
    over = failures - free
    return 0.0 if over < 0 else min(options.first * 2.0 ** min(over, 60), options.most)


def _mark(*parts: str) -> str:
    return digest_of("\0".join(parts))[:32]


def keys(name: str, place: Place) -> Sequence[tuple[str, int]]:
    """Return what is counted for a place where this user has not logged in, with how many times the free failures it
    has.
    """
    found = [(f"here:{_mark(name, place.address)}", 1), (f"user:{_mark(name)}", _EVERYWHERE_FREE)]
    if place.address:
        found.append((f"address:{_mark(place.address)}", _ADDRESS_FREE))
    return found


def _counted(tx: Tx, name: str, place: Place) -> Sequence[tuple[str, int]]:
    """Return what is counted for a place, the user's own first: where this user has logged in before, not what others
    do elsewhere.
    """

    def known(kind: str, text: str) -> bool:
        mark = _mark(kind, name, text)
        return bool(text and tx.one("SELECT 1 FROM places WHERE what = :mark", mark=mark))

    if known("device", place.device):
        return [(f"device:{_mark(name, place.device)}", 1)]
    found = keys(name, place)
    if known("here", place.address):
        # Somebody else may be at this address, too, and try the names of all who are known there.
        return [one for one in found if not one[0].startswith("user:")]
    return found


def attempt(name: str, place: Place, options: Lockout) -> Callable[[Tx], float]:
    """Return work that lets one password be tried, and counts it as failed until it has succeeded: of many that are
    sent at once, no more than are free get through. It returns 0, or for how long nothing is tried.
    """

    def work(tx: Tx) -> float:
        tx.lock("lockout")
        counted = []
        for key, times in _counted(tx, name, place):
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


def succeeded(tx: Tx, name: str, place: Place) -> None:
    """Forget what this user failed at here, and remember the place. Of what is counted for others, too, only this
    attempt is taken back: one good password among many bad ones proves nothing.
    """
    own, *shared = [key for key, _times in _counted(tx, name, place)]
    tx.run("DELETE FROM lockouts WHERE what = :key", key=own)
    for key in shared:
        tx.run("UPDATE lockouts SET failures = failures - 1, until_s = 0 WHERE what = :key AND failures > 0", key=key)
    remember(tx, name, place)


def remember(tx: Tx, name: str, place: Place) -> None:
    """Keep where a user has logged in."""
    for kind, text in (("device", place.device), ("here", place.address)):
        if text:
            tx.run(
                "INSERT INTO places (what, last_s) VALUES (:mark, :now) "
                "ON CONFLICT (what) DO UPDATE SET last_s = excluded.last_s",
                mark=_mark(kind, name, text),
                now=tx.now_s,
            )
    tx.run("DELETE FROM places WHERE last_s < :old", old=tx.now_s - _PLACES_S)
    tx.run(
        "DELETE FROM places WHERE what IN (SELECT what FROM places ORDER BY last_s DESC LIMIT 1000 OFFSET :kept)",
        kept=_PLACES_KEPT,
    )
