"""Runs collectors: each at its own interval, within its own deadline, its faults its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

from dogwatch.core.clock import Clock
from dogwatch.core.deadline import woken
from dogwatch.core.metrics import Counter, Family, series
from dogwatch.core.units import format_duration
from dogwatch.errors import DogwatchError
from dogwatch.hosts.collector import Absent, Collector, Moment, Sampler
from dogwatch.hosts.view import CollectorView, Glance

# A run that starts later than this share of its interval is counted as late.
_LATE_RATIO = 0.1
_SECOND_S = 2.0
# Nothing is due for ever where every collector is off; look again after this.
_IDLE_S = 60.0


class Entry:
    """One collector that runs: its sampler, its schedule and how its runs ended."""

    def __init__(self, collector: Collector, sampler: Sampler, *, every_s: float) -> None:
        self.name = collector.kind
        self.collector = collector
        self.sampler = sampler
        self.every_s = every_s
        self.due_s = -math.inf
        self.early = False
        self.task: asyncio.Task[None] | None = None
        self.pending: Coroutine[object, object, None] | None = None
        # ran: its newest sample may be shown. absent: this machine has no such thing.
        self.ran = False
        self.absent = False
        self.message = ""
        self.last_time_s: float | None = None
        self.duration_s: float | None = None
        self.runs = Counter()
        self.errors = Counter()
        self.timeouts = Counter()
        self.skipped = Counter()
        self.late = Counter()
        self.texts = {
            name: series(name, {"collector": self.name})
            for name in (*_COUNTERS, _SUCCESS[0], _DURATION[0], _TROUBLE[0])
        }

    def view(self) -> CollectorView:
        trouble = "" if not self.ran else self.sampler.trouble()
        message = self.message or trouble or (self.sampler.note() if self.ran else "")
        return CollectorView(
            name=self.name,
            every_s=self.every_s,
            ok=(self.ran and not trouble) or self.absent or not self.runs.value,
            message=message,
            last_time_s=self.last_time_s,
            duration_s=self.duration_s,
        )

    def fail(self, message: str) -> None:
        self.ran, self.absent, self.message = False, False, message
        self.errors.inc()

    def next_due(self, now_s: float, second_s: float) -> None:
        """Move to the next tick of the grid of its interval; ticks that have passed are skipped and counted."""
        if self.due_s == -math.inf or self.early:
            # On one grid for all collectors of one interval, so that they run, and are written, together.
            grid_s = (math.floor(now_s / self.every_s) + 1) * self.every_s
            # The second sample comes early: rates need two, and whoever starts the program looks at it now.
            self.early = self.due_s == -math.inf and grid_s > now_s + second_s
            self.due_s = now_s + second_s if self.early else grid_s
            return
        passed = math.floor((now_s - self.due_s) / self.every_s)
        self.skipped.inc(passed)
        self.due_s += (passed + 1) * self.every_s

    async def close(self) -> None:
        """End a run that is under way, then close the descriptors: never under its hands."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        if self.pending is not None:
            # A task that is cancelled before its first step never awaits what it was given.
            self.pending.close()
        self.sampler.close()


