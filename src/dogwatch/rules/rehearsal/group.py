"""A rule over several targets, or over hosts: signal by signal, but only when something may come of it."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dogwatch.core.values import Signal
from dogwatch.rules.rehearsal.course import Chunk, Ranges
from dogwatch.rules.rehearsal.spans import Series
from dogwatch.rules.rehearsal.target import Post, walk
from dogwatch.rules.rehearsal.truth import YES, Unsupported
from dogwatch.rules.spec import DOWN_RULE, Rule, reads
from dogwatch.rules.watcher import AlertEdge, Watcher

# So long at least it goes on signal by signal.
_SLOT_S = 900.0


class Group:
    """One rule. whole: it must see every signal."""

    def __init__(self, rule: Rule, posts: Mapping[str, Post]) -> None:
        self.rule = rule
        self.paths = {path for when in rule.whens for path in when.newest.values()}
        self.paths |= {over.path for when in rule.whens for over in when.over.values()}
        self.longest_s = max(when.longest_s for when in rule.whens)
        self.hosts = any(reads(when, "host.") for when in rule.whens)
        self.alerts = any(reads(when, "alert.") for when in rule.whens)
        self.posts = {
            name: post for name, post in posts.items() if rule.takes("probe", name, post.labels)
        }  # fmt: skip
        self._ranges: Ranges | None = None
        if rule.source == "probe" and not self.hosts and not self.alerts:
            try:
                self._ranges = Ranges(rule.when)
            except Unsupported:
                self._ranges = None
        self._watcher: Watcher | None = None
        self._begun = False

    def close(self, chunk: Chunk, hosts: Sequence[Signal]) -> list[AlertEdge]:
        """Return what began and ended in a chunk. hosts: signals of hosts and of alerts, by time."""
        edges: list[AlertEdge] = []
        slots = self._slots(chunk)
        begin_s, at = chunk.begin_s, 0
        while begin_s < chunk.end_s:
            end_s = min((begin_s // _SLOT_S + 1) * _SLOT_S, chunk.end_s)
            if slots is None or begin_s // _SLOT_S in slots or self._remembers:
                watcher = self._watcher or self._begin(begin_s)
                low, high = bisect_left(chunk.ticks, begin_s), bisect_left(chunk.ticks, end_s)
                until = bisect_left(hosts, end_s, key=lambda signal: signal.time_s)
                signals = self._signals(begin_s, end_s, hosts[at:until])
                found = walk(watcher, signals, chunk.ticks[low:high])
                edges += (edge for edge in found if edge.alert.rule != DOWN_RULE)
                at = until
            else:
                self._watcher = None
            begin_s = end_s
        return edges

    @property
    def _remembers(self) -> bool:
        return self._watcher is not None and bool(
            self._watcher.held or any(key[0] == self.rule.name for key in self._watcher.out)
        )  # fmt: skip

    def _slots(self, chunk: Chunk) -> set[float] | None:
        """Return the slots in which a member may say yes; None for all."""
        if self._ranges is None:
            return None
        found: set[float] = set()
        for post in self.posts.values():
            series = post.series
            if series is None or post.plain:
                return None
            maybe = np.flatnonzero((self._ranges.masks(series, chunk) & YES) != 0)
            if not len(maybe):
                continue
            begins = np.concatenate(([chunk.begin_s], series.time[series.first :]))[maybe]
            ends = np.concatenate((series.time[series.first :], [chunk.end_s]))[maybe]
            low, high = begins // _SLOT_S, ends // _SLOT_S
            found.update(np.unique(low).tolist())
            for one, two in zip(low[high > low].tolist(), high[high > low].tolist(), strict=True):
                found.update(float(slot) for slot in range(int(one), int(two) + 1))
        return found

    def _begin(self, now_s: float) -> Watcher:
        """Return a watcher that knows what it would know by now."""
        watcher = self._watcher = Watcher([self.rule])
        last_s = now_s
        for name, post in self.posts.items():
            watcher.know("probe", name, post.labels, now_s)
            series = post.series
            if series is None:
                continue
            until = int(np.searchsorted(series.time, now_s, side="left"))
            start = int(np.searchsorted(series.time, now_s - self.longest_s, side="right"))
            for row in range(max(0, min(start, until - 1)), until):
                watcher.gauge.take(_signal(series, row, name, post.labels, self.paths))
        if self._begun:
            watcher.settle(last_s)
        self._begun = True
        return watcher

    def _signals(self, begin_s: float, end_s: float, hosts: Sequence[Signal]) -> Iterator[Signal]:
        parts = [self._of(name, post, begin_s, end_s) for name, post in self.posts.items()]
        if self.hosts or self.alerts:
            parts.append(iter(hosts))
        return heapq.merge(*parts, key=lambda signal: (signal.time_s, signal.target, signal.source))

    def _of(self, name: str, post: Post, begin_s: float, end_s: float) -> Iterator[Signal]:
        if post.plain:
            yield from (signal for signal in post.signals if begin_s <= signal.time_s < end_s)
            return
        series = post.series
        if series is None:
            return
        low, high = np.searchsorted(series.time, (begin_s, end_s))
        for row in range(max(int(low), series.first), int(high)):
            yield _signal(series, row, name, post.labels, self.paths)


def _signal(series: Series, row: int, target: str, labels: Mapping[str, str], paths: set[str]) -> Signal:
    values = {path: series.value(path, row) for path in (*paths, "probe.status") if path.startswith("probe.")}
    return Signal(source="probe", target=target, time_s=float(series.time[row]), values=values, labels=labels)
