"""Runs as people look for them: by id or its beginning, by filters, page after page."""

from __future__ import annotations

from typing import Any

import msgspec

from dogwatch.engine.book.ids import LENGTH, span_of
from dogwatch.engine.book.rows import RUN, run_of, step_of, text
from dogwatch.engine.book.setting import all_of, first_of, listed
from dogwatch.engine.ledger import StepRow
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Page, Run, RunFilter, StepRun, StepState
from dogwatch.errors import Conflict, NotFound, UsageError
from dogwatch.store.database import Row, Tx, Value, counted_rows, pages

MOST_LISTED = 1000


def resolve(tx: Tx, given: str) -> str:
    """Return the id that begins so.

    Raises: NotFound; Conflict where several do.
    """
    prefix = given.strip().lower()
    if len(prefix) == LENGTH:
        return prefix
    span = span_of(prefix)
    rows = [] if span is None else all_of(
        tx, "SELECT run_id FROM runs WHERE created_s >= :since AND created_s <= :until "
        "AND run_id LIKE :pattern LIMIT 2",
        since=span[0],
        until=span[1],
        pattern=prefix + "%",
    )  # fmt: skip
    if not rows:
        raise NotFound(f"no run {given}")
    if len(rows) > 1:
        raise Conflict(f"several runs begin with {given}", hint="give more of the id")
    return str(rows[0][0])


def show(tx: Tx, given: str) -> Run:
    run_id = resolve(tx, given)
    row = first_of(tx, f"SELECT {RUN} FROM runs WHERE run_id = :run_id", run_id=run_id)
    if row is None:
        raise NotFound(f"no run {given}")
    return run_of(row)


def find(tx: Tx, wanted: RunFilter) -> Page[Run]:
    """Newest first. The cursor is the last one seen, so that runs which begin meanwhile move nothing.

    Raises: UsageError for a cursor that is none.
    """
    limit = max(1, min(wanted.limit, MOST_LISTED))
    where, values = _conditions(wanted)
    rows = all_of(
        tx,
        f"SELECT {RUN} FROM runs {where} ORDER BY created_s DESC, run_id DESC LIMIT :limit",
        **values,
        limit=limit + 1,
    )
    shown, more = pages(rows, limit)
    items = [run_of(row) for row in shown]
    total = None
    if wanted.count:
        where, values = _conditions(msgspec.structs.replace(wanted, cursor=""))
        total = counted_rows(tx, "runs", where.removeprefix("WHERE ") or "1 = 1", **values)
    return Page(items=items, cursor=f"{items[-1].created_s!r}/{items[-1].run_id}" if more else "", total=total)


def _conditions(wanted: RunFilter) -> tuple[str, dict[str, Value]]:
    parts: list[str] = []
    values: dict[str, Value] = {}
    for column, value in (("job", wanted.job), ("trigger_kind", wanted.trigger)):
        if value:
            parts.append(f"{column} = :{column}")
            values[column] = value
    if wanted.parent:
        parts.append("parent = :parent AND parent IS NOT NULL")
        values["parent"] = wanted.parent
    if wanted.states:
        places, named = listed([state.value for state in wanted.states], "state")
        parts.append(f"state IN ({places})")
        values |= named
        if not any(state.ended for state in wanted.states):
            parts.append("ended_s IS NULL")
    if wanted.since_s is not None:
        parts.append("created_s >= :since_s")
        values["since_s"] = wanted.since_s
    for number, (key, value) in enumerate(sorted(wanted.labels.items())):
        # `"team":"shop"` within the JSON; what would have to be escaped for LIKE needs not for replace.
        parts.append(f"replace(labels, :label{number}, '') <> labels")
        values[f"label{number}"] = text({key: value})[1:-1]
    if wanted.cursor:
        created_s, run_id = _cursor(wanted.cursor)
        parts.append("(created_s < :at_s OR (created_s = :at_s AND run_id < :at))")
        parts.append("created_s <= :at_s")
        values |= {"at_s": created_s, "at": run_id}
    return ("WHERE " + " AND ".join(parts) if parts else ""), values


def _cursor(cursor: str) -> tuple[float, str]:
    created, _, run_id = cursor.partition("/")
    try:
        return float(created), run_id
    except ValueError as error:
        raise UsageError("the cursor is not one of a page of runs") from error


def step_rows(tx: Tx, run_id: str) -> tuple[Row, list[StepRow]]:
    """Return (state, definition) of a run, and its steps as they are on disk."""
    row = first_of(tx, "SELECT state, definition FROM runs WHERE run_id = :run_id", run_id=run_id)
    if row is None:
        raise NotFound(f"no run {run_id}")
    steps = all_of(tx, "SELECT name, state, signal, body FROM steps WHERE run_id = :run_id", run_id=run_id)
    return row, [step_of(one) for one in steps]


def in_order(run_id: str, spec: JobSpec | None, rows: list[StepRow]) -> list[StepRun]:
    """Return the steps as the job writes them, the items of a map after it; those that have no row yet are pending."""
    written = [] if spec is None else spec.steps
    place = {step.name: number for number, step in enumerate(written)}
    needs: dict[str, list[str]] = {}
    for number, step in enumerate(written):
        needs[step.name] = step.needs if step.needs is not None else [written[number - 1].name] if number else []
    known = {row.name for row in rows}
    pending = [StepRow(name=step.name, kind=step.action.kind) for step in written if step.name not in known]

    def key(row: StepRow) -> Any:
        return (place.get(row.of or row.name, len(place)), bool(row.of), row.index, row.name)

    return [_shown(run_id, row, needs.get(row.of or row.name, [])) for row in sorted([*rows, *pending], key=key)]


def _shown(run_id: str, row: StepRow, needs: list[str]) -> StepRun:
    return StepRun(
        run_id=run_id,
        name=row.name,
        kind=row.kind,
        state=row.state,
        needs=needs,
        attempt=row.attempt,
        reason=row.reason,
        started_s=row.started_s,
        ended_s=row.ended_s,
        wake_s=row.wake_s if row.state is StepState.WAITING else None,
        outputs=row.outputs,
    )


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs there are. live: (job, state) → runs that have not ended. oldest_s: when the longest wait began."""

    live: dict[tuple[str, str], int]
    parked: int
    blocked: int
    oldest_s: float | None
    workers: list[tuple[str, int, int]]
    now_s: float


def counts(tx: Tx) -> Counts:
    live = {
        (str(job), str(state)): int(count or 0)
        for job, state, count in all_of(
            tx, "SELECT job, state, count(*) FROM runs WHERE ended_s IS NULL GROUP BY job, state"
        )
    }
    parked = first_of(
        tx, "SELECT count(*) FROM runs WHERE ended_s IS NULL AND state IN ('running', 'paused') AND worker = ''"
    )
    blocked = first_of(tx, "SELECT count(*) FROM runs WHERE blocked_on <> ''")
    oldest = first_of(tx, "SELECT min(queued_s) FROM runs WHERE ended_s IS NULL AND state = 'queued'")
    workers = all_of(
        tx,
        "SELECT w.state, w.slots, (SELECT count(*) FROM runs r WHERE r.worker = w.worker_id AND r.worker <> '') "
        "FROM workers w",
    )
    return Counts(
        live=live,
        parked=parked[0],
        blocked=blocked[0],
        oldest_s=oldest[0],
        workers=[(str(state), int(slots or 0), int(busy or 0)) for state, slots, busy in workers],
        now_s=tx.now_s,
    )
