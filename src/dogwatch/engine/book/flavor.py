"""What the two databases say differently."""

from __future__ import annotations

from typing import Any

import msgspec

from dogwatch.store.database import Tx, Value


class Flavor(msgspec.Struct, frozen=True, kw_only=True):
    """Ends of SELECTs. skip: take the rows, but not those that another transaction has; skip_runs: of table r only.
    take: take them, and wait for it.
    """

    skip: str = ""
    skip_runs: str = ""
    take: str = ""


# SQLite has one writer: every row is its own.
_FLAVORS = {
    "sqlite": Flavor(),
    "postgresql": Flavor(skip=" FOR UPDATE SKIP LOCKED", skip_runs=" FOR UPDATE OF r SKIP LOCKED", take=" FOR UPDATE"),
}


def flavor_of(kind: str) -> Flavor:
    return _FLAVORS[kind]


def listed(values: list[str], prefix: str = "i") -> tuple[str, dict[str, str]]:
    """Return what stands between the brackets of `IN (…)`, and its values.

    The number of places is rounded up, by repeating the last value, so that few different statements come about.
    """
    size = 1
    while size < len(values):
        size *= 2
    padded = values + values[-1:] * (size - len(values))
    named = {f"{prefix}{number}": value for number, value in enumerate(padded)}
    return ", ".join(f":{name}" for name in named), named


def all_of(tx: Tx, query: str, **values: Value) -> list[Any]:
    """Return the rows, to be taken apart: what is in a column, the schema says."""
    return list(tx.rows(query, **values))


def first_of(tx: Tx, query: str, **values: Value) -> Any:
    """Return the first row, to be taken apart, or None."""
    return tx.one(query, **values)
