"""What the book tells of itself: counters of this process, and counts of the database as of the last refresh."""

from __future__ import annotations

from collections.abc import Iterable

from dogwatch.core.metrics import Family, series
from dogwatch.engine.book.read import Counts
from dogwatch.engine.values import RunState

# Series by job are for so many jobs; the rest is counted together.
_JOBS = 100
_OTHERS = "(others)"


class Meters:
    def __init__(self) -> None:
        self.started = self.claimed = self.reaped = 0
        self.ended: dict[RunState, int] = {}
        self.counts: Counts | None = None

    def note_started(self) -> None:
        self.started += 1

    def families(self) -> Iterable[Family]:
        for name, text, value in (
            ("dogwatch_runs_started_total", "Runs that this process started.", self.started),
            ("dogwatch_runs_claimed_total", "Runs that workers of this process took.", self.claimed),
            ("dogwatch_runs_reaped_total", "Runs taken back from workers that were lost.", self.reaped),
        ):
            yield Family(name, "counter", text, [(name, float(value))])
        name = "dogwatch_runs_ended_total"
        ended = [(series(name, {"state": state.value}), float(count)) for state, count in sorted(self.ended.items())]
        yield Family(name, "counter", "Runs that workers of this process ended, by state.", ended)
        # Without series until they were counted.
        for family in _counted(self.counts or _NONE):
            yield family if self.counts is not None else Family(family.name, family.kind, family.help, ())


_NONE = Counts(live={}, parked=0, blocked=0, oldest_s=None, workers=[], now_s=0.0)


def _counted(counts: Counts) -> Iterable[Family]:
    by_job: dict[tuple[str, str], int] = {}
    jobs = sorted({job for job, _ in counts.live})
    named = set(jobs[:_JOBS])
    for (job, state), count in sorted(counts.live.items()):
        key = (job if job in named else _OTHERS, state)
        by_job[key] = by_job.get(key, 0) + count
    name = "dogwatch_runs"
    live = [(series(name, {"job": job, "state": state}), float(count)) for (job, state), count in by_job.items()]
    yield Family(name, "gauge", "Runs that have not ended, by job and state.", live)
    waited_s = max(0.0, counts.now_s - counts.oldest_s) if counts.oldest_s is not None else 0.0
    depth = sum(count for (_, state), count in counts.live.items() if state == RunState.QUEUED)
    slots = sum(slots for state, slots, _ in counts.workers if state == "active")
    busy = sum(busy for state, _, busy in counts.workers if state != "lost")
    for name, text, value in (
        ("dogwatch_queue_depth", "Runs that wait for a worker, a lock or their turn.", depth),
        ("dogwatch_queue_blocked", "Of those, runs that wait for a lock, a rate limit or their turn.", counts.blocked),
        ("dogwatch_queue_oldest_seconds", "How long the oldest queued run has waited.", waited_s),
        ("dogwatch_runs_parked", "Runs that wait and that no worker holds.", counts.parked),
        ("dogwatch_workers_slots", "Runs that all active workers can carry out at the same time.", slots),
        ("dogwatch_workers_busy", "Runs that workers hold.", busy),
        ("dogwatch_workers_saturation_ratio", "Share of the slots that is taken.", busy / slots if slots else 0.0),
    ):
        yield Family(name, "gauge", text, [(name, float(value))])
    name = "dogwatch_workers"
    states = ("active", "draining", "lost")
    of_state = [(series(name, {"state": one}), float(sum(w[0] == one for w in counts.workers))) for one in states]
    yield Family(name, "gauge", "Workers, by state.", of_state)
