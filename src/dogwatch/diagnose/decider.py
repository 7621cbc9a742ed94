"""Decides from samples of this process what is wrong with it. Pure: (state, sample) → (state, what changed)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from dogwatch.core.units import Ratio, Seconds, format_duration, format_size
from dogwatch.diagnose.finding import Evidence, Finding
from dogwatch.diagnose.growth import Growth, Threshold, judge
from dogwatch.diagnose.sample import OTHER, Sample

# Points kept of each series, and the series kept: what the watch itself may grow to.
MAX_POINTS = 240
MAX_SERIES = 200
# A finding ends when it was not found this many times in a row: no flapping at the edge.
CLEAR_AFTER = 5
# Descriptors must fall this far below the warning before it ends.
HYSTERESIS = 0.05

_MIB = 2**20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When something is a finding; see SelfWatchSettings for the meaning of each."""

    growth_window: Seconds = 3600.0
    settle: Seconds = 300.0
    fd_warn: Ratio = 0.8
    lag_warn: Seconds = 0.5


# What growth over the window is worth a finding, by kind of series.
THRESHOLDS: Mapping[str, Threshold] = {
    "fds": Threshold(absolute=16),
    "threads": Threshold(absolute=6),
    "memory": Threshold(absolute=16 * _MIB, ratio=0.2),
    "tasks": Threshold(absolute=24),
    "task": Threshold(absolute=12),
    "gauge": Threshold(absolute=24),
}
_NOUNS = {"fds": "open descriptors", "threads": "threads", "memory": "resident memory", "tasks": "tasks"}

Series = tuple[tuple[float, float], ...]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the decider remembers. missed: how often in a row an active finding was not found."""

    began_s: float | None = None
    series: Mapping[str, Series] = {}
    active: Mapping[str, Finding] = {}
    missed: Mapping[str, int] = {}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """begun: new findings. ended: those that are over."""

    begun: tuple[Finding, ...] = ()
    ended: tuple[Finding, ...] = ()


def decide(state: State, sample: Sample, limits: Limits) -> tuple[State, Decision]:
    """Take one sample in; return the new state and what begins and ends with it."""
    began_s = sample.at_s if state.began_s is None else state.began_s
    series = state.series
    if sample.at_s - began_s >= limits.settle:  # filling caches at the start is no leak
        series = _extended(state.series, sample, limits)
    found = {finding.key: finding for finding in _found(series, sample, limits, state)}
    active: dict[str, Finding] = {}
    missed: dict[str, int] = {}
    ended = []
    for key, old in state.active.items():
        if key in found:
            active[key] = msgspec.structs.replace(found[key], since_s=old.since_s)
        elif state.missed.get(key, 0) + 1 < CLEAR_AFTER:
            active[key], missed[key] = old, state.missed.get(key, 0) + 1
        else:
            ended.append(msgspec.structs.replace(old, active=False))
    begun = [
        msgspec.structs.replace(finding, since_s=sample.time_s) for key, finding in found.items() if key not in active
    ]
    active |= {finding.key: finding for finding in begun}
    after = State(began_s=began_s, series=series, active=active, missed=missed)
    return after, Decision(begun=tuple(begun), ended=tuple(ended))


def _values(sample: Sample) -> Iterator[tuple[str, float]]:
    yield "fds", sample.fds
    yield "threads", sample.threads
    yield "memory", sample.resident_bytes
    yield "tasks", sample.tasks
    for kind, count in sample.task_kinds.items():
        if kind != OTHER:
            yield f"task:{kind}", count
    for name, value in sample.gauges.items():
        yield f"gauge:{name}", value


def _extended(series: Mapping[str, Series], sample: Sample, limits: Limits) -> dict[str, Series]:
    """Add the sample's values, drop what is older than the window, keep at most MAX_POINTS of each."""
    oldest_s = sample.at_s - limits.growth_window
    step_s = limits.growth_window / MAX_POINTS
    after: dict[str, Series] = {}
    for name, value in _values(sample):
        if len(after) >= MAX_SERIES:
            break
        points = series.get(name, ())
        if points and sample.at_s - points[-1][0] < step_s * 0.99:
            # Too soon for a point of its own: the lower of the two stays, for floors are what counts.
            last_s, last = points[-1]
            after[name] = (*points[:-1], (last_s, min(last, value)))
        else:
            start = next((i for i, point in enumerate(points) if point[0] >= oldest_s), len(points))
            after[name] = (*points[start:], (sample.at_s, value))
    return after


def _found(series: Mapping[str, Series], sample: Sample, limits: Limits, state: State) -> Iterator[Finding]:
    yield from _near_limit(sample, limits, "fds" in state.active)
    yield from _lagging(sample, limits)
    grown: dict[str, Growth] = {}
    for name, points in series.items():
        threshold = THRESHOLDS[name.split(":", 1)[0]]
        growth = judge(points, min_span_s=limits.growth_window * 0.5, threshold=threshold)
        if growth is not None:
            grown[name] = growth
    kinds = [name.removeprefix("task:") for name in grown if name.startswith("task:")]
    for name, growth in grown.items():
        if name == "tasks" and kinds:
            continue  # which kind of task it is says the same and more
        yield _growth_finding(name, growth, kinds)


def _near_limit(sample: Sample, limits: Limits, warned: bool) -> Iterator[Finding]:
    ratio = sample.fds / sample.fd_limit if sample.fd_limit else 0.0
    if sample.fd_limit and ratio >= limits.fd_warn - (HYSTERESIS if warned else 0.0):
        yield Finding(
            key="fds",
            symptom=f"{sample.fds} of {sample.fd_limit} descriptors are open ({ratio:.0%})",
            evidence=(Evidence(what="open descriptors", last=sample.fds), Evidence(what="limit", last=sample.fd_limit)),
        )


def _lagging(sample: Sample, limits: Limits) -> Iterator[Finding]:
    if sample.lag.max_s >= limits.lag_warn:
        yield Finding(
            key="lag",
            symptom=f"the event loop was held up for {format_duration(sample.lag.max_s)}",
            evidence=(
                Evidence(what="longest delay of a timer, s", last=round(sample.lag.max_s, 4)),
                Evidence(what="p99 of the interval, s", last=round(sample.lag.p99_s, 4)),
            ),
            cause="something computes, or waits without await, in the loop's thread; profile it",
        )


def _growth_finding(name: str, growth: Growth, kinds: list[str]) -> Finding:
    what, _, which = name.partition(":")
    noun = f"tasks running {which}" if what == "task" else which if what == "gauge" else _NOUNS[what]
    shown = format_size if what == "memory" else _plain
    cause = ""
    if what in ("fds", "memory", "tasks") and kinds:
        cause = f"tasks running {', '.join(kinds)} grow, too, and may hold it"
    elif what == "task":
        cause = "they are started faster than they end, or never end"
    return Finding(
        key=f"growth:{name}",
        symptom=f"{noun} grew steadily from {shown(growth.first)} to {shown(growth.last)} "
        f"in {format_duration(growth.span_s)}",
        evidence=(
            Evidence(
                what=noun,
                first=growth.first,
                last=growth.last,
                per_hour=round(growth.per_hour, 3),
                span_s=round(growth.span_s, 1),
            ),
        ),
        cause=cause,
    )


def _plain(value: float) -> str:
    return f"{value:g}"
