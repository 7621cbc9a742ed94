"""Gates: what limits how many runs go on at once. Concurrency keys, locks and rate limits are all gates.

A run passes all its gates at once, when it is claimed, and holds them to its end; a rate limit counts starts instead.
A run that finds one closed is *blocked on* it: it is out of the index of what is ready, and is admitted again, the
first by priority and age, when room comes. Nobody can miss that: the row of the gate is locked by who finds it full
and by who makes room, and `sweep` looks by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.engine.book import topics
from dogwatch.engine.book.setting import Setting, all_of, first_of, listed
from dogwatch.store.database import Tx

# So many runs are told at once that the gate before them is closed.
_BOUNCED = 5000


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """window_s: of a rate limit; None for one that is held."""

    name: str
    capacity: int
    window_s: float | None = None

    @property
    def sign(self) -> str:
        """What a run says that waits at it."""
        return sign(self.name)


def sign(name: str) -> str:
    kind, _, rest = name.partition(":")
    return {"lock": f"lock {rest}", "rate": f"the rate limit of {rest}"}.get(kind, f"its turn in {rest}")


def add(tx: Tx, run_id: str, gates: Sequence[Gate]) -> None:
    tx.many(
        "INSERT INTO run_gates (gate, run_id, capacity, window_s) VALUES (:gate, :run_id, :capacity, :window_s)",
        [{"gate": gate.name, "run_id": run_id, "capacity": gate.capacity, "window_s": gate.window_s} for gate in gates],
    )


def full(tx: Tx, setting: Setting, gates: Sequence[Gate]) -> str:
    """Return the first gate that lets nobody through now, and keep it so until the transaction ends; "" for none."""
    for gate in sorted(gates, key=lambda gate: gate.name):
        closed = "used >= capacity" if gate.window_s is None else "open_s IS NOT NULL"
        if first_of(tx, f"SELECT 1 FROM gates WHERE name = :name AND {closed}{setting.share}", name=gate.name):
            tx.hurry()
            return gate.name
    return ""


class Passage:
    """The gates of some candidates in one claim. `admit` decides in memory; `write` puts it on disk."""

    def __init__(self, tx: Tx, setting: Setting, run_ids: Sequence[str]) -> None:
        self._tx, self._setting = tx, setting
        self._wanted: dict[str, list[Gate]] = {run_id: [] for run_id in run_ids}
        self._room: dict[str, int] = {}
        self._gates: dict[str, Gate] = {}
        self._passed: list[tuple[str, Gate]] = []
        self._closed: dict[str, list[str]] = {}
        self._read(run_ids)

    def _read(self, run_ids: Sequence[str]) -> None:
        places, values = listed(list(run_ids))
        rows = all_of(
            self._tx,
            "SELECT run_id, gate, capacity, window_s FROM run_gates "
            f"WHERE held = 0 AND run_id IN ({places}) ORDER BY gate",
            **values,
        )
        for run_id, name, capacity, window_s in rows:
            gate = Gate(name=name, capacity=capacity, window_s=window_s)
            self._wanted[run_id].append(gate)
            self._gates[name] = gate
        self._tx.hurry()
        for name in sorted(self._gates):
            self._room[name] = _take(self._tx, self._gates[name])

    def admit(self, run_id: str) -> bool:
        """Return whether the run passes all its gates; if not, it is blocked on the first that is closed."""
        for gate in self._wanted[run_id]:
            if self._room[gate.name] <= 0:
                self._closed.setdefault(gate.name, []).append(run_id)
                return False
        for gate in self._wanted[run_id]:
            self._room[gate.name] -= 1
            self._passed.append((run_id, gate))
        return True

    def write(self) -> None:
        tx = self._tx
        tx.many(
            "UPDATE run_gates SET held = 1 WHERE gate = :gate AND run_id = :run_id",
            [{"gate": gate.name, "run_id": run_id} for run_id, gate in self._passed],
        )
        taken: dict[str, int] = {}
        for run_id, gate in self._passed:
            if gate.window_s is None:
                taken[gate.name] = taken.get(gate.name, 0) + 1
            else:
                tx.run(
                    "INSERT INTO gate_starts (gate, time_s, run_id) VALUES (:gate, :now, :run_id)",
                    gate=gate.name,
                    now=tx.now_s,
                    run_id=run_id,
                )
        for name, count in sorted(taken.items()):
            tx.run("UPDATE gates SET used = used + :count WHERE name = :name", count=count, name=name)
        for name, run_ids in sorted(self._closed.items()):
            _bounce(tx, self._setting, name, run_ids)
        for name in sorted(self._gates):
            if self._gates[name].window_s is not None:
                _schedule(tx, self._gates[name])
        # A run that was admitted to two gates and blocked on one leaves its place at the other.
        for name in sorted(self._closed):
            others = {gate.name for run_id in self._closed[name] for gate in self._wanted[run_id]} - {name}
            for other in sorted(others):
                if self._room[other] > 0:
                    let_in(tx, self._setting, other, self._room[other])


def _take(tx: Tx, gate: Gate) -> int:
    """Lock the gate's row, made where there is none, and return its room."""
    row = first_of(
        tx,
        "INSERT INTO gates (name, capacity, window_s) VALUES (:name, :capacity, :window_s) "
        "ON CONFLICT (name) DO UPDATE SET capacity = excluded.capacity, window_s = excluded.window_s RETURNING used",
        name=gate.name,
        capacity=gate.capacity,
        window_s=gate.window_s,
    )
    if gate.window_s is not None:
        return gate.capacity - len(_starts(tx, gate.name, gate.capacity, gate.window_s))
    return gate.capacity - int(row[0] or 0) if row else 0


