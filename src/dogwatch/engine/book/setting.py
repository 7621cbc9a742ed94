"""What the transactions of a book have in common, and small things that make SQL easier to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dogwatch.engine.values import Json
from dogwatch.store.database import Tx, Value

# The name that access.audit.record locks; taken before rows by whoever will write an event.
AUDIT = "audit"


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which deployments do not begin."""

    name: str
    end_s: float


# Job, labels of the run, now → the freeze that is on.
Frozen = Callable[[str, Mapping[str, str], float], Freeze | None]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What the two databases say differently, ends of SELECTs: skip: take the rows, but not those that another
    transaction has; skip_runs: of table r only. take: take them, and wait for it. share: keep them as they are, with
    others who want that.

    alone: no other process can use the database.
    outputs: what a run that ended gives to the step that started it. frozen: what holds a deployment now, by its job
    and labels.
    """

    skip: str = ""
    skip_runs: str = ""
    take: str = ""
    share: str = ""
    alone: bool = False
    outputs: Callable[[Tx, str], Mapping[str, Json]] = lambda _tx, _run_id: {}
    frozen: Frozen = lambda _job, _labels, _now_s: None


def setting_of(kind: str, outputs: Callable[[Tx, str], Mapping[str, Json]], frozen: Frozen) -> Setting:
    if kind == "sqlite":
        # There is one writer: every row is its own.
        return Setting(alone=True, outputs=outputs, frozen=frozen)
    return Setting(
        skip=" FOR UPDATE SKIP LOCKED",
        skip_runs=" FOR UPDATE OF r SKIP LOCKED",
        take=" FOR UPDATE",
        share=" FOR SHARE",
        outputs=outputs,
        frozen=frozen,
    )


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
