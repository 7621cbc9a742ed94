"""Schedules, webhooks and messages in memory, for the pages that show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dogwatch.access.actor import Actor, Subject
from dogwatch.core.clock import Clock
from dogwatch.engine.schedules.records import FireRow
from dogwatch.engine.schedules.service import ScheduleView
from dogwatch.engine.schedules.spec import ScheduleSpec, describe
from dogwatch.engine.values import Page, Run, Started
from dogwatch.errors import UsageError
from tests.fakes import FakeProgram
from tests.fakes_runs import FakeRuns

EVIL = "<img src=x onerror=window.bad=1>\"'"


class FakeSchedules:
    """What Schedules answers, over lists."""

    def __init__(self, clock: Clock, runs: FakeRuns) -> None:
        self._clock, self._runs = clock, runs
        self.specs: dict[str, ScheduleSpec] = {}
        self.paused: dict[str, str] = {}
        self.rows: dict[str, list[FireRow]] = {}
        self.calls: list[tuple[Any, ...]] = []

    def add(self, spec: ScheduleSpec, *fires: FireRow) -> None:
        self.specs[spec.name] = spec
        self.rows[spec.name] = list(fires)

    def names(self) -> Sequence[str]:
        return list(self.specs)

    def spec(self, name: str) -> ScheduleSpec:
        return self.specs[name]

    def subject(self, name: str) -> Subject:
        return Subject(noun="schedule", name=name, labels=self.specs[name].labels)

    def job(self, name: str) -> str:
        return self.specs[name].job

    def _view(self, name: str) -> ScheduleView:
        spec, rows = self.specs[name], self.rows[name]
        paused = name in self.paused
        last = rows[0] if rows else None
        run = self._runs.runs.get(last.run_id) if last else None
        return ScheduleView(
            name=name,
            job=spec.job,
            doc=spec.doc,
            when=describe(spec),
            time_zone=spec.time_zone,
            labels=spec.labels,
            state="paused" if paused else "disabled" if spec.paused else "active",
            reason=f"by {self.paused[name]}" if paused else "",
            next_s=None if paused or spec.paused else self._clock.now_s() + 754,
            last=last,
            last_run_state=str(run.state) if run else "",
            fired=sum(row.state == "started" for row in rows),
            missed=sum(row.state == "missed" for row in rows),
            refused=sum(row.state == "refused" for row in rows),
        )

    async def list(self, names: Sequence[str]) -> Sequence[ScheduleView]:
        return [self._view(name) for name in names]

    async def show(self, name: str) -> ScheduleView:
        return self._view(name)

    async def fires(self, name: str, *, limit: int = 50, cursor: str = "") -> Page[FireRow]:
        if cursor and not cursor.isdigit():
            raise UsageError(f"'{cursor}' is no cursor of this list")
        start = int(cursor or 0)
        rows = self.rows[name]
        return Page(items=rows[start : start + limit], cursor=str(start + limit) if start + limit < len(rows) else "")

    def upcoming(self, name: str, count: int) -> Sequence[float]:
        return [self._clock.now_s() + 754 + 86400 * at for at in range(count)]

    async def pause(self, name: str, actor: Actor, *, reason: str = "") -> ScheduleView:
        self.calls.append(("pause", name, reason))
        self.paused[name] = f"{actor}: {reason}"
        return self._view(name)

    async def resume(self, name: str, actor: Actor, *, from_now: bool = False) -> ScheduleView:
        self.calls.append(("resume", name, from_now))
        self.paused.pop(name, None)
        return self._view(name)

    async def run(self, name: str, actor: Actor, *, key: str = "", reason: str = "") -> Started:
        self.calls.append(("run", name, key, reason))
        run: Run = self._runs.put("01998888", self.specs[name].job)
        return Started(run=run, created=True)


def furnish_schedules(program: FakeProgram) -> FakeSchedules:
    """Give the program schedules of every kind."""
    found = FakeSchedules(program.clock, program.runs)
    now_s = program.clock.now_s()

    def fire(state: str, back: float, run_id: str = "", reason: str = "") -> FireRow:
        at_s = now_s - back
        return FireRow(
            schedule="", fire=f"{back}", fire_s=at_s, claimed_s=at_s + 1, state=state, run_id=run_id, reason=reason
        )

    found.add(
        ScheduleSpec(
            name="nightly/deploy",
            job="deploy",
            doc="Rolls out what the day has brought.",
            cron="~ 3 * * *",
            time_zone="Europe/Berlin",
            labels={"team": "shop"},
            parameters={"version": "v1.3", "token": "hunter22"},
        ),
        fire("started", 3600, "01991111"),
        fire("missed", 90_000, reason="3 fires while nothing ran"),
        fire("refused", 180_000, reason="the job runs already"),
        fire("manual", 200_000, "01994444", "started by user:ann"),
    )
    found.add(
        ScheduleSpec(name=f"evil {EVIL}", job="backup/größe <b>", doc=EVIL, every=900.0, labels={EVIL: EVIL}),
        fire("failed", 60, reason=EVIL),
    )
    found.add(ScheduleSpec(name="invoices", job="deploy", at=["08:00"], paused=True))
    program.services.schedules = found  # type: ignore[assignment]
    return found
