"""The watch over this process: samples it, keeps what it found, shows it as metrics, findings and events."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from dogwatch.config.part import Configuration, Prepared
from dogwatch.config.section import Fault, Section
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.metrics import Family, series
from dogwatch.core.ticker import Ticker
from dogwatch.core.units import Ratio, Seconds
from dogwatch.core.values import Event
from dogwatch.diagnose import fds, sample, tasks
from dogwatch.diagnose.creation import SiteTracker
from dogwatch.diagnose.decider import Decision, Limits, State, decide
from dogwatch.diagnose.finding import Evidence, Finding
from dogwatch.diagnose.sample import LagMeter, Sample


class SelfWatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Dogwatch watches itself.

    every: time between samples. growth_window: time over which a steady growth is looked for; half of it must have
    passed before anything is said. settle: time after the start that is left out, while caches fill. fd_warn: share of
    the descriptor limit. lag_warn: delay of the event loop that is a finding. track_creation_sites: note where each
    task was created, about 2 µs a task, so that findings and `debug tasks` can say it.
    """

    every: Seconds = 15.0
    growth_window: Seconds = 3600.0
    settle: Seconds = 300.0
    fd_warn: Ratio = 0.8
    lag_warn: Seconds = 0.5
    track_creation_sites: bool = False


def _check(settings: SelfWatchSettings) -> Iterable[Fault]:
    if settings.every < 0.1:
        yield Fault(("every",), "sampling more often than every 100ms costs more than it shows", "write 15s")
    if settings.growth_window < 40 * settings.every:
        yield Fault(("growth_window",), "holds fewer than 40 samples; too few to tell growth from noise")
    if settings.lag_warn <= 0:
        yield Fault(("lag_warn",), "must be more than 0")


SECTION: Section[SelfWatchSettings] = Section(
    key="self_watch",
    type=SelfWatchSettings,
    doc="How Dogwatch watches its own descriptors, tasks, threads, memory, queues and event loop.",
    default=SelfWatchSettings,
    check=_check,
)


