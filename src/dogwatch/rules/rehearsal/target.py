"""One target of a backtest: its rules over its signals, chunk by chunk, with what is remembered in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dogwatch.rules.decider import Held
from dogwatch.rules.rehearsal.beside import Alerts, Hosts
from dogwatch.rules.rehearsal.columns import Track, Turns, Words
from dogwatch.rules.rehearsal.course import Chunk, Course, down_edges
from dogwatch.rules.rehearsal.group import Group
from dogwatch.rules.rehearsal.lines import Flags, Line, line_of
from dogwatch.rules.rehearsal.spans import Series
from dogwatch.rules.spec import DOWN_RULE
from dogwatch.rules.watcher import Alert, AlertEdge, down_alert
from dogwatch.rules.windows import MAX_SAMPLES


class Beside:
    """What rules read beside a target's own results."""

    def __init__(self, hosts: Hosts, alerts: Alerts) -> None:
        self.hosts, self.alerts = hosts, alerts


class Place:
    """Rules over one thing that is watched: those of it alone, and groups that it is a member of."""

    def __init__(
        self, source: str, target: str, labels: Mapping[str, str], courses: Sequence[Course], groups: Sequence[Group]
    ) -> None:
        self.target, self.labels = target, dict(labels)
        self.courses = [one for one in courses if one.rule.takes(source, target, labels)]
        self.groups = [one for one in groups if one.rule.takes(source, target, labels)]
        self._held: dict[str, Held] = {}
        self.out: dict[str, Alert] = {}

    @property
    def longest_s(self) -> float:
        return max((0.0, *(one.longest_s for one in self.courses), *(one.longest_s for one in self.groups)))

    def go(
        self, find: Callable[[str], Series | Flags], chunk: Chunk, met: frozenset[str] = frozenset()
    ) -> list[AlertEdge]:
        """Return what began and ended in a chunk, each rule's in the order of time. find: the samples of a value. met:
        the name for when it was first heard of, where that is in this chunk.
        """
        edges: list[AlertEdge] = []
        known: dict[Any, Any] = {}
        for course in self.courses:
            name = course.rule.name
            line: Series | Line = line_of(course.rule.paths | met, find, chunk.begin_s, known)
            held, alert, more = course.run(
                line,
                chunk,
                self.target,
                self.labels,
                (self._held.pop(name, None), self.out.pop(name, None)),
                met=bool(met),
            )
            edges += more
            if held is not None:
                self._held[name] = held
            if alert is not None:
                self.out[name] = alert
        for group in self.groups:
            line = line_of(group.rule.paths | met, find, chunk.begin_s, known)
            group.add(self.target, self.labels, line, chunk, met=bool(met))
        return edges


class Post:
    """Stands before one target of probes. words: of its tracks. longest_s: how far back rules look."""

    def __init__(
        self, target: str, labels: Mapping[str, str], courses: Sequence[Course], groups: Sequence[Group]
    ) -> None:
        self.target = target
        self._place = Place("probe", target, labels, courses, groups)
        self.words = Words()
        self._longest_s = self._place.longest_s
        self._before = Track()
        # Of the status alone, where it was told without results, too; None where it was not.
        self._statuses: Track | None = None

    def warm(self, track: Track, chunk: Chunk) -> None:
        """Remember what was before the first chunk, so that windows are full."""
        own, statuses = self._series(track)
        self._remember(own, statuses, chunk)

    def take(self, track: Track, chunk: Chunk, beside: Beside) -> list[AlertEdge]:
        """Return what began and ended in a chunk, each rule's in the order of time."""
        place = self._place
        turns = track.turns or Turns(track.time, track.status, track.reasons, track.words)
        alert, edges = down_edges(turns, place.out.pop(DOWN_RULE, None), self._down)
        if alert is not None:
            place.out[DOWN_RULE] = alert
        own, statuses = self._series(track)
        host = place.labels.get("host", "")

        def find(path: str) -> Series | Flags:
            if path.startswith("host."):
                return beside.hosts.of(host, path)
            if path.startswith("alert."):
                return beside.alerts.of(self.target, host, path)
            return statuses if path == "probe.status" else own

        edges += place.go(find, chunk)
        own.rest()
        statuses.rest()
        self._remember(own, statuses, chunk)
        return edges

    def _series(self, track: Track) -> tuple[Series, Series]:
        own = Series(self._before, track)
        if self._statuses is None and not track.quiet:
            return own, own
        return own, Series(self._statuses or self._before, track.statuses())

    def _remember(self, own: Series, statuses: Series, chunk: Chunk) -> None:
        self._before = self._tail(own, chunk)
        if statuses is own:
            return
        after = self._tail(statuses, chunk)
        # Apart as long as there is anything in it that the results do not have.
        apart = not np.array_equal(after.time, self._before.time) or not np.array_equal(
            after.status, self._before.status
        )  # fmt: skip
        self._statuses = after if apart else None

    def _down(self, time_s: float, reason: str) -> Alert:
        return down_alert(self.target, time_s, self._place.labels, reason)

    def _tail(self, series: Series, chunk: Chunk) -> Track:
        count = len(series)
        start = int(np.searchsorted(series.time, chunk.end_s - self._longest_s, side="right"))
        return series.tail(max(0, min(start, count - 1), count - MAX_SAMPLES - 1))
