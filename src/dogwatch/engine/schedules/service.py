"""What people ask of schedules: list, show, pause, resume, start now."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Collection, Mapping, Sequence

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record as audit
from dogwatch.core.component import nearest
from dogwatch.core.units import format_duration
from dogwatch.engine.port import Runs
from dogwatch.engine.schedules import records
from dogwatch.engine.schedules.decide import next_fires
from dogwatch.engine.schedules.records import FireRow, Record, run_key
from dogwatch.engine.schedules.scheduler import Entry, Scheduler
from dogwatch.engine.schedules.spec import ScheduleSpec, describe
from dogwatch.engine.values import Page, Started, StartRun, Trigger
from dogwatch.errors import NotFound, UsageError
from dogwatch.store.database import Database, Tx

# A clock that is behind by less is no news.
_BEHIND_S = 2.0


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it is now.

    state: active; paused (by a person); disabled (by the configuration); behind (the clock was set back); superseded
    (another process has loaded another configuration since); ended (it fires no more); unknown (the database was not
    reached yet). reason: more about the state. next_s: when it fires next. last: what became of the newest fire;
    last_run_state: of that fire's run. fired, missed, refused: since ever.
    """

    name: str
    job: str
    doc: str
    when: str
    time_zone: str
    labels: Mapping[str, str]
    state: str
    reason: str = ""
    next_s: float | None = None
    last: FireRow | None = None
    last_run_state: str = ""
    fired: int = 0
    missed: int = 0
    refused: int = 0


def _place(cursor: str) -> tuple[float, str]:
    claimed, _, fire = cursor.partition(" ")
    try:
        return float(claimed), fire
    except ValueError:
        raise UsageError(f"'{cursor[:50]}' is no cursor of this list", hint="begin without one") from None


