"""One target of a backtest: its rules over its signals, chunk by chunk, with what is remembered in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dogwatch.core.values import Signal, Value
from dogwatch.rules.decider import Held
from dogwatch.rules.names import by_time
from dogwatch.rules.rehearsal.columns import STATUS_WORDS, Track, Words
from dogwatch.rules.rehearsal.course import Chunk, Course, down_edges
from dogwatch.rules.rehearsal.spans import Series
from dogwatch.rules.spec import DOWN_RULE
from dogwatch.rules.watcher import Alert, AlertEdge, Watcher, down_alert
from dogwatch.rules.windows import MAX_SAMPLES


class Post:
    """Stands before one target. courses: of the rules that look at it. words: of its tracks. series: of the chunk, for
    rules over several targets (keeps); None where it is signal by signal. longest_s: how far back they all look.
    """

    def __init__(
        self,
        target: str,
        labels: dict[str, str],
        courses: Sequence[Course],
        longest_s: float = 0.0,
        *,
        keeps: bool = False,
    ) -> None:
        self.target, self.labels = target, labels
        self.courses = [one for one in courses if one.rule.takes("probe", target, labels)]
        self.words = Words()
        self._longest_s = max((longest_s, *(course.longest_s for course in self.courses)))
        self._keeps = keeps
        self.series: Series | None = None
        self.signals: Sequence[Signal] = ()
        self.plain = False
        self._before = Track()
        self._held: dict[str, Held] = {}
        self._out: dict[str, Alert] = {}
        # Signal by signal, as long as something is remembered that columns cannot hold.
        self._watcher: Watcher | None = None
        self._plain_s = float("-inf")

    def warm(self, track: Track, chunk: Chunk) -> None:
        """Remember what was before the first chunk, so that windows are full. What came without a result is not."""
        self._before = self._tail(Series(self._before, track), chunk)

    def take(self, track: Track, chunk: Chunk) -> list[AlertEdge]:
        """Return what began and ended in a chunk, each rule's in the order of time."""
        self.plain = track.plain or self._watcher is not None
        if self.plain:
            return self._plainly(track, chunk)
        series = Series(self._before, track)
        # All of a chunk's are much: only where a rule over several targets looks at them together.
        self.series = series if self._keeps else None
        self.signals = ()
        alert, edges = down_edges(series, self._out.pop(DOWN_RULE, None), self._down)
        if alert is not None:
            self._out[DOWN_RULE] = alert
        for course in self.courses:
            name = course.rule.name
            held, alert, more = course.run(
                series, chunk, self.target, self.labels, self._held.pop(name, None), self._out.pop(name, None)
            )
            edges += more
            if held is not None:
                self._held[name] = held
            if alert is not None:
                self._out[name] = alert
        self._before = self._tail(series, chunk)
        return edges

    def _down(self, time_s: float, reason: str) -> Alert:
        return down_alert(self.target, time_s, self.labels, reason)

    def _tail(self, series: Series, chunk: Chunk) -> Track:
        count = len(series)
        start = int(np.searchsorted(series.time, chunk.end_s - self._longest_s, side="right"))
        return series.tail(max(0, min(start, count - 1), count - MAX_SAMPLES - 1))

    # Signal by signal.

    def _plainly(self, track: Track, chunk: Chunk) -> list[AlertEdge]:
        watcher = self._watcher or self._begin_plain(chunk)
        signals: Sequence[Signal] = [track.signal(row, self.target, self.labels) for row in range(len(track))]
        if track.extra:
            signals = by_time([*signals, *track.extra])
        if track.plain and signals:
            self._plain_s = signals[-1].time_s
        edges = list(walk(watcher, signals, chunk.ticks))
        series = Series(self._before, track)
        self.series, self.signals = (series, signals) if self._keeps else (None, ())
        self._before = self._tail(series, chunk)
        if chunk.end_s > self._plain_s + self._longest_s and self._fits(watcher):
            self._end_plain(watcher)
        return edges

    def _begin_plain(self, chunk: Chunk) -> Watcher:
        watcher = self._watcher = Watcher([course.rule for course in self.courses])
        watcher.know("probe", self.target, self.labels, chunk.begin_s)
        for row in range(len(self._before)):
            watcher.gauge.take(self._before.signal(row, self.target, self.labels))
        watcher.held = {(name, self.target): held for name, held in self._held.items()}
        watcher.out = {(name, self.target): alert for name, alert in self._out.items()}
        return watcher

    def _newest(self, watcher: Watcher) -> dict[str, Value]:
        return watcher.gauge.seen["probe", self.target].newest

    def _fits(self, watcher: Watcher) -> bool:
        """Return whether columns can hold what is remembered: the newest row, and at most another status."""
        return len(self._before) > 0 or not self._newest(watcher)

    def _end_plain(self, watcher: Watcher) -> None:
        status = self._newest(watcher).get("probe.status")
        if len(self._before) and status is not None:
            self._before.status[-1] = STATUS_WORDS.index(str(status))
        self._held = {name: held for (name, _target), held in watcher.held.items()}
        self._out = {name: alert for (name, _target), alert in watcher.out.items()}
        self._watcher = None


def walk(watcher: Watcher, signals: Sequence[Signal] | Iterator[Signal], ticks: Sequence[float]) -> Iterator[AlertEdge]:
    """Take signals by time, and ticks between them; a tick comes before a signal of its time."""
    at = 0
    for signal in signals:
        while at < len(ticks) and ticks[at] <= signal.time_s:
            yield from watcher.tick(ticks[at])
            at += 1
        # Nothing is awaited here: what an action would have brought about is not in the recording.
        yield from (edge for edge in watcher.take(signal) if isinstance(edge, AlertEdge))
    for tick_s in ticks[at:]:
        yield from watcher.tick(tick_s)
