"""Every query on the tables of fleet runs: functions of a transaction only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.errors import Conflict, NotFound
from dogwatch.fleet.book.values import OPEN_STATES, RUNNING, WAITING, FleetRunRow, Kept, Key, Opening, RunState
from dogwatch.fleet.connection import State
from dogwatch.fleet.results import HostResult
from dogwatch.store.database import Row, Tx, pages

KEEP_S = 30 * 86400.0
MOST_RUNS = 2000
_WHAT_CHARS = 4000
_SLICE = 20
_RUN = "run_id, step, state, reason, what, targets, orders, sealed, actor, retry_of, attempt, hosts, created_s, ended_s"
_HOST = (
    "host, place, state, attempt, batch, exit_code, signal, message, hint, stdout, stderr, cut, connect_s, run_s, "
    "labels, begun_s, ended_s"
)
_KEY = "run_id = :run_id AND step = :step"


def topic(key: Key) -> str:
    """Return what is notified when something of a run changes."""
    return f"fleet {key.run_id}"


def open_run(tx: Tx, key: Key, opening: Opening, *, audited: bool) -> None:
    """Write a run and all of its hosts. audited: with an event of its own. Raises: Conflict."""
    tx.run(
        f"INSERT INTO fleet_runs ({_RUN}) VALUES (:run_id, :step, :state, '', :what, :targets, :orders, :sealed, "
        ":actor, :retry_of, 1, :hosts, :now, NULL)",
        **_named(key),
        state=RunState.RUNNING.value,
        what=clean(opening.what)[:_WHAT_CHARS],
        targets=clean(opening.targets),
        orders=to_json(opening.orders),
        sealed=opening.sealed,
        actor=to_json(opening.actor),
        retry_of=opening.retry_of,
        hosts=len(opening.hosts),
        now=tx.now_s,
    )
    tx.many(
        f"INSERT INTO fleet_results (run_id, step, {_HOST}) VALUES (:run_id, :step, :host, :place, '{WAITING}', 0, 0, "
        "NULL, '', '', '', :none, :none, 0, 0, 0, :labels, NULL, NULL)",
        [
            {**_named(key), "host": clean(host), "place": place, "labels": to_json(labels), "none": b""}
            for place, (host, labels) in enumerate(opening.hosts.items())
        ],
    )
    for place, host in enumerate(opening.hosts):
        if host in opening.done:
            end(tx, key, place, opening.done[host], attempt=0)
    if audited:
        told = {"run": str(key), "what": opening.what[:500], "targets": opening.targets, "hosts": len(opening.hosts)}
        if opening.retry_of:
            told["retry_of"] = opening.retry_of
        record(tx, opening.actor, "run", Subject(noun="fleet", name=str(key)), after=told)
    prune(tx)
    tx.notify(topic(key))


def reopen(tx: Tx, key: Key, actor: Actor, *, attempt: int | None = None, audited: bool) -> FleetRunRow:
    """Go on with a run: hosts that had no end of their own wait again. attempt: that of the step, None for the next.

    Raises: NotFound.
    """
    row = show(tx, key)
    tx.run(
        f"UPDATE fleet_runs SET state = :state, reason = '', attempt = :attempt, ended_s = NULL WHERE {_KEY}",
        **_named(key),
        state=RunState.RUNNING.value,
        attempt=row.attempt + 1 if attempt is None else attempt,
    )
    if audited:
        told = {"run": str(key), "what": row.what[:500], "left": row.hosts - _done(row)}
        record(tx, actor, "resume", Subject(noun="fleet", name=str(key)), after=told)
    tx.notify(topic(key))
    return show(tx, key)


def begin(tx: Tx, key: Key, place: int, *, attempt: int, batch: int) -> None:
    """Write that the command may begin on a host."""
    tx.send(
        f"UPDATE fleet_results SET state = '{RUNNING}', attempt = :attempt, batch = :batch, begun_s = :now, "
        f"ended_s = NULL WHERE {_KEY} AND place = :place",
        **_named(key),
        place=place,
        attempt=attempt,
        batch=batch,
        now=tx.now_s,
    )
    tx.notify(topic(key))


def end(tx: Tx, key: Key, place: int, result: HostResult, *, attempt: int) -> None:
    """Write how it ended on a host."""
    tx.send(
        "UPDATE fleet_results SET state = :state, attempt = :attempt, batch = :batch, exit_code = :exit_code, "
        "signal = :signal, message = :message, hint = :hint, stdout = :stdout, stderr = :stderr, cut = :cut, "
        f"connect_s = :connect_s, run_s = :run_s, ended_s = :now WHERE {_KEY} AND place = :place",
        **_named(key),
        place=place,
        state=result.state.value,
        attempt=attempt,
        batch=result.batch,
        exit_code=result.exit_code,
        signal=result.signal,
        message=clean(result.message),
        hint=clean(result.hint),
        stdout=result.stdout,
        stderr=result.stderr,
        cut=result.cut,
        connect_s=result.connect_s,
        run_s=result.run_s,
        now=tx.now_s,
    )
    tx.notify(topic(key))


def close(tx: Tx, key: Key, state: RunState, reason: str, actor: Actor, *, audited: bool) -> None:
    """Write how the whole ended."""
    tx.run(
        f"UPDATE fleet_runs SET state = :state, reason = :reason, ended_s = :now WHERE {_KEY}",
        **_named(key),
        state=state.value,
        reason=clean(reason),
        now=tx.now_s,
    )
    if audited:
        counts = _counts(tx, key)
        outcome = "done" if state is RunState.SUCCEEDED else "failed"
        after = {"run": str(key), "state": state.value, **counts}
        record(tx, actor, "end", Subject(noun="fleet", name=str(key)), outcome=outcome, reason=reason, after=after)
    tx.notify(topic(key))


def find(tx: Tx, *, limit: int, cursor: str = "", run_id: str = "") -> tuple[Sequence[FleetRunRow], str]:
    """Return runs, the newest first, and the cursor of what follows. run_id: only the steps of this run."""
    before = cursor.partition("/")
    rows = tx.rows(
        f"SELECT {_RUN} FROM fleet_runs WHERE (:run_id = '' OR run_id = :run_id) AND "
        "(:cursor = '' OR run_id < :cursor OR (run_id = :cursor AND step > :step)) "
        "ORDER BY run_id DESC, step LIMIT :limit",
        run_id=run_id,
        cursor=before[0],
        step=before[2],
        limit=limit + 1,
    )
    some, more = pages(rows, limit)
    found = [_run_of(row, _counts(tx, Key(str(row[0]), str(row[1])))) for row in some]
    return found, f"{found[-1].key.run_id}/{found[-1].key.step}" if more else ""


def resolve(tx: Tx, given: str) -> Key:
    """Return the run that `RUN`, `RUN/STEP` or a beginning of the id names. Raises: NotFound, Conflict."""
    run_id, _, step = given.partition("/")
    if not run_id or not run_id.isalnum():
        raise NotFound(f"'{given[:60]}' is not the id of a fleet run", hint="`dogwatch fleet runs` lists them")
    rows = tx.rows(
        "SELECT run_id, step FROM fleet_runs WHERE run_id >= :low AND run_id < :high AND (:step = '' OR step = :step) "
        "ORDER BY run_id, step LIMIT 20",
        low=run_id,
        high=f"{run_id}{{",
        step=step,
    )
    if not rows:
        raise NotFound(f"there is no fleet run '{given[:60]}'", hint="`dogwatch fleet runs` lists them")
    if len(rows) > 1:
        names = ", ".join(str(Key(str(one[0]), str(one[1]))) for one in rows[:5])
        raise Conflict(f"'{given[:60]}' may be several: {names}", hint="write more of it")
    return Key(str(rows[0][0]), str(rows[0][1]))


def show(tx: Tx, key: Key) -> FleetRunRow:
    """Raises: NotFound."""
    row = tx.one(f"SELECT {_RUN} FROM fleet_runs WHERE {_KEY}", **_named(key))
    if row is None:
        raise NotFound(f"there is no fleet run '{key}'", hint="`dogwatch fleet runs` lists them")
    return _run_of(row, _counts(tx, key))


def exists(tx: Tx, key: Key) -> bool:
    return tx.one(f"SELECT 1 FROM fleet_runs WHERE {_KEY}", **_named(key)) is not None


def hosts(tx: Tx, key: Key, *, after: int = -1, limit: int = 1_000_000) -> list[Kept]:
    """Return hosts of a run in its order. after: only those behind this place."""
    rows = tx.rows(
        f"SELECT {_HOST} FROM fleet_results WHERE {_KEY} AND place > :after ORDER BY place LIMIT :limit",
        **_named(key),
        after=after,
        limit=limit,
    )
    return [_kept_of(row) for row in rows]


def states(tx: Tx, key: Key) -> list[tuple[str, str, Mapping[str, str]]]:
    """Return each host of a run with its state and labels, in its order: what they said may be megabytes."""
    rows = tx.rows(f"SELECT host, state, labels FROM fleet_results WHERE {_KEY} ORDER BY place", **_named(key))
    return [(str(host), str(state), msgspec.json.decode(str(text))) for host, state, text in rows]


def labels(tx: Tx, keys: Sequence[Key]) -> dict[Key, list[Mapping[str, str]]]:
    """Return which labels the hosts of these runs carry, each set once."""
    found: dict[Key, list[Mapping[str, str]]] = {key: [] for key in keys}
    if found:
        named = {f"p{at}": run_id for at, run_id in enumerate(dict.fromkeys(key.run_id for key in keys))}
        places = ", ".join(f":{name}" for name in named)
        query = f"SELECT DISTINCT run_id, step, labels FROM fleet_results WHERE run_id IN ({places})"
        for run_id, step, text in tx.rows(query, **named):
            if (seen := found.get(Key(run_id=str(run_id), step=str(step)))) is not None:
                seen.append(msgspec.json.decode(str(text)))
    return found


def last_seen(tx: Tx, names: Sequence[str]) -> dict[str, tuple[float, str, str]]:
    """Return when each host last ended something, how, and in which run."""
    found: dict[str, tuple[float, str, str]] = {}
    for name in names:
        row = tx.one(
            "SELECT ended_s, state, run_id FROM fleet_results WHERE host = :host AND ended_s IS NOT NULL "
            "ORDER BY ended_s DESC LIMIT 1",
            host=clean(name),
        )
        if row is not None:
            found[name] = (float(row[0] or 0.0), str(row[1]), str(row[2]))
    return found


def prune(tx: Tx, *, keep_s: float = KEEP_S, most: int = MOST_RUNS) -> int:
    """Delete some of what is old or too much; return how many runs. Those that are carried out stay."""
    rows = tx.rows(
        "SELECT run_id, step FROM fleet_runs WHERE ended_s IS NOT NULL AND (ended_s < :old OR created_s < "
        "COALESCE((SELECT created_s FROM fleet_runs ORDER BY created_s DESC LIMIT 1 OFFSET :most), 0)) LIMIT :slice",
        old=tx.now_s - keep_s,
        most=most,
        slice=_SLICE,
    )
    for row in rows:
        for table in ("fleet_results", "fleet_runs"):
            tx.run(f"DELETE FROM {table} WHERE {_KEY}", run_id=row[0], step=row[1])
    return len(rows)


def _counts(tx: Tx, key: Key) -> dict[str, int]:
    rows = tx.rows(f"SELECT state, count(*) FROM fleet_results WHERE {_KEY} GROUP BY state", **_named(key))
    found = {str(row[0]): int(row[1] or 0) for row in rows}
    order = [*(state.value for state in State), RUNNING, WAITING]
    return {state: found[state] for state in order if state in found}


def _done(row: FleetRunRow) -> int:
    return sum(count for state, count in row.counts.items() if state not in (WAITING, RUNNING, *OPEN_STATES))


def _run_of(row: Row, counts: Mapping[str, int]) -> FleetRunRow:
    (
        run_id,
        step,
        state,
        reason,
        what,
        targets,
        orders,
        sealed,
        actor,
        retry_of,
        attempt,
        many,
        created,
        ended,
    ) = row
    return FleetRunRow(
        key=Key(str(run_id), str(step)),
        state=RunState(str(state)),
        reason=str(reason),
        what=str(what),
        targets=str(targets),
        orders=msgspec.json.decode(str(orders)),
        sealed=None if sealed is None else bytes(sealed),  # type: ignore[arg-type]
        actor=msgspec.json.decode(str(actor), type=Actor),
        retry_of=str(retry_of),
        attempt=int(attempt or 0),
        hosts=int(many or 0),
        created_s=float(created or 0.0),
        ended_s=None if ended is None else float(ended),
        counts=counts,
    )


def _kept_of(row: Row) -> Kept:
    state = str(row[2])
    result = None
    if state not in (WAITING, RUNNING):
        result = HostResult(
            host=str(row[0]),
            state=State(state),
            batch=int(row[4] or 0),
            exit_code=None if row[5] is None else int(row[5]),
            signal=str(row[6]),
            message=str(row[7]),
            hint=str(row[8]),
            stdout=bytes(row[9] or b""),  # type: ignore[arg-type]
            stderr=bytes(row[10] or b""),  # type: ignore[arg-type]
            cut=int(row[11] or 0),
            connect_s=float(row[12] or 0.0),
            run_s=float(row[13] or 0.0),
        )
    return Kept(
        host=str(row[0]),
        place=int(row[1] or 0),
        state=state,
        attempt=int(row[3] or 0),
        batch=int(row[4] or 0),
        labels=msgspec.json.decode(str(row[14])),
        result=result,
        begun_s=None if row[15] is None else float(row[15]),
        ended_s=None if row[16] is None else float(row[16]),
    )


def _named(key: Key) -> dict[str, str]:
    return {"run_id": key.run_id, "step": key.step}


def to_json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_proper(msgspec.to_builtins(value))).decode()


def _proper(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _proper(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_proper(item) for item in value]
    return value


def clean(text: str) -> str:
    """Return text that both databases hold."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