def _starts(tx: Tx, name: str, capacity: int, window_s: float) -> list[float]:
    """Return the newest starts within the window, newest first, at most as many as the gate lets through."""
    # A clock that was set back must not close the gate for as long as it was ahead.
    tx.run(
        "DELETE FROM gate_starts WHERE gate = :gate AND (time_s <= :since OR time_s > :until)",
        gate=name,
        since=tx.now_s - window_s,
        until=tx.now_s + window_s,
    )
    rows = all_of(
        tx,
        "SELECT time_s FROM gate_starts WHERE gate = :gate ORDER BY time_s DESC LIMIT :capacity",
        gate=name,
        capacity=capacity,
    )
    return [float(row[0] or 0.0) for row in rows]


def _schedule(tx: Tx, gate: Gate) -> None:
    """Write when a rate limit lets the next run through, while any waits at it."""
    waits = first_of(tx, "SELECT 1 FROM runs WHERE blocked_on = :gate LIMIT 1", gate=gate.name)
    open_s = None
    if waits:
        starts = _starts(tx, gate.name, gate.capacity, gate.window_s or 0.0)
        # With room left, those that were admitted take it first.
        open_s = starts[-1] + (gate.window_s or 0.0) if len(starts) >= gate.capacity else tx.now_s + 1.0
    tx.run("UPDATE gates SET open_s = :open_s WHERE name = :name", open_s=open_s, name=gate.name)


def _bounce(tx: Tx, setting: Setting, name: str, run_ids: Sequence[str]) -> None:
    """Block these runs and whoever else is ready for the same gate: each claim would only find it closed again."""
    places, values = listed(list(run_ids))
    tx.run(
        f"UPDATE runs SET ready = 0, blocked_on = :gate, waiting_for = :sign WHERE run_id IN ({places})",
        gate=name,
        sign=sign(name),
        **values,
    )
    tx.run(
        "UPDATE runs SET ready = 0, blocked_on = :gate, waiting_for = :sign WHERE run_id IN ("
        "SELECT r.run_id FROM run_gates g JOIN runs r ON r.run_id = g.run_id "
        f"WHERE g.gate = :gate AND g.held = 0 AND r.ready = 1 LIMIT :most{setting.skip_runs})",
        gate=name,
        sign=sign(name),
        most=_BOUNCED,
    )


def let_in(tx: Tx, setting: Setting, name: str, count: int) -> int:
    """Make the first `count` runs that wait at the gate ready; return how many there were."""
    if count <= 0:
        return 0
    found = all_of(
        tx,
        "SELECT run_id FROM runs WHERE blocked_on = :gate "
        f"ORDER BY priority DESC, queued_s, run_id LIMIT :count{setting.skip}",
        gate=name,
        count=count,
    )
    if found:
        places, values = listed([str(row[0]) for row in found])
        tx.run(
            f"UPDATE runs SET ready = 1, blocked_on = '', waiting_for = '' WHERE run_id IN ({places})",
            **values,
        )
        tx.notify(topics.READY)
    return len(found)


