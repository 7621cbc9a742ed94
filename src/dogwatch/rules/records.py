"""Incidents in the state database: plain functions of a transaction.

A step of the decider is written as a whole: what it remembers, the timeline, the audit event of each order, and the
outbox's rows of its notices. Its version is compared, so that of two writers one notices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from dogwatch.access import audit
from dogwatch.access.actor import Actor, Subject
from dogwatch.engine.values import Page
from dogwatch.errors import Conflict, NotFound
from dogwatch.notify.message import Message
from dogwatch.rules.decider import Held
from dogwatch.rules.incident import Decisions, Incident, Note, Notice, Silence, State, Tracked, Waiting
from dogwatch.rules.notices import message_of
from dogwatch.rules.remedy.values import Life, Memory, Use
from dogwatch.rules.watcher import Key
from dogwatch.store.database import Tx, counted_rows, pages

TOPIC = "incidents"
_BATCH = 1000
Enqueue = Callable[[Tx, Message], object]


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    last: int = 0
    clock_s: float = 0.0
    wall_s: float = 0.0
    sent: dict[str, tuple[float, ...]] = {}
    queue: dict[str, tuple[Waiting, ...]] = {}
    uses: dict[str, tuple[Use, ...]] = {}
    lives: dict[str, Life] = {}


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What was remembered. version: to be given back with the next write."""

    state: State
    held: Mapping[Key, Held]
    version: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A step to write down. before, after: of the decider's state and of the rules' conditions."""

    before: State
    after: State
    held_before: Mapping[Key, Held]
    held_after: Mapping[Key, Held]
    decisions: Decisions
    version: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """An order that was carried out, for the audit trail."""

    actor: Actor
    verb: str
    name: str
    reason: str = ""
    labels: Mapping[str, str] = {}


def load(tx: Tx) -> Kept:
    """Return what the deciders remember; what they begin with where there is nothing."""
    row = tx.one("SELECT version, body FROM incident_memory WHERE id = 1")
    memory = msgspec.json.decode(str(row[1]), type=_Memory) if row else _Memory()
    alerts = {
        (str(rule), str(target)): msgspec.json.decode(str(body), type=Tracked)
        for rule, target, body in tx.rows("SELECT rule, target, body FROM incident_alerts ORDER BY rule, target")
    }
    held = {
        (str(rule), str(target)): msgspec.json.decode(str(body), type=Held)
        for rule, target, body in tx.rows("SELECT rule, target, body FROM incident_conditions ORDER BY rule, target")
    }
    opened = tx.rows("SELECT body FROM incidents WHERE ended_s IS NULL ORDER BY number")
    incidents = [msgspec.json.decode(str(body), type=Incident) for (body,) in opened]
    silences = [
        msgspec.json.decode(str(body), type=Silence)
        for (body,) in tx.rows("SELECT body FROM incident_silences ORDER BY silence_id")
    ]
    state = State(
        last=memory.last,
        clock_s=memory.clock_s,
        wall_s=memory.wall_s,
        alerts=alerts,
        incidents={one.number: one for one in incidents},
        silences={one.silence_id: one for one in silences},
        sent=memory.sent,
        queue=memory.queue,
        remedy=Memory(uses=memory.uses, lives=memory.lives),
    )
    return Kept(state=state, held=held, version=int(row[0] or 0) if row else 0)


def save(
    tx: Tx,
    change: Change,
    done: Sequence[Done],
    enqueue: Enqueue,
    more: Callable[[Tx], None] | None = None,
    hint: Callable[[Tx, Notice, Message], Message] | None = None,
) -> int:
    """Write a step down, and return the new version. more: what else belongs to it. hint: adds to a message what
    follows from that.

    Raises: Conflict where somebody else wrote meanwhile.
    """
    tx.lock("incidents")
    row = tx.one("SELECT version FROM incident_memory WHERE id = 1")
    if (int(row[0] or 0) if row else 0) != change.version:
        raise Conflict("another process drives the incidents of this database")
    after = change.after
    memory = _Memory(
        last=after.last,
        clock_s=after.clock_s,
        wall_s=after.wall_s,
        sent=dict(after.sent),
        queue=dict(after.queue),
        uses=dict(after.remedy.uses),
        lives=dict(after.remedy.lives),
    )
    version = change.version + 1
    tx.run(
        "INSERT INTO incident_memory (id, version, body) VALUES (1, :version, :body)"
        " ON CONFLICT (id) DO UPDATE SET version = excluded.version, body = excluded.body",
        version=version,
        body=_json(memory),
    )
    _rows(tx, "incident_alerts", change.before.alerts, after.alerts)
    _rows(tx, "incident_conditions", change.held_before, change.held_after)
    _silences(tx, change.before, after)
    _incidents(tx, change)
    _timeline(tx, change.decisions.notes)
    for one in done:
        audit.record(
            tx, one.actor, one.verb, Subject(noun="incident", name=one.name, labels=one.labels), reason=one.reason
        )
    open_now = {**change.before.incidents, **after.incidents, **{one.number: one for one in change.decisions.ended}}
    if more is not None:
        more(tx)
    for notice in change.decisions.notices:
        message = message_of(notice, open_now)
        enqueue(tx, message if hint is None else hint(tx, notice, message))
    tx.notify(TOPIC)
    return version


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _rows(tx: Tx, table: str, before: Mapping[Key, object], after: Mapping[Key, object]) -> None:
    """Write the rows that are not what they were. Values are replaced, never changed: identity tells."""
    gone = [{"rule": key[0], "target": key[1]} for key in before if key not in after]
    if gone:
        tx.many(f"DELETE FROM {table} WHERE rule = :rule AND target = :target", gone)  # noqa: S608
    new = [
        {"rule": key[0], "target": key[1], "body": _json(value)}
        for key, value in after.items()
        if before.get(key) is not value
    ]
    if new:
        tx.many(
            f"INSERT INTO {table} (rule, target, body) VALUES (:rule, :target, :body)"  # noqa: S608
            " ON CONFLICT (rule, target) DO UPDATE SET body = excluded.body",
            new,
        )


def _silences(tx: Tx, before: State, after: State) -> None:
    for name in before.silences:
        if name not in after.silences:
            tx.send("DELETE FROM incident_silences WHERE silence_id = :name", name=name)
    for name, silence in after.silences.items():
        if before.silences.get(name) is not silence:
            tx.send(
                "INSERT INTO incident_silences (silence_id, until_s, body) VALUES (:name, :until_s, :body)"
                " ON CONFLICT (silence_id) DO UPDATE SET until_s = excluded.until_s, body = excluded.body",
                name=name,
                until_s=silence.until_s,
                body=_json(silence),
            )


def _incidents(tx: Tx, change: Change) -> None:
    changed = [one for number, one in change.after.incidents.items() if change.before.incidents.get(number) is not one]
    rows = [
        {
            "number": one.number,
            "state": one.state,
            "root": one.root,
            "rule": one.rule,
            "severity": one.severity,
            "opened_s": one.opened_s,
            "ended_s": one.ended_s,
            "body": _json(one),
        }
        for one in (*changed, *change.decisions.ended)
    ]
    if rows:
        tx.many(
            "INSERT INTO incidents (number, state, root, rule, severity, opened_s, ended_s, body)"
            " VALUES (:number, :state, :root, :rule, :severity, :opened_s, :ended_s, :body)"
            " ON CONFLICT (number) DO UPDATE SET state = excluded.state, severity = excluded.severity,"
            " ended_s = excluded.ended_s, body = excluded.body",
            rows,
        )


def _timeline(tx: Tx, notes: Sequence[Note]) -> None:
    entries: dict[int, int] = {}
    rows = []
    for note in notes:
        if note.number not in entries:
            row = tx.one("SELECT MAX(entry) FROM incident_events WHERE number = :number", number=note.number)
            entries[note.number] = int(row[0] or 0) if row else 0
        entries[note.number] += 1
        rows.append({**msgspec.structs.asdict(note), "entry": entries[note.number]})
    if rows:
        tx.many(
            "INSERT INTO incident_events (number, entry, time_s, kind, actor, text, rule, target)"
            " VALUES (:number, :entry, :time_s, :kind, :actor, :text, :rule, :target)",
            rows,
        )


def find(tx: Tx, *, state: str = "", limit: int = 50, before: int | None = None, count: bool = False) -> Page[Incident]:
    """Return incidents, the newest first. state: active (not over), open, acknowledged, resolved, merged, or "".

    count: say how many there are on all pages.
    """
    # One condition each: a planner uses no index for all of them at once.
    where = {"": "1 = 1", "active": "state IN ('open', 'acknowledged')"}.get(state, "state = :state")
    rows = tx.rows(
        f"SELECT body, number FROM incidents WHERE {where} AND number < :before ORDER BY number DESC LIMIT :limit",  # noqa: S608
        state=state,
        before=before if before is not None else 2**62,
        limit=limit + 1,
    )
    shown, more = pages(rows, limit)
    items = [msgspec.json.decode(str(body), type=Incident) for body, _number in shown]
    total = counted_rows(tx, "incidents", where, state=state) if count else None
    return Page(items=items, cursor=str(shown[-1][1]) if more else "", total=total)


def show(tx: Tx, number: int) -> Incident:
    """Raises: NotFound."""
    row = tx.one("SELECT body FROM incidents WHERE number = :number", number=number)
    if row is None:
        raise NotFound(f"no incident #{number}", hint="see dogwatch incident list --all")
    return msgspec.json.decode(str(row[0]), type=Incident)


def timeline(tx: Tx, number: int, *, limit: int = 1000) -> list[Note]:
    """Return what happened to an incident, the oldest first."""
    rows = tx.rows(
        "SELECT number, time_s, kind, actor, text, rule, target FROM incident_events WHERE number = :number"
        " ORDER BY entry LIMIT :limit",
        number=number,
        limit=limit,
    )
    return [
        Note(
            number=int(row[0] or 0),
            time_s=float(row[1] or 0.0),
            kind=str(row[2]),
            actor=str(row[3]),
            text=str(row[4]),
            rule=str(row[5]),
            target=str(row[6]),
        )
        for row in rows
    ]


def purge(tx: Tx, before_s: float) -> int:
    """Forget incidents that ended before a time, some at once; return how many."""
    old = tx.rows(
        "SELECT number FROM incidents WHERE ended_s < :before_s ORDER BY ended_s LIMIT :batch",
        before_s=before_s,
        batch=_BATCH,
    )
    numbers = [{"number": number} for (number,) in old]
    if numbers:
        tx.many("DELETE FROM incident_events WHERE number = :number", numbers)
        tx.many("DELETE FROM incidents WHERE number = :number", numbers)
    return len(numbers)
