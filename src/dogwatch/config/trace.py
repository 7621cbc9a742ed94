"""What is remembered of reloads: the steps of the one that runs, a bounded history, and metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from dogwatch.config.status import STEPS, ReloadRecord, ReloadStep
from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family, series

HISTORY = 50
MAX_PROBLEMS = 200
TRIGGERS = ("start", "signal", "api", "file")


class Trace:
    """The life of one reload, step by step. since_s: how long ago (monotonic) it was asked for."""

    def __init__(self, clock: Clock, *, number: int, trigger: str, since_s: float) -> None:
        self._clock = clock
        self._last_s = clock.monotonic_s()
        self.record = ReloadRecord(
            number=number,
            # Triggers are label values: they must not grow without bound.
            trigger=trigger if trigger in TRIGGERS else "api",
            time_s=clock.now_s(),
            outcome="running",
            steps=(ReloadStep(name="detected", duration_s=since_s),),
        )

    def reached(self, name: str) -> None:
        now_s = self._clock.monotonic_s()
        step = ReloadStep(name=name, duration_s=now_s - self._last_s)
        self._last_s = now_s
        self.record = msgspec.structs.replace(self.record, steps=(*self.record.steps, step))

    def end(self, outcome: str, *, problems: Iterable[str] = (), changed: Sequence[str] = ()) -> ReloadRecord:
        lines = list(problems)
        if len(lines) > MAX_PROBLEMS:
            lines[MAX_PROBLEMS:] = [f"… and {len(lines) - MAX_PROBLEMS} more"]
        self.record = msgspec.structs.replace(
            self.record, outcome=outcome, problems=tuple(lines), changed=tuple(changed)
        )
        return self.record


class History:
    """The newest reloads, and what metrics say of all of them.

    failing: the failure that stands: the configuration on disk is bad, and an older one is in force.
    """

    def __init__(self) -> None:
        self.failing: ReloadRecord | None = None
        self.running: Trace | None = None
        self.started = 0
        self._ended: deque[ReloadRecord] = deque(maxlen=HISTORY)
        self._counts: dict[tuple[str, str], int] = {}
        self._success_time_s: float | None = None
        self._steps: dict[str, float] = {}

    def records(self) -> tuple[ReloadRecord, ...]:
        """Return the newest first; one that runs is the first."""
        running = (self.running.record,) if self.running is not None else ()
        return (*running, *reversed(self._ended))

    def begin(self, trace: Trace) -> None:
        self.started += 1
        self.running = trace

    def end(self, record: ReloadRecord) -> None:
        """Keep the record. A file that was touched and means the same is counted but not kept."""
        self.running = None
        key = (record.outcome, record.trigger)
        self._counts[key] = self._counts.get(key, 0) + 1
        noise = record.outcome == "unchanged" and record.trigger == "file" and self.failing is None
        if not noise:
            self._ended.append(record)
        if record.outcome == "failed":
            self.failing = record
        else:
            # What is on disk is what is in force: a failure before it is mended.
            self.failing = None
            self._success_time_s = record.time_s
        if record.outcome != "unchanged":
            self._steps = {step.name: step.duration_s for step in record.steps}

    def families(self) -> list[Family]:
        """Return the metrics of reloads."""
        name = "dogwatch_reload"
        counted = [
            (series(f"{name}_total", {"outcome": outcome, "trigger": trigger}), float(count))
            for (outcome, trigger), count in self._counts.items()
        ]
        steps = [
            (series(f"{name}_step_duration_seconds", {"step": step}), self._steps[step])
            for step in STEPS
            if step in self._steps
        ]
        success = [(f"{name}_last_success_timestamp_seconds", self._success_time_s)] if self._success_time_s else []
        good = [(f"{name}_successful", 0.0 if self.failing else 1.0)] if self._counts else []
        return [
            Family(f"{name}_successful", "gauge", "Whether the configuration on disk is the one in force.", good),
            Family(
                f"{name}_last_success_timestamp_seconds",
                "gauge",
                "When a reload last found the configuration good, seconds since 1970.",
                success,
            ),
            Family(f"{name}_total", "counter", "Reloads by outcome and by what asked for them.", counted),
            Family(f"{name}_step_duration_seconds", "gauge", "Time that each step of the newest reload took.", steps),
        ]
