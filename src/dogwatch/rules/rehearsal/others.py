"""Alerts of others in a backtest: edges for the decider of incidents, and signals for rules that read them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from dogwatch.core.values import Signal
from dogwatch.rules.board import Board
from dogwatch.rules.outside.firing import Firing
from dogwatch.rules.rehearsal.course import Chunk
from dogwatch.rules.spec import Rule
from dogwatch.rules.watcher import Alert, AlertEdge, Key, Watcher


class Others:
    """Goes through what others said, in the order of time. What was out before the begin is told at the begin."""

    def __init__(self) -> None:
        self._moments: list[tuple[float, Key, bool, Alert]] = []
        self._board = Board()
        self._out: set[Key] = set()

    def know(self, firings: Iterable[Firing]) -> None:
        for one in firings:
            self._moments.append((one.begun_s, one.alert.key, True, one.alert))
            if one.ended_s is not None:
                self._moments.append((one.ended_s, one.alert.key, False, one.alert))
        # At one time an end comes before the next begin of the same alert.
        self._moments.sort(key=lambda moment: moment[:3], reverse=True)

    def take(self, chunk: Chunk) -> tuple[list[AlertEdge], list[Signal]]:
        """Return what began and ended before the end of a chunk."""
        edges: list[AlertEdge] = []
        signals: list[Signal] = []
        while self._moments and self._moments[-1][0] < chunk.end_s:
            moment_s, key, firing, alert = self._moments.pop()
            # To the millisecond, as live.
            time_s = max(round(moment_s, 3), chunk.begin_s)
            if firing is not (key in self._out):
                (self._out.add if firing else self._out.discard)(key)
                edges.append(AlertEdge(time_s=time_s, fired=firing, alert=alert))
            for target in alert.targets:
                signal = self._board.tell(target, *key, alert.labels, firing=firing, now_s=time_s)
                if signal is not None:
                    signals.append(signal)
        return edges, signals


class Heard:
    """Rules that read nothing but alerts of others: these are few, and so are the times at which they are asked."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._watcher = Watcher(rules)

    def take(self, signals: Sequence[Signal], chunk: Chunk) -> list[AlertEdge]:
        """Return what begins and ends in a chunk by signals of alerts, in the order of time."""
        edges: list[AlertEdge] = []
        if self._watcher.gauge.rules:
            at = 0
            for time_s, together in groupby(signals, key=attrgetter("time_s")):
                at = self._pass(chunk.ticks, at, bisect_right(chunk.ticks, time_s), edges)
                edges += (edge for edge in self._watcher.hear(list(together)) if isinstance(edge, AlertEdge))
            self._pass(chunk.ticks, at, len(chunk.ticks), edges)
        return edges

    def _pass(self, ticks: Sequence[float], at: int, stop: int, edges: list[AlertEdge]) -> int:
        """Make the ticks up to a place, as long as a condition holds: without that they change nothing."""
        while at < stop and self._watcher.held:
            edges += self._watcher.tick(ticks[at])
            at += 1
        return stop
