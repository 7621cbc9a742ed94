"""Runs that wait for a worker that is not there: said at the run, for whoever wonders why nothing happens."""

from __future__ import annotations

from collections.abc import Sequence

from dogwatch.engine.book.rows import parsed
from dogwatch.engine.book.setting import all_of
from dogwatch.store.database import Tx

_SIGN = "a worker with "

# placement, what the runs say now, what they are to say.
Note = tuple[str, str, str]


def notes(tx: Tx) -> Sequence[Note]:
    """Return what is to be said, or no longer to be said, at runs that could be taken."""
    waiting = all_of(
        tx,
        "SELECT DISTINCT placement, waiting_for FROM runs WHERE ready = 1 AND placement <> ''"
        f" AND (waiting_for = '' OR waiting_for LIKE '{_SIGN}%')",
    )
    if not waiting:
        return ()
    workers = [parsed(row[0]) for row in all_of(tx, "SELECT labels FROM workers WHERE state = 'active'")]
    found: list[Note] = []
    for placement, said in waiting:
        wanted: dict[str, str] = parsed(placement)
        fits = any(all(labels.get(key) == value for key, value in wanted.items()) for labels in workers)
        text = "" if fits else _SIGN + ", ".join(f"{key}={value}" for key, value in sorted(wanted.items()))
        if text != said:
            found.append((str(placement), str(said), text))
    return found


def write(tx: Tx, found: Sequence[Note]) -> None:
    tx.many(
        "UPDATE runs SET waiting_for = :text WHERE ready = 1 AND placement = :placement AND waiting_for = :said",
        [{"placement": placement, "said": said, "text": text} for placement, said, text in found],
    )