class Schedules:
    """Raises everywhere: NotFound for a schedule that is not configured; TransientError."""

    def __init__(self, scheduler: Scheduler, database: Database, runs: Runs) -> None:
        self._scheduler, self._database, self._runs = scheduler, database, runs

    def names(self) -> Collection[str]:
        """Return all, in the order of the configuration."""
        return self._scheduler.entries.keys()

    def subject(self, name: str) -> Subject:
        """Return what permissions are asked about."""
        return Subject(noun="schedule", name=name, labels=self._entry(name).plan.spec.labels)

    def job(self, name: str) -> str:
        """Return the name of the job that it starts."""
        return self._entry(name).plan.spec.job

    def spec(self, name: str) -> ScheduleSpec:
        """Return it as it is configured."""
        return self._entry(name).plan.spec

    async def list(self, names: Sequence[str]) -> Sequence[ScheduleView]:
        """Return the schedules of these names, those that are not there left out."""
        entries = [entry for name in names if (entry := self._scheduler.entries.get(name)) is not None]
        wanted = [entry.plan.spec.name for entry in entries]

        def work(tx: Tx) -> tuple[dict[str, Record | None], dict[str, FireRow]]:
            return {name: records.find_record(tx, name) for name in wanted}, records.last_fires(tx, wanted)

        found, last = await self._database.read(work)
        states = await self._run_states([fire.run_id for fire in last.values() if fire.run_id])
        return [
            self._view(entry, found[entry.plan.spec.name], last.get(entry.plan.spec.name), states) for entry in entries
        ]

    async def show(self, name: str) -> ScheduleView:
        self._entry(name)
        return (await self.list([name]))[0]

    async def fires(self, name: str, *, limit: int = 50, cursor: str = "") -> Page[FireRow]:
        """Return what became of its fires, newest first.

        Raises: UsageError for a cursor that is none.
        """
        self._entry(name)
        before = _place(cursor) if cursor else None
        rows = await self._database.read(lambda tx: records.find_fires(tx, name, limit=limit + 1, before=before))
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(items=rows[:limit], cursor=f"{last.claimed_s!r} {last.fire}" if last is not None else "")

    def upcoming(self, name: str, count: int) -> Sequence[float]:
        """Return when it would fire next, were it not paused."""
        entry = self._entry(name)
        after_s = self._scheduler.clock.now_s()
        if entry.record is not None:
            after_s = max(after_s, entry.record.cursor_s)
        return [fire.due_s for fire in next_fires(entry.plan, after_s, count)]

    async def pause(self, name: str, actor: Actor, *, reason: str = "") -> ScheduleView:
        """Let it fire no more until it is resumed, restarts included."""
        subject = self.subject(name)

        def work(tx: Tx) -> None:
            if records.set_paused(tx, name, str(actor), reason):
                audit(tx, actor, "pause", subject, reason=reason, before={"paused": False}, after={"paused": True})

        await self._database.write(work)
        return await self.show(name)

    async def resume(self, name: str, actor: Actor, *, from_now: bool = False) -> ScheduleView:
        """Let it fire again from now on; what it passed over is not made up for.

        from_now: do not wait for a clock that was set back to pass what was decided before; no fire runs twice.
        """
        subject = self.subject(name)

        def work(tx: Tx) -> None:
            paused = records.set_resumed(tx, name, from_now=from_now)
            if paused or from_now:
                after = {"paused": False, "from_now": from_now}
                audit(tx, actor, "resume", subject, before={"paused": paused}, after=after)

        await self._database.write(work)
        return await self.show(name)

    async def run(self, name: str, actor: Actor, *, key: str = "", reason: str = "") -> Started:
        """Start its job now, as a fire would, paused or not. key: of the caller, so that a repeat starts nothing new.

        Raises: Conflict (the job's concurrency forbids it), UsageError (parameters).
        """
        spec = self._entry(name).plan.spec
        subject = self.subject(name)
        fire = f"manual-{key or uuid.uuid4().hex}"
        start = self._runs.starter(
            StartRun(
                job=spec.job,
                parameters=spec.parameters,
                actor=actor,
                trigger=Trigger(kind="schedule", name=name, data={"manual": True}),
                key=run_key(name, fire),
                priority=spec.priority,
                reason=reason,
                labels=spec.labels,
            )
        )

        def work(tx: Tx) -> Started:
            started = start(tx)
            if started.created:
                records.note_manual(tx, name, fire, started.run.run_id, str(actor))
                audit(tx, actor, "run", subject, reason=reason, after={"run": started.run.run_id})
            return started

        return await self._database.write(work)

    def _entry(self, name: str) -> Entry:
        entry = self._scheduler.entries.get(name)
        if entry is None:
            known = list(self._scheduler.entries)
            raise NotFound(f"there is no schedule '{name}'", hint=nearest(name, known) if known else "")
        return entry

    async def _run_states(self, run_ids: Sequence[str]) -> dict[str, str]:
        async def one(run_id: str) -> str:
            try:
                return str((await self._runs.show(run_id)).state)
            except NotFound:
                return ""  # forgotten since

        return dict(zip(run_ids, await asyncio.gather(*map(one, run_ids)), strict=True))

    def _view(
        self, entry: Entry, record: Record | None, last: FireRow | None, states: Mapping[str, str]
    ) -> ScheduleView:
        spec = entry.plan.spec
        state, reason = self._state(entry, record)
        return ScheduleView(
            name=spec.name,
            job=spec.job,
            doc=spec.doc,
            when=describe(spec),
            time_zone=spec.time_zone,
            labels=spec.labels,
            state=state,
            reason=reason,
            next_s=self._next_s(entry, record) if state in ("active", "behind") else None,
            last=last,
            last_run_state=states.get(last.run_id, "") if last is not None else "",
            fired=record.fired if record else 0,
            missed=record.missed if record else 0,
            refused=record.refused if record else 0,
        )

    def _next_s(self, entry: Entry, record: Record | None) -> float | None:
        if record is None:
            return None
        found = next_fires(entry.plan, record.cursor_s, 1)
        return found[0].due_s if found else None

    def _state(self, entry: Entry, record: Record | None) -> tuple[str, str]:
        spec = entry.plan.spec
        now_s = self._scheduler.clock.now_s()
        if record is None:
            return "unknown", self._scheduler.trouble or "not yet on disk"
        if record.paused:
            why = f": {record.paused_reason}" if record.paused_reason else ""
            return "paused", f"by {record.paused_by}{why}"
        if spec.paused:
            return "disabled", "paused in the configuration"
        if record.timing != entry.plan.digest or record.removed_s is not None:
            return "superseded", "another process has loaded another configuration of it since"
        if (behind_s := record.cursor_s - now_s) > _BEHIND_S:
            return "behind", f"the clock was set back; what the next {format_duration(behind_s)} hold has fired"
        if not next_fires(entry.plan, record.cursor_s, 1):
            return "ended", "it fires no more"
        held_s = entry.plan.held(now_s)
        if held_s is not None:
            until = "" if held_s == math.inf else f" for another {format_duration(held_s - now_s)}"
            frozen = entry.plan.freeze is not None and entry.plan.freeze.end(now_s) is not None
            return "active", f"{'frozen by maintenance' if frozen else 'in a blackout window'}{until}"
        return "active", ""
