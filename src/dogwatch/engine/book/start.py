"""A run begins to exist: its row, its gates, its audit event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.engine.book import gates, topics
from dogwatch.engine.book.definitions import Definitions
from dogwatch.engine.book.gates import Gate
from dogwatch.engine.book.ids import Mint
from dogwatch.engine.book.meters import Meters
from dogwatch.engine.book.orders import cancel_one
from dogwatch.engine.book.rows import RUN, clean, run_of, text
from dogwatch.engine.book.setting import AUDIT, Setting, all_of, first_of
from dogwatch.engine.spec import JobSpec, deploys
from dogwatch.engine.values import Json, Run, RunState, Started, Trigger
from dogwatch.errors import Conflict
from dogwatch.store.database import Tx

# A run that is started by a run that is started by … so deep: a job that calls itself without end.
_DEEPEST = 32
_COLUMNS = (
    "run_id, job, definition, state, waiting_for, reason, parameters, sealed, labels, actor, trigger_kind, "
    "trigger_name, trigger_data, start_key, priority, parent, parent_step, rerun_of, attempt, placement, gated, "
    "ready, blocked_on, wake_s, begun, timeout_s, keep_s, created_s, due_s, queued_s"
)
_INSERT = f"INSERT INTO runs ({_COLUMNS}) VALUES ({', '.join(':' + name.strip() for name in _COLUMNS.split(','))})"
_INSERT_KEYED = _INSERT + " ON CONFLICT (job, start_key) WHERE start_key IS NOT NULL DO NOTHING"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A start that has been checked. parameters: secret ones masked; sealed: the real ones of those, encrypted.

    copied: rows of steps that it begins with.
    """

    spec: JobSpec
    parameters: Mapping[str, Json]
    sealed: bytes | None
    labels: Mapping[str, str]
    placement: str
    actor: Actor
    trigger: Trigger
    key: str
    due_s: float | None
    priority: int
    reason: str
    parent: tuple[str, str] | None
    gates: Sequence[Gate]
    rerun_of: str = ""
    attempt: int = 1
    copied: Sequence[Mapping[str, Any]] = ()


class Opener:
    """Opens runs in transactions of others."""

    def __init__(self, setting: Setting, mint: Mint, definitions: Definitions, meters: Meters) -> None:
        self._setting, self._mint, self._definitions, self._meters = setting, mint, definitions, meters

    def open(self, tx: Tx, intent: Intent) -> Started:
        """Raises: Conflict where the job's concurrency forbids it, or it would wait for itself."""
        if intent.key and (known := self._known(tx, intent)):
            return Started(run=known, created=False)
        tx.lock(AUDIT)
        if intent.parent is not None:
            _check_ancestors(tx, self._setting, intent)
        self._concurrency(tx, intent)
        run, values = self._row(tx, intent)
        if not intent.key:
            tx.send(_INSERT, **values)
        elif not tx.run(_INSERT_KEYED, **values):
            first = self._known(tx, intent)
            if first is None:
                raise Conflict(f"another start with the key '{intent.key}' is under way", hint="try again")
            return Started(run=first, created=False)
        if intent.gates:
            gates.add(tx, run.run_id, intent.gates)
        if intent.copied:
            tx.many(
                "INSERT INTO steps (run_id, name, state, wake_s, body) VALUES (:run_id, :name, :state, :wake_s, :body)",
                [{**row, "run_id": run.run_id} for row in intent.copied],
            )
        if values["ready"]:
            tx.notify(topics.READY)
        record(
            tx,
            intent.actor,
            "rerun" if intent.rerun_of else "run",
            Subject(noun="job", name=intent.spec.name, labels=intent.labels),
            reason=intent.reason,
            after=_told(run),
        )
        tx.after(self._meters.note_started)
        return Started(run=run, created=True)

    def _known(self, tx: Tx, intent: Intent) -> Run | None:
        row = first_of(
            tx,
            f"SELECT {RUN} FROM runs WHERE job = :job AND start_key = :key",
            job=intent.spec.name,
            key=clean(intent.key),
        )
        return None if row is None else run_of(row)

    def _concurrency(self, tx: Tx, intent: Intent) -> None:
        rule = intent.spec.concurrency
        if rule is None or rule.policy == "queue":
            return
        gate = next(gate for gate in intent.gates if gate.name.startswith("job:"))
        tx.lock(f"gate {gate.name}")
        others = [
            str(row[0])
            for row in all_of(
                tx,
                "SELECT g.run_id FROM run_gates g JOIN runs r ON r.run_id = g.run_id WHERE g.gate = :gate "
                "AND r.cancel = '' ORDER BY r.created_s, r.run_id",
                gate=gate.name,
            )
        ]
        if len(others) < gate.capacity:
            return
        if rule.policy == "forbid":
            raise Conflict(
                f"job {intent.spec.name} is running already: {', '.join(others[:3])}",
                hint="wait for it, or cancel it; its concurrency policy is 'forbid'",
            )
        for run_id in others[: len(others) - gate.capacity + 1]:
            cancel_one(tx, self._setting, run_id, intent.actor, "replaced by a newer run")

    def _row(self, tx: Tx, intent: Intent) -> tuple[Run, dict[str, Any]]:
        now_s, spec = tx.now_s, intent.spec
        later = intent.due_s is not None and intent.due_s > now_s
        blocked_on = gates.full(tx, self._setting, intent.gates) if intent.gates and not later else ""
        run = Run(
            run_id=self._mint.next(now_s),
            job=spec.name,
            state=RunState.SCHEDULED if later else RunState.QUEUED,
            reason=clean(intent.reason),
            waiting_for=gates.sign(blocked_on) if blocked_on else "",
            parameters=intent.parameters,
            labels=intent.labels,
            actor=intent.actor,
            trigger=intent.trigger,
            key=clean(intent.key),
            priority=intent.priority,
            parent=intent.parent,
            rerun_of=intent.rerun_of,
            attempt=intent.attempt,
            created_s=now_s,
            due_s=intent.due_s,
            queued_s=None if later else now_s,
        )
        values = {
            **_plain(run),
            "definition": self._definitions.put(tx, spec),
            "sealed": intent.sealed,
            "placement": intent.placement,
            # Deployments are looked at before they are claimed, as those are that wait their turn.
            "gated": int(bool(intent.gates) or deploys(spec, intent.labels)),
            "ready": int(not later and not blocked_on),
            "blocked_on": blocked_on,
            "wake_s": intent.due_s if later else None,
            "begun": int(bool(intent.copied)),
            "timeout_s": spec.timeout,
            "keep_s": spec.keep,
        }
        return run, values


