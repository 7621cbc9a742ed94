"""A worker takes runs: what is due becomes ready, what is ready and passes its gates becomes the worker's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.engine.book import freezes, gates, orders
from dogwatch.engine.book.definitions import Definitions
from dogwatch.engine.book.rows import RUN, RUN_COLUMNS, order_of, parsed, run_of, step_of
from dogwatch.engine.book.setting import Setting, all_of, first_of, listed
from dogwatch.engine.ledger import Claimed, Fenced, StepRow
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import RunState
from dogwatch.errors import PermanentError
from dogwatch.store.database import Tx

# Runs that are due at the same moment become ready in portions; the next claim takes the next.
_DUE = 1000
_PLACEMENTS = (
    "WITH RECURSIVE p (x) AS (SELECT min(placement) FROM runs WHERE ready = 1 UNION ALL "
    "SELECT (SELECT min(placement) FROM runs WHERE ready = 1 AND placement > p.x) FROM p WHERE p.x IS NOT NULL) "
    "SELECT x FROM p WHERE x IS NOT NULL"
)


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was claimed, and its secret parameters as they are on disk."""

    claimed: Claimed
    sealed: bytes | None


class Haul(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction took. more: some were blocked, and behind them may be others."""

    taken: list[Taken]
    more: bool


def anything(tx: Tx, labels: Mapping[str, str]) -> bool:
    """Return whether a claim of a worker with these labels could find something.

    It writes nothing: a worker that idles costs next to nothing.
    """
    row = first_of(
        tx,
        "SELECT (SELECT min(wake_s) FROM runs WHERE wake_s IS NOT NULL), "
        "(SELECT min(open_s) FROM gates WHERE open_s IS NOT NULL)",
    )
    now_s = tx.now_s
    return any(time is not None and time <= now_s for time in row) or bool(_fitting(tx, labels))


def claim(tx: Tx, setting: Setting, definitions: Definitions, worker_id: str, slots: int) -> Haul:
    """Raises: Fenced where the worker was declared lost."""
    labels = _worker_labels(tx, worker_id)
    if labels is None or slots <= 0:
        return Haul(taken=[], more=False)
    _wake_due(tx, setting)
    gates.open_due(tx, setting)
    chosen, more = _choose(tx, setting, definitions, labels, slots)
    if not chosen:
        return Haul(taken=[], more=more)
    rows = _own(tx, worker_id, chosen)
    steps = _steps(tx, [str(row[0]) for row in rows if row[RUN_COLUMNS + 3]])
    taken = []
    for row in rows:
        run, (fence, cancel, paused, _, definition, sealed) = run_of(row), row[RUN_COLUMNS:]
        spec = definitions.get(tx, definition)
        own = steps.get(run.run_id, [])
        claimed = Claimed(
            run=run, fence=fence, definition=spec, steps=own, order=order_of(cancel, paused, {}),
        )  # fmt: skip
        taken.append(Taken(claimed=claimed, sealed=sealed))
    return Haul(taken=taken, more=more)


def _worker_labels(tx: Tx, worker_id: str) -> Mapping[str, str] | None:
    """Return the worker's labels, None where it takes nothing. Its row stays locked: it cannot be declared lost."""
    row = first_of(
        tx, "UPDATE workers SET beats = beats WHERE worker_id = :worker_id RETURNING state, labels", worker_id=worker_id
    )
    if row is None or row[0] == "lost":
        raise Fenced(f"worker {worker_id} was declared lost")
    return None if row[0] != "active" else parsed(row[1])


def _wake_due(tx: Tx, setting: Setting) -> None:
    due = all_of(
        tx,
        f"SELECT run_id FROM runs WHERE wake_s <= :now ORDER BY wake_s LIMIT :most{setting.skip}",
        now=tx.now_s,
        most=_DUE,
    )
    if not due:
        return
    tx.many(
        "UPDATE runs SET ready = 1, queued_s = COALESCE(queued_s, wake_s), wake_s = NULL, "
        "state = CASE WHEN state = 'scheduled' THEN 'queued' ELSE state END WHERE run_id = :run_id",
        [{"run_id": row[0]} for row in due],
    )


def _choose(
    tx: Tx, setting: Setting, definitions: Definitions, labels: Mapping[str, str], slots: int
) -> tuple[list[str], bool]:
    """Return the runs to take, by priority, then age; and whether there may be more behind some that were left out.

    Gates are locked once in a transaction: in a second round their order would be another.
    """
    found = _candidates(tx, setting, definitions, labels, slots)
    foreign = {digest for _, _, digest in found if not _readable(tx, setting, definitions, digest)}
    candidates = [(run_id, is_gated) for run_id, is_gated, digest in found if digest not in foreign]
    gated = [run_id for run_id, is_gated in candidates if is_gated]
    if not gated:
        return [run_id for run_id, _ in candidates], bool(foreign)
    frozen = freezes.hold(tx, setting, definitions, gated)
    candidates = [(run_id, is_gated) for run_id, is_gated in candidates if run_id not in frozen]
    gated = [run_id for run_id in gated if run_id not in frozen]
    if not gated:
        return [run_id for run_id, _ in candidates], True
    passage = gates.Passage(tx, setting, gated)
    chosen = [run_id for run_id, is_gated in candidates if not is_gated or passage.admit(run_id)]
    passage.write()
    return chosen, len(chosen) < len(found)


def _candidates(
    tx: Tx, setting: Setting, definitions: Definitions, labels: Mapping[str, str], count: int
) -> list[tuple[str, bool, str]]:
    """Return (id, whether it has gates, definition) of the first runs that this worker could take."""
    without = ""
    values: dict[str, str] = {}
    if definitions.foreign:
        places, values = listed(sorted(definitions.foreign), "foreign")
        without = f"AND definition NOT IN ({places}) "
    found: list[Any] = []
    for placement in _fitting(tx, labels):
        found += all_of(
            tx,
            "SELECT priority, queued_s, run_id, gated, definition FROM runs WHERE ready = 1 "
            f"AND placement = :placement {without}ORDER BY priority DESC, queued_s, run_id LIMIT :count{setting.skip}",
            placement=placement,
            count=count,
            **values,
        )
    found.sort(key=lambda row: (-row[0], row[1], row[2]))
    return [(str(row[2]), bool(row[3]), str(row[4])) for row in found[:count]]


def _readable(tx: Tx, setting: Setting, definitions: Definitions, digest: str) -> bool:
    """Return whether this program can carry out runs of a definition.

    Where other workers may be able to (a newer version, in the middle of an upgrade), its runs are left to them, and
    say so; where this process is alone, they fail.
    """
    try:
        definitions.get(tx, digest)
    except PermanentError as error:
        ready = "SELECT run_id FROM runs WHERE ready = 1 AND definition = :digest ORDER BY run_id LIMIT 1000"
        for row in all_of(tx, ready + setting.skip, digest=digest):
            if setting.alone:
                held = orders.take(tx, setting, str(row[0]))
                orders.end(tx, setting, held, RunState.FAILED, str(error))
            else:
                why = f"{orders.ANOTHER_PROGRAM}; {error}"
                tx.run("UPDATE runs SET waiting_for = :why WHERE run_id = :run_id", why=why, run_id=row[0])
        if not setting.alone:
            definitions.leave(digest)
        return False
    return True


def _fitting(tx: Tx, labels: Mapping[str, str]) -> list[str]:
    """Return the placements of ready runs that a worker with these labels satisfies."""
    fitting = []
    for row in all_of(tx, _PLACEMENTS):
        wanted = parsed(row[0]) if row[0] else {}
        if all(labels.get(key) == value for key, value in wanted.items()):
            fitting.append(str(row[0]))
    return fitting


def _own(tx: Tx, worker_id: str, run_ids: Sequence[str]) -> list[Any]:
    places, values = listed(list(run_ids))
    rows = all_of(
        tx,
        "UPDATE runs SET worker = :worker, fence = fence + 1, ready = 0, stirred = 0, claimed_s = :now, "
        "state = 'running', waiting_for = '', wake_s = NULL, started_s = COALESCE(started_s, :now), "
        "deadline_s = COALESCE(deadline_s, :now + timeout_s) "
        f"WHERE run_id IN ({places}) RETURNING {RUN}, fence, cancel, paused, begun, definition, sealed",
        worker=worker_id,
        now=tx.now_s,
        **values,
    )
    by_id: dict[Any, Any] = {row[0]: row for row in rows}
    return [by_id[run_id] for run_id in run_ids]


def _steps(tx: Tx, run_ids: Sequence[str]) -> dict[str, list[StepRow]]:
    steps: dict[str, list[StepRow]] = {run_id: [] for run_id in run_ids}
    if run_ids:
        places, values = listed(list(run_ids))
        for row in all_of(
            tx,
            f"SELECT run_id, name, state, signal, body FROM steps WHERE run_id IN ({places})",
            **values,
        ):
            steps[str(row[0])].append(step_of(row[1:]))
    return steps


def secrets_of(spec: JobSpec, current: JobSpec | None) -> dict[str, str]:
    """Return the values that the configuration has now for the secrets which the definition names."""
    return {} if current is None else {name: current.secrets[name] for name in spec.secrets if name in current.secrets}