class Runner:
    """Schedules entries on the event loop. on_samples: told which entries got a new sample, and when.

    second_s: how long after its first sample a collector of a longer interval takes its second.
    """

    def __init__(
        self, clock: Clock, on_samples: Callable[[Moment, Sequence[Entry]], None], *, second_s: float = _SECOND_S
    ) -> None:
        self._second_s = second_s
        self._clock = clock
        self._on_samples = on_samples
        self._wake = asyncio.Event()
        self.entries: dict[str, Entry] = {}

    def replace(self, entries: dict[str, Entry]) -> None:
        """Put another set of entries in force; those that stay keep their schedule."""
        self.entries = entries
        self._wake.set()

    async def run(self) -> None:
        """Run what is due, for ever; cancel it to stop."""
        while True:
            self._wake.clear()
            wait_s = self.run_due()
            await woken(self._wake, wait_s)

    def run_due(self) -> float:
        """Run what is due now, without waiting for what takes time. Return seconds until something is due."""
        started_s = self._clock.monotonic_s()
        at = Moment(self._clock.now_s(), started_s)
        sampled: list[Entry] = []
        for entry in self.entries.values():
            if entry.due_s > started_s:
                continue
            if started_s - entry.due_s > entry.every_s * _LATE_RATIO and entry.runs.value:
                entry.late.inc()
            entry.next_due(started_s, self._second_s)
            if entry.task is not None:
                # Its deadline ends it; until then it does not overlap with itself.
                entry.skipped.inc()
            elif self._start(entry, at):
                sampled.append(entry)
        if sampled:
            self._on_samples(at, sampled)
        if not self.entries:
            return _IDLE_S
        return max(0.0, min(entry.due_s for entry in self.entries.values()) - self._clock.monotonic_s())

    def _start(self, entry: Entry, at: Moment) -> bool:
        """Begin a run; return whether it has ended already with a sample."""
        entry.runs.inc()
        entry.last_time_s = at.time_s
        started_s = self._clock.monotonic_s()
        try:
            pending = entry.sampler.sample(at)
        except Exception as error:  # noqa: BLE001  # a collector's fault, whatever it is, is recorded against it
            self._failed(entry, error)
            pending = None
        else:
            if pending is not None:
                entry.pending = pending
                entry.task = asyncio.get_running_loop().create_task(
                    self._finish(entry, pending, at, started_s), name=f"hosts collector {entry.name}"
                )
                return False
            _succeeded(entry)
        entry.duration_s = self._clock.monotonic_s() - started_s
        return entry.ran

    async def _finish(
        self, entry: Entry, pending: Coroutine[object, object, None], at: Moment, started_s: float
    ) -> None:
        try:
            async with asyncio.timeout(entry.collector.timeout):
                await pending
        except TimeoutError:
            entry.timeouts.inc()
            entry.fail(f"gave no answer in {format_duration(entry.collector.timeout)}")
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(entry, error)
        else:
            _succeeded(entry)
        finally:
            entry.task = entry.pending = None
            entry.duration_s = self._clock.monotonic_s() - started_s
        if entry.ran and self.entries.get(entry.name) is entry:
            self._on_samples(at, [entry])

    @staticmethod
    def _failed(entry: Entry, error: Exception) -> None:
        if isinstance(error, Absent):
            entry.ran, entry.absent, entry.message = False, True, str(error)
        else:
            entry.fail(describe(error))

    def families(self) -> Iterator[Family]:
        """Return what the newest samples say, and how the collectors do."""
        for entry in self.entries.values():
            if entry.ran:
                yield from self._of(entry)
        yield from self._own()

    def _of(self, entry: Entry) -> Sequence[Family]:
        """Return an entry's families, all or none: decoding may find what sampling did not."""
        try:
            return [
                Family(family.name, family.kind, family.help, tuple(family.series))
                for family in entry.sampler.families()
            ]
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(entry, error)
            return ()

    def _own(self) -> Iterator[Family]:
        entries = [entry for entry in self.entries.values() if entry.runs.value]

        def family(metric: tuple[str, str, str], value: Callable[[Entry], float]) -> Family:
            name, kind, text = metric
            return Family(name, kind, text, [(entry.texts[name], value(entry)) for entry in entries])

        yield family(_DURATION, lambda entry: entry.duration_s or 0.0)
        yield family(_SUCCESS, lambda entry: float(entry.ran))
        yield family(_TROUBLE, lambda entry: float(not entry.view().ok))
        for name, (attribute, text) in _COUNTERS.items():
            yield family(
                (name, "counter", text),
                lambda entry, attribute=attribute: getattr(entry, attribute).value,  # type: ignore[misc]
            )

    def views(self) -> list[CollectorView]:
        return [entry.view() for entry in self.entries.values()]

    def glance(self) -> Glance:
        """Return what the samplers whose newest run succeeded know."""
        glance = Glance()
        for entry in self.entries.values():
            if not entry.ran:
                continue
            try:
                entry.sampler.show(glance)
            except Exception as error:  # noqa: BLE001  # as above
                self._failed(entry, error)
        return glance

    def history(self, entries: Iterable[Entry]) -> list[tuple[str, float]]:
        """Return what is worth keeping of entries."""
        kept: list[tuple[str, float]] = []
        for entry in entries:
            try:
                kept.extend(entry.sampler.history())
            except Exception as error:  # noqa: BLE001  # as above
                self._failed(entry, error)
        return kept


def _succeeded(entry: Entry) -> None:
    entry.ran, entry.absent, entry.message = True, False, ""


def describe(error: Exception) -> str:
    """Return one sentence for a person: what failed, on what, why."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read {error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, DogwatchError):
        return str(error)
    return f"not understood: {type(error).__name__}: {error}"[:300]


_SUCCESS = ("node_scrape_collector_success", "gauge", "node_exporter: Whether a collector succeeded.")
_DURATION = (
    "node_scrape_collector_duration_seconds",
    "gauge",
    "node_exporter: Duration of a collector scrape.",
)
_TROUBLE = (
    "dogwatch_collector_trouble",
    "gauge",
    "1 where a collector's newest run failed, was late, or could not read a part.",
)
_COUNTERS = {
    "dogwatch_collector_runs_total": ("runs", "Runs of a collector that were started."),
    "dogwatch_collector_errors_total": ("errors", "Runs that failed, those that were too slow included."),
    "dogwatch_collector_timeouts_total": ("timeouts", "Runs that were given up at their deadline."),
    "dogwatch_collector_skipped_total": (
        "skipped",
        "Ticks at which a collector did not run: it still ran, or time had passed.",
    ),
    "dogwatch_collector_late_total": ("late", "Runs that started later than a tenth of the interval after their tick."),
}
