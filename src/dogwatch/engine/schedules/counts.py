"""What the scheduler counts of its work, as metrics."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from dogwatch.core.metrics import Family, series
from dogwatch.engine.schedules.records import Claim, Claimed

_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_LATE = "dogwatch_schedule_lateness_seconds"


class Counts:
    """Fires by what became of them, how late they were claimed, steps of the clock; of this process."""

    def __init__(self) -> None:
        self.fires = {"started": 0, "refused": 0, "failed": 0}
        self.missed = self.lost = self.steps = 0
        self._late = [0] * (len(_BOUNDS_S) + 1)
        self._late_s = 0.0

    def note(self, claim: Claim, claimed: Claimed, now_s: float) -> None:
        """Count a claim and what became of it."""
        if claimed.outcome == "lost":
            self.lost += 1
        if claimed.outcome in ("lost", "early"):
            return
        if claim.missed is not None:
            self.missed += claim.missed.count
        if claim.fire is None or claimed.outcome != "done":
            return
        self.fires[claim.state] += 1
        late_s = max(0.0, now_s - claim.fire.due_s)
        self._late[bisect.bisect_left(_BOUNDS_S, late_s)] += 1
        self._late_s += late_s

    def families(self, *, total: int, active: int, behind: int) -> Iterable[Family]:
        name = "dogwatch_schedule_fires_total"
        fires = [(series(name, {"state": state}), float(count)) for state, count in self.fires.items()]
        yield Family(name, "counter", "Fires claimed by this process, by what became of them.", fires)
        for name, kind, text, value in (
            ("dogwatch_schedule_missed_total", "counter", "Fires left out by the misfire policy.", self.missed),
            ("dogwatch_schedule_lost_total", "counter", "Fires that another scheduler claimed first.", self.lost),
            ("dogwatch_schedule_clock_steps_total", "counter", "Steps of the database's clock.", self.steps),
            ("dogwatch_schedules", "gauge", "Schedules of the configuration.", total),
            ("dogwatch_schedules_active", "gauge", "Schedules that fire: neither paused nor superseded.", active),
            ("dogwatch_schedules_behind", "gauge", "Schedules silent because the clock was set back.", behind),
        ):
            yield Family(name, kind, text, [(name, float(value))])
        yield Family(_LATE, "histogram", "Time from when a fire was due until its run was on disk.", self._buckets())

    def _buckets(self) -> list[tuple[str, float]]:
        out, so_far = [], 0
        for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), self._late, strict=True):
            so_far += count
            out.append((series(f"{_LATE}_bucket", {"le": bound}), float(so_far)))
        return [*out, (f"{_LATE}_sum", self._late_s), (f"{_LATE}_count", float(so_far))]
