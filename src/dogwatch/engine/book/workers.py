"""Workers: who is there, who is lost, and what becomes of the runs of those who are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.engine.book import gates, topics
from dogwatch.engine.book.advance import signals_of
from dogwatch.engine.book.rows import clean, order_of, parsed, step_of, step_values, text
from dogwatch.engine.book.setting import Setting, all_of, first_of
from dogwatch.engine.ledger import Beat, Fenced, Order, WorkerIdentity
from dogwatch.engine.values import StepState, Worker
from dogwatch.errors import Conflict, NotFound
from dogwatch.store.database import Tx

_WORKER = "worker_id, host, pid, state, labels, slots, started_s, heartbeat_s, version"
# Runs are taken from a lost worker in portions; the next look takes the next.
_PORTION = 500


def register(tx: Tx, setting: Setting, worker: WorkerIdentity, opening: str) -> None:
    """opening: of a database that this process has alone: whoever registered in an earlier one is gone."""
    if opening:
        for row in all_of(tx, "SELECT worker_id FROM workers WHERE opening <> :opening", opening=opening):
            tx.run("UPDATE workers SET state = 'lost' WHERE worker_id = :worker_id", worker_id=row[0])
            _take_back(tx, setting, str(row[0]))
    tx.run(
        "INSERT INTO workers (worker_id, host, boot_id, pid, labels, slots, ttl_s, version, state, opening, started_s, "
        "heartbeat_s) VALUES (:worker_id, :host, :boot_id, :pid, :labels, :slots, :ttl_s, :version, 'active', "
        ":opening, :now, :now) ON CONFLICT (worker_id) DO UPDATE SET labels = excluded.labels, slots = excluded.slots, "
        "ttl_s = excluded.ttl_s, version = excluded.version, state = 'active', opening = excluded.opening, "
        "beats = workers.beats + 1, heartbeat_s = excluded.heartbeat_s",
        worker_id=worker.worker_id,
        host=clean(worker.host),
        boot_id=clean(worker.boot_id),
        pid=worker.pid,
        labels=text(worker.labels),
        slots=worker.slots,
        ttl_s=worker.ttl_s,
        version=clean(worker.version),
        opening=opening,
        now=tx.now_s,
    )
    # It starts with nothing: what it may have had before it was declared lost is not its own any more.
    _take_back(tx, setting, worker.worker_id)


def heartbeat(tx: Tx, setting: Setting, worker_id: str, held: Mapping[str, int]) -> Beat:
    """Raises: Fenced."""
    row = first_of(
        tx,
        "UPDATE workers SET heartbeat_s = :now, beats = beats + 1 WHERE worker_id = :worker_id AND state <> 'lost' "
        "RETURNING state, ttl_s",
        now=tx.now_s,
        worker_id=worker_id,
    )
    if row is None:
        raise Fenced(f"worker {worker_id} was declared lost")
    state, ttl_s = row
    owned: dict[str, Any] = {}
    for run_id, *rest in all_of(
        tx,
        "SELECT run_id, fence, cancel, paused, stirred, claimed_s FROM runs WHERE worker = :worker_id",
        worker_id=worker_id,
    ):
        owned[str(run_id)] = rest
    missing = []
    for run_id, (_, _, _, _, claimed_s) in owned.items():
        # A claim's answer may still be on its way.
        if run_id not in held and abs(tx.now_s - claimed_s) > ttl_s / 2:
            missing.append(run_id)
    for run_id in missing:
        _give_back(tx, setting, run_id, worker_id)
    return Beat(
        orders=_orders(tx, {run_id: owned[run_id] for run_id in held if run_id in owned}),
        lost=[run_id for run_id, fence in held.items() if run_id not in owned or owned[run_id][0] != fence],
        missing=missing,
        draining=state == "draining",
        now_s=tx.now_s,
    )


def _orders(tx: Tx, owned: Mapping[str, Any]) -> dict[str, Order]:
    stirred = [run_id for run_id, values in owned.items() if values[3]]
    signals = signals_of(tx, stirred)
    out = {}
    for run_id, (_, cancel, paused, _, _) in owned.items():
        if cancel or paused or run_id in signals or run_id in stirred:
            out[run_id] = order_of(cancel, paused, dict(signals.get(run_id, {})))
    return out


def leave(tx: Tx, setting: Setting, worker_id: str) -> None:
    _take_back(tx, setting, worker_id, wait=True)
    tx.run("DELETE FROM workers WHERE worker_id = :worker_id", worker_id=worker_id)


def observe(tx: Tx) -> list[tuple[str, int, float, str]]:
    """Return (id, beats, ttl_s, opening) of the workers that count as alive."""
    rows = all_of(tx, "SELECT worker_id, beats, ttl_s, opening FROM workers WHERE state <> 'lost'")
    return [(str(row[0]), int(row[1] or 0), float(row[2] or 0.0), str(row[3])) for row in rows]


def unowned(tx: Tx) -> bool:
    """Return whether runs belong to workers that are lost or forgotten, or wait at a gate with room."""
    row = first_of(
        tx,
        "SELECT 1 FROM runs r WHERE r.worker <> '' AND NOT EXISTS (SELECT 1 FROM workers w "
        "WHERE w.worker_id = r.worker AND w.state <> 'lost') LIMIT 1",
    )
    return row is not None or gates.neglected(tx)


def reap(tx: Tx, setting: Setting, silent: Mapping[str, int]) -> int:
    """Declare workers lost that made no heartbeat since, and take the runs of all who are lost; return how many.

    silent: worker id → the count of heartbeats that it had.
    """
    for worker_id, beats in sorted(silent.items()):
        tx.run(
            "UPDATE workers SET state = 'lost' WHERE worker_id = :worker_id AND beats = :beats",
            worker_id=worker_id,
            beats=beats,
        )
    lost = all_of(
        tx,
        "SELECT DISTINCT r.worker FROM runs r WHERE r.worker <> '' AND NOT EXISTS (SELECT 1 FROM workers w "
        "WHERE w.worker_id = r.worker AND w.state <> 'lost') ORDER BY r.worker",
    )
    taken = sum(_take_back(tx, setting, str(row[0])) for row in lost)
    gates.sweep(tx, setting)
    return taken


def _take_back(tx: Tx, setting: Setting, worker_id: str, *, wait: bool = False) -> int:
    limit = "" if wait else f" LIMIT {_PORTION}"
    rows = all_of(
        tx,
        f"SELECT run_id FROM runs WHERE worker = :worker_id ORDER BY run_id{limit}"
        + (setting.take if wait else setting.skip),
        worker_id=worker_id,
    )
    for row in rows:
        _give_back(tx, setting, str(row[0]), worker_id)
    return len(rows)


def _give_back(tx: Tx, setting: Setting, run_id: str, worker_id: str) -> None:  # noqa: ARG001
    """Make a run nobody's, and ready; what ran of it was cut."""
    taken = tx.run(
        "UPDATE runs SET worker = '', fence = fence + 1, ready = CASE WHEN paused = 1 AND cancel = '' THEN 0 ELSE 1 "
        "END, wake_s = NULL WHERE run_id = :run_id AND worker = :worker_id",
        run_id=run_id,
        worker_id=worker_id,
    )
    if not taken:
        return
    running = all_of(
        tx,
        "SELECT name, state, signal, body FROM steps WHERE run_id = :run_id AND state = :running",
        run_id=run_id,
        running=StepState.RUNNING.value,
    )
    cut = [step_values(run_id, msgspec.structs.replace(step_of(row), cut=True)) for row in running]
    tx.many(
        "UPDATE steps SET body = :body WHERE run_id = :run_id AND name = :name",
        [{key: values[key] for key in ("run_id", "name", "body")} for values in cut],
    )
    tx.notify(topics.READY)


