"""Incidents and notices of a backtest: the live decider at the times at which it would do anything."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dogwatch.rules.desk import Setting
from dogwatch.rules.driver import Moment, decide
from dogwatch.rules.incident import Decisions, Incident, Note, Notice, State
from dogwatch.rules.rehearsal.wake import next_due
from dogwatch.rules.remedy.values import Start
from dogwatch.rules.watcher import AlertEdge

# Of each so many are kept, the newest: a rule that fires all day must not fill the memory.
MOST_KEPT = 200_000


class Kept:
    """What a backtest tells, as far as it is kept. dropped: what was too much, by kind."""

    def __init__(self) -> None:
        self.incidents: dict[int, Incident] = {}
        self.notes: list[Note] = []
        self.notices: list[tuple[float, Notice]] = []
        self.starts: list[Start] = []
        self.fired: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def take(self, decisions: Decisions, state: State, now_s: float) -> None:
        for incident in (*state.incidents.values(), *decisions.ended):
            self.incidents[incident.number] = incident
        self.notes += decisions.notes
        self.starts += decisions.starts
        self.notices += ((now_s, notice) for notice in decisions.notices)
        for note in decisions.notes:
            self.kinds[note.kind] += 1
            if note.kind in ("opened", "joined"):
                self.fired[note.rule] += 1
        self._bound()

    def _bound(self) -> None:
        every: tuple[tuple[str, list[Any]], ...] = (
            ("notes", self.notes),
            ("notices", self.notices),
            ("starts", self.starts),
        )
        for name, held in every:
            if len(held) > 2 * MOST_KEPT:
                self.dropped[name] += len(held) - MOST_KEPT
                del held[: len(held) - MOST_KEPT]
        if len(self.incidents) > 2 * MOST_KEPT:
            over = [number for number, one in self.incidents.items() if one.ended_s is not None]
            for number in over[: len(self.incidents) - MOST_KEPT]:
                del self.incidents[number]
                self.dropped["incidents"] += 1


class Desk:
    """Takes what rules found, in the order of time."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.state = State()
        self.kept = Kept()
        self._ticked_s = float("-inf")

    def take(self, edges: Sequence[AlertEdge], ticks: list[float]) -> None:
        """Decide a time: its ticks, and what rules found in it, by time."""
        changes = self._changes(ticks)
        at = 0
        while at < len(edges):
            time_s = edges[at].time_s
            end = at
            while end < len(edges) and edges[end].time_s == time_s:
                end += 1
            self._pass(ticks, changes, bisect_left(ticks, time_s))
            self._decide(time_s, edges[at:end])
            # The ticks before it are past, whether they did anything or not.
            if place := bisect_right(ticks, time_s):
                self._ticked_s = ticks[place - 1]
            at = end
        self._pass(ticks, changes, len(ticks))

    def _changes(self, ticks: list[float]) -> list[float]:
        """Return the first tick from each begin and end of maintenance on."""
        if not ticks or not self._setting.calendar.windows:
            return []
        moments = self._setting.calendar.changes(ticks[0] - 86_400.0, ticks[-1] + 1.0)
        places = {bisect_left(ticks, moment) for moment in moments if moment > ticks[0] - 10.0}
        return sorted({ticks[0], *(ticks[place] for place in places if place < len(ticks))})

    def _pass(self, ticks: list[float], changes: list[float], stop: int) -> None:
        """Make the ticks before a place that may change something."""
        while True:
            place = bisect_right(ticks, self._ticked_s)
            due_s = next_due(self._setting, self.state)
            following = len(ticks)
            if due_s is not None:
                following = max(place, bisect_left(ticks, due_s))
            change = bisect_right(changes, self._ticked_s)
            if change < len(changes) and self._busy:
                following = min(following, bisect_left(ticks, changes[change]))
            if following >= stop:
                return
            self._ticked_s = ticks[following]
            self._decide(ticks[following], ())

    @property
    def _busy(self) -> bool:
        return bool(self.state.alerts or self.state.incidents or self.state.queue or self.state.silences)

    def _decide(self, time_s: float, edges: Sequence[AlertEdge]) -> None:
        self.state, decisions = decide(self._setting, self.state, [Moment(time_s=time_s, edges=tuple(edges))])
        self.kept.take(decisions, self.state, time_s)