class SelfWatch:
    """A Part. Gauges are registered by whoever builds the program: `register("outbox queue", lambda: len(outbox))`."""

    name = "self_watch"

    def __init__(self, *, clock: Clock, bus: Bus) -> None:
        self._clock = clock
        self._bus = bus
        self._gauges: dict[str, Callable[[], float]] = {}
        self._lag = LagMeter()
        self._sites = SiteTracker()
        self._settings: SelfWatchSettings | None = None
        self._task: asyncio.Task[None] | None = None
        self._state = State()
        self._newest: Sample | None = None
        self._samples = self._begun = 0
        self._started_at_s = sample.started_at_s()

    def register(self, name: str, gauge: Callable[[], float]) -> None:
        """Watch a number for steady growth: the depth of a queue, a count of drops. The newest of a name stands."""
        self._gauges[name] = gauge

    def findings(self) -> Sequence[Finding]:
        """Return what is wrong now, longest known first."""
        return sorted(self._state.active.values(), key=lambda finding: finding.since_s)

    def newest(self) -> Sample | None:
        """Return the newest sample, None before the first."""
        return self._newest

    # -- the life of a part

    def prepare(self, configuration: Configuration) -> Prepared:
        return _Change(self, configuration.get(SECTION))

    async def stop(self) -> None:
        task, self._task, self._settings = self._task, None, None
        self._lag.stop()
        self._sites.uninstall()
        if task is not None:
            await cancel_and_wait([task])

    def use(self, settings: SelfWatchSettings) -> asyncio.Task[None] | None:
        """Put settings in force and return the task they replace, for whoever waits for its end."""
        if settings == self._settings:
            return None
        old = self._task
        if old is not None:
            old.cancel()
        if self._settings is not None and settings.growth_window != self._settings.growth_window:
            self._state = msgspec.structs.replace(self._state, series={})  # points are spaced for the old window
        if self._settings is None:
            self._lag.start()
        self._settings = settings
        if settings.track_creation_sites:
            self._sites.install(asyncio.get_running_loop())
        else:
            self._sites.uninstall()
        self._task = asyncio.get_running_loop().create_task(self._run(settings), name="self-watch")
        return old

    async def _run(self, settings: SelfWatchSettings) -> None:
        limits = Limits(
            growth_window=settings.growth_window,
            settle=settings.settle,
            fd_warn=settings.fd_warn,
            lag_warn=settings.lag_warn,
        )
        async for _ in Ticker(settings.every, first_s=min(1.0, settings.every), clock=self._clock):
            self.look(limits)

    def look(self, limits: Limits) -> Decision:
        """Take one sample, decide, and tell what begins and ends."""
        now_s = self._clock.now_s()
        newest = sample.take(
            time_s=now_s, at_s=self._clock.monotonic_s(), lag=self._lag.take(), gauges=dict(self._gauges)
        )
        self._newest = newest
        self._samples += 1
        state, decision = decide(self._state, newest, limits)
        begun = tuple(self._with_evidence(finding) for finding in decision.begun)
        known = {finding.key: finding for finding in begun}
        # Evidence that was gathered when it began stays with the finding; its numbers are the newest.
        active = {
            key: known.get(key) or _keep_details(finding, self._state.active.get(key))
            for key, finding in state.active.items()
        }
        self._state = msgspec.structs.replace(state, active=active)
        self._begun += len(begun)
        for finding in (*begun, *decision.ended):
            self._bus.publish(Event(topic="finding", time_s=now_s, data=finding))
        return Decision(begun=begun, ended=decision.ended)

    def _with_evidence(self, finding: Finding) -> Finding:
        """Add what only a closer look shows: kinds of descriptors, creation sites, allocation sites."""
        more: list[Evidence] = []
        if finding.key in ("fds", "growth:fds"):
            with contextlib.suppress(OSError):  # no descriptor is left to look with: the finding itself says so
                more = [Evidence(what=f"open: {kind}", last=count) for kind, count in fds.count_kinds().most_common(4)]
        elif finding.key.startswith("growth:task:"):
            sites = tasks.count_sites(asyncio.all_tasks(), finding.key.removeprefix("growth:task:"))
            more = [Evidence(what=f"created at {site}", last=count) for site, count in sites.most_common(3)]
        elif finding.key == "growth:tasks" and self._newest is not None:
            kinds = sorted(self._newest.task_kinds.items(), key=lambda item: -item[1])[:4]
            more = [Evidence(what=f"tasks running {kind}", last=count) for kind, count in kinds]
        elif finding.key == "growth:memory" and "tracemalloc" in sys.modules:
            from dogwatch.diagnose.frame import short
            from dogwatch.diagnose.heap import inspect_heap

            sites_used = inspect_heap(top=3).sites
            more = [
                Evidence(what=f"allocated at {short(u.file)}:{u.line}, bytes", last=u.size_bytes) for u in sites_used
            ]
        return msgspec.structs.replace(finding, evidence=(*finding.evidence, *more))

    # -- metrics

    def metrics(self) -> Iterable[Family]:
        """Return the process metrics of every Prometheus client, and our own."""
        times = os.times()
        yield _one("process_open_fds", "gauge", "Open file descriptors.", fds.count_fds())
        yield _one("process_max_fds", "gauge", "Limit of open file descriptors.", sample.fd_limit() or float("inf"))
        yield _one("process_resident_memory_bytes", "gauge", "Resident memory.", sample.resident_bytes())
        yield _one("process_cpu_seconds_total", "counter", "CPU time, user and system.", times.user + times.system)
        yield _one("process_start_time_seconds", "gauge", "Start time since 1970 UTC.", self._started_at_s)
        yield from _gc_families()
        yield _one("dogwatch_self_samples_total", "counter", "Samples the self-watch took.", self._samples)
        yield _one("dogwatch_findings", "gauge", "Findings of the self-watch that stand.", len(self._state.active))
        yield _one("dogwatch_findings_total", "counter", "Findings of the self-watch that ever began.", self._begun)
        yield from self._sample_families(self._newest)

    def _sample_families(self, newest: Sample | None) -> Iterator[Family]:
        """Yield what samples show; before the first one the families, without a series."""
        lags = None if newest is None else {"max": newest.lag.max_s, "p99": newest.lag.p99_s}
        name = "dogwatch_loop_lag_seconds"
        yield _labelled(name, "Delay of the event loop's timers in the newest interval.", "stat", lags)
        threads = [] if newest is None else [("dogwatch_threads", float(newest.threads))]
        yield Family("dogwatch_threads", "gauge", "Threads.", threads)
        tasks = None if newest is None else newest.task_kinds
        yield _labelled("dogwatch_tasks", "Tasks by what they run.", "coroutine", tasks)
        text = "Queue depths and drops that parts registered with the self-watch."
        yield _labelled("dogwatch_gauge", text, "name", None if newest is None else newest.gauges)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float] | None) -> Family:
    return Family(
        name, "gauge", text, [(series(name, {label: key}), float(one)) for key, one in (values or {}).items()]
    )


class _Change:
    """New settings, not yet in force; nothing needs building."""

    def __init__(self, watch: SelfWatch, settings: SelfWatchSettings) -> None:
        self._watch = watch
        self._settings = settings
        self._replaced: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Nothing to open."""

    def swap(self) -> None:
        self._replaced = self._watch.use(self._settings)

    async def finish(self) -> None:
        if self._replaced is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await cancel_and_wait([self._replaced])

    async def discard(self) -> None:
        """Nothing was opened."""


def _keep_details(newest: Finding, before: Finding | None) -> Finding:
    if before is None:
        return newest
    details = before.evidence[len(newest.evidence) :]
    return msgspec.structs.replace(newest, evidence=(*newest.evidence, *details))


def _one(name: str, kind: str, help_: str, value: float) -> Family:
    return Family(name, kind, help_, ((name, float(value)),))


def _gc_families() -> Iterator[Family]:
    stats = gc.get_stats()
    for key, name, help_ in (
        ("collections", "python_gc_collections_total", "Collections of each generation."),
        ("collected", "python_gc_objects_collected_total", "Objects collected."),
        ("uncollectable", "python_gc_objects_uncollectable_total", "Objects found that could not be collected."),
    ):
        rows = [(series(name, {"generation": str(index)}), float(stat[key])) for index, stat in enumerate(stats)]
        yield Family(name, "counter", help_, rows)