def listing(tx: Tx) -> list[Worker]:
    busy = {
        str(worker): int(count or 0)
        for worker, count in all_of(tx, "SELECT worker, count(*) FROM runs WHERE worker <> '' GROUP BY worker")
    }
    rows = all_of(tx, f"SELECT {_WORKER} FROM workers ORDER BY started_s, worker_id")
    return [_worker(row, busy.get(str(row[0]), 0)) for row in rows]


def _worker(row: Sequence[Any], busy: int) -> Worker:
    worker_id, host, pid, state, labels, slots, started_s, heartbeat_s, version = row
    return Worker(
        worker_id=worker_id,
        host=host,
        pid=pid,
        state=state,
        labels=parsed(labels),
        slots=slots,
        busy=busy,
        started_s=started_s,
        heartbeat_s=heartbeat_s,
        version=version,
    )


def drain(tx: Tx, worker_id: str, actor: Actor, *, on: bool) -> Worker:
    """Raises: NotFound, Conflict for one that is lost."""
    verb = "drain" if on else "resume"
    row = first_of(tx, f"SELECT {_WORKER} FROM workers WHERE worker_id = :worker_id", worker_id=worker_id)
    if row is None:
        raise NotFound(f"no worker {worker_id}")
    if row[3] == "lost":
        raise Conflict(f"cannot {verb} worker {worker_id}: it is lost")
    tx.run(
        "UPDATE workers SET state = :state WHERE worker_id = :worker_id AND state <> 'lost'",
        state="draining" if on else "active",
        worker_id=worker_id,
    )
    record(tx, actor, verb, Subject(noun="worker", name=worker_id, labels=parsed(row[4])), before={"state": row[3]})
    tx.notify(topics.of_worker(worker_id))
    return next(worker for worker in listing(tx) if worker.worker_id == worker_id)