def release(tx: Tx, setting: Setting, run_id: str) -> None:
    """Give back the gates of a run that ended, and let in who waits."""
    tx.hurry()
    held = all_of(tx, "SELECT gate, held, window_s FROM run_gates WHERE run_id = :run_id ORDER BY gate", run_id=run_id)
    tx.run("DELETE FROM run_gates WHERE run_id = :run_id", run_id=run_id)
    for name, was_held, window_s in held:
        if window_s is not None:
            if not was_held:
                let_in(tx, setting, name, 1)
            continue
        row = first_of(
            tx,
            "UPDATE gates SET used = used - :count WHERE name = :name RETURNING capacity, used",
            count=int(was_held),
            name=name,
        )
        capacity, used = (int(row[0] or 0), int(row[1] or 0)) if row else (1, 0)
        if not let_in(tx, setting, name, capacity - used) and used <= 0:
            # Keys come from parameters: their gates must not stay for ever.
            tx.run("DELETE FROM gates WHERE name = :name", name=name)


def pass_on(tx: Tx, setting: Setting, run_id: str) -> None:
    """Let in others where a run that was admitted, but never passed, goes away for a while."""
    rows = all_of(tx, "SELECT gate FROM run_gates WHERE run_id = :run_id AND held = 0 ORDER BY gate", run_id=run_id)
    for row in rows:
        let_in(tx, setting, str(row[0]), 1)


def open_due(tx: Tx, setting: Setting) -> None:
    """Let in who waits at a rate limit that has room by now."""
    for row in all_of(
        tx,
        f"SELECT name, capacity, window_s FROM gates WHERE open_s <= :now ORDER BY name{setting.skip}",
        now=tx.now_s,
    ):
        _open(tx, setting, row)


def _open(tx: Tx, setting: Setting, row: Any) -> None:
    name, capacity, window_s = row
    gate = Gate(name=name, capacity=capacity, window_s=window_s)
    tx.hurry()
    let_in(tx, setting, name, capacity - len(_starts(tx, name, capacity, window_s)))
    _schedule(tx, gate)


# Gates at which runs wait though there is room, or that are gone; rate limits that say of no time when they open, or
# of one that is further away than it can be: the clock was set back.
_NEGLECTED = (
    "SELECT b.name FROM (SELECT DISTINCT blocked_on AS name FROM runs WHERE blocked_on <> '') AS b "
    "LEFT JOIN gates g ON g.name = b.name WHERE g.name IS NULL OR (g.window_s IS NULL AND g.used < g.capacity) "
    "OR (g.window_s IS NOT NULL AND (g.open_s IS NULL OR g.open_s > :now + g.window_s + 2)) ORDER BY b.name"
)


def neglected(tx: Tx) -> bool:
    return first_of(tx, _NEGLECTED + " LIMIT 1", now=tx.now_s) is not None


def sweep(tx: Tx, setting: Setting) -> None:
    """Let in who waits at a gate with room. It finds something only where a transaction was in another's way, or the
    clock was set back.
    """
    for found in all_of(tx, _NEGLECTED, now=tx.now_s):
        name = str(found[0])
        tx.hurry()
        row = first_of(
            tx, "UPDATE gates SET used = used WHERE name = :name RETURNING name, capacity, window_s, used", name=name
        )
        if row is None:
            let_in(tx, setting, name, 1)
        elif row[2] is not None:
            _open(tx, setting, row[:3])
        else:
            let_in(tx, setting, name, row[1] - row[3])


def held_by(tx: Tx, run_ids: Sequence[str]) -> Mapping[str, int]:
    """Return the gates that these runs hold together, and how many of them hold each."""
    if not run_ids:
        return {}
    places, values = listed(list(run_ids))
    # DISTINCT places: the same run may be named twice.
    rows = all_of(
        tx,
        "SELECT gate, count(*) FROM run_gates "
        f"WHERE held = 1 AND window_s IS NULL AND run_id IN ({places}) GROUP BY gate",
        **values,
    )
    return {str(name): int(count or 0) for name, count in rows}