def _plain(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "job": run.job,
        "state": run.state.value,
        "waiting_for": run.waiting_for,
        "reason": run.reason,
        "parameters": text(run.parameters),
        "labels": text(run.labels),
        "actor": text(run.actor),
        "trigger_kind": clean(run.trigger.kind),
        "trigger_name": clean(run.trigger.name),
        "trigger_data": text(run.trigger.data),
        "start_key": run.key or None,
        "priority": run.priority,
        "parent": run.parent[0] if run.parent else None,
        "parent_step": run.parent[1] if run.parent else None,
        "rerun_of": run.rerun_of,
        "attempt": run.attempt,
        "created_s": run.created_s,
        "due_s": run.due_s,
        "queued_s": run.queued_s,
    }


def _told(run: Run) -> dict[str, Json]:
    """What the audit trail says of a new run."""
    told: dict[str, Json] = {"run": run.run_id, "parameters": run.parameters}
    if run.rerun_of:
        told["rerun_of"] = run.rerun_of
    if run.parent:
        told["parent"] = run.parent[0]
    if run.due_s is not None:
        told["due_s"] = run.due_s
    return told


def _check_ancestors(tx: Tx, setting: Setting, intent: Intent) -> None:
    """Refuse a run that could never start, because what it waits for is held by who waits for it.

    Raises: Conflict, also for a parent that has ended.
    """
    ancestors: list[str] = []
    run_id: str | None = intent.parent[0] if intent.parent else None
    while run_id is not None:
        # The parent's row is held, so that a cancel of it sees this child, or this start the cancel.
        row = first_of(
            tx,
            "SELECT parent, ended_s, cancel FROM runs WHERE run_id = :run_id" + ("" if ancestors else setting.take),
            run_id=run_id,
        )
        if row is None:
            break
        if not ancestors and (row[1] is not None or row[2]):
            what = "has ended" if row[1] is not None else "is being cancelled"
            raise Conflict(f"cannot start job {intent.spec.name}: its parent, run {run_id}, {what}")
        ancestors.append(run_id)
        if len(ancestors) > _DEEPEST:
            raise Conflict(f"cannot start job {intent.spec.name}: runs start runs more than {_DEEPEST} deep")
        run_id = None if row[0] is None else str(row[0])
    held = gates.held_by(tx, ancestors)
    for gate in intent.gates:
        if gate.window_s is None and held.get(gate.name, 0) >= gate.capacity:
            raise Conflict(
                f"job {intent.spec.name} would wait for ever for {gate.sign}: the run that starts it holds it",
                hint="let only one of the two jobs take it",
            )
