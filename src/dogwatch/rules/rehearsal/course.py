"""One rule over one target's signals of a time: the answers that change anything, found in columns, and what follows.

The decider of single answers (`rules.decider.step`) decides, at the very times at which it would be asked live; what
is left out are answers that leave its state as it is. The test compares both on random histories.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from dogwatch.rules.decider import Edge, Held, Truth, step
from dogwatch.rules.gauge import judge
from dogwatch.rules.rehearsal.columns import Turns
from dogwatch.rules.rehearsal.lines import Line
from dogwatch.rules.rehearsal.spans import Moved, Places, Rows, Series
from dogwatch.rules.rehearsal.truth import ANY, NO, UNKNOWN, YES, Leaf, Mask, Term, Unsupported, compile_ranges, flipped
from dogwatch.rules.spec import Rule
from dogwatch.rules.watcher import Alert, AlertEdge, alert_of
from dogwatch.rules.when import When

_TRUTHS = {NO: Truth.NO, YES: Truth.YES, UNKNOWN: Truth.UNKNOWN}
# What adding up times may be off by.
_ROUNDING_S = 0.01


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A time, begin_s <= t < end_s, and the ticks in it."""

    begin_s: float
    end_s: float
    ticks: list[float]


class Course:
    """A rule that is asked of single targets."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.longest_s = max(when.longest_s for when in rule.whens)
        # Conditions over time change without a signal: they are asked at every tick.
        self.ticks = rule.over
        self._when = Ranges(rule.when)
        self._resolve = Ranges(rule.resolve) if rule.resolve is not None else None

    def run(
        self,
        series: Series | Line,
        chunk: Chunk,
        target: str,
        labels: Mapping[str, str],
        before: tuple[Held | None, Alert | None],
        *,
        met: bool = False,
    ) -> tuple[Held | None, Alert | None, list[AlertEdge]]:
        """Return the state and the alert that is out after the time, and what began and ended in it. before: both
        before it. met: the target is there from its first signal on.
        """
        held, alert = before
        masks = self._when.masks(series, chunk)
        if met:
            masks[0] = NO
        starts = self._starts(series, chunk, masks)
        if held is None and not len(starts):
            return None, alert, []
        return _Walk(self, series, chunk, target, labels, masks, starts).run(held, alert)

    def _starts(self, series: Series | Line, chunk: Chunk, masks: Mask) -> npt.NDArray[np.int64]:
        """Return the places at which the condition may begin to hold for long enough."""
        maybe = (masks & YES) != 0
        if not maybe.any():
            return np.empty(0, np.int64)
        if self.rule.spec.for_ <= _ROUNDING_S:
            return np.flatnonzero(maybe)
        open_ = masks != NO
        edges = np.diff(np.concatenate(([0], open_.view(np.int8), [0])))
        begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        times = np.append(series.places(chunk.begin_s, chunk.end_s).begin_s, np.inf)
        long = times[ends] - times[begins] >= self.rule.spec.for_ - _ROUNDING_S
        places = np.flatnonzero(open_)[np.repeat(long, ends - begins)]
        starts: npt.NDArray[np.int64] = places[maybe[places]]
        return starts

    def firing(self, series: Series | Line, chunk: Chunk, masks: Mask) -> Mask:
        """Return what is asked while the alert is out: that it goes on."""
        if self._resolve is None:
            return masks
        going: Mask = flipped(self._resolve.masks(series, chunk))
        return going


class Ranges:
    """A condition in columns. Where only the real evaluation understands it, it can say anything anywhere."""

    def __init__(self, when: When) -> None:
        self.when = when
        self._masks: Callable[[Leaf, int], Mask] | None = None
        with contextlib.suppress(Unsupported):
            self._masks = compile_ranges(when.tree, when.kinds)

    @property
    def vague(self) -> bool:
        return self._masks is None

    def masks(self, series: Series | Line, chunk: Chunk, *, fully: bool = False) -> Mask:
        """Return what it can say from each signal to the next; first from the begin of the time on.

        Stretches in which it surely does not hold are not looked at more closely. fully: nor are others in which it
        surely says one thing, but all that are open.
        """
        places = series.places(chunk.begin_s, chunk.end_s)
        if self._masks is None:
            return np.full(len(places.begin_s), ANY, np.uint8)
        if places.parts is None:
            return self._closely(series, places, None).copy()
        parts = places.parts
        found = self._masks(series.stretches(self.when, parts).__getitem__, len(parts.first))
        masks = np.repeat(found, parts.last - parts.first)
        if len(masks) < len(places.begin_s):
            # Without rows before, nothing is known of the first places.
            masks = np.concatenate((np.full(len(places.begin_s) - len(masks), ANY, np.uint8), masks))
        near = np.flatnonzero((masks & (masks - 1)) if fully else masks & YES)
        if len(near):
            masks[near] = self._closely(series, places, near)
        return masks

    def _closely(self, series: Series | Line, places: Places, some_of: npt.NDArray[np.int64] | None) -> Mask:
        assert self._masks is not None
        begin, end, row = places.begin_s, places.end_s, places.row
        if some_of is not None:
            begin, end, row = begin[some_of], end[some_of], row[some_of]
        rows = Rows(row, begin, end)
        masks = self._masks(self._leaf(series, rows), len(row))
        if any(over.function == "quantile" for over in self.when.over.values()):
            vague = np.flatnonzero((masks & (masks - 1)) != 0)
            if len(vague):
                some = Rows(rows.row[vague], begin[vague], end[vague])
                masks = masks.copy()
                masks[vague] = self._masks(self._leaf(series, some, sharp=True), len(vague))
        return masks

    def _leaf(self, series: Series | Line, rows: Rows, *, sharp: bool = False) -> Leaf:
        when, known = self.when, dict[str, Term]()

        def leaf(name: str) -> Term:
            if name not in known:
                known[name] = (
                    series.newest(when.newest[name], when.kinds[name], rows)
                    if name in when.newest
                    else series.over(when.over[name], rows, sharp=sharp)
                )
            return known[name]

        return leaf


class _Walk:
    """Goes from one answer that matters to the next. row: of the next signal. tick: place of the next tick."""

    def __init__(
        self,
        course: Course,
        series: Series | Line,
        chunk: Chunk,
        target: str,
        labels: Mapping[str, str],
        masks: Mask,
        starts: npt.NDArray[np.int64],
    ) -> None:
        self.course, self.series, self.chunk, self.masks, self.starts = course, series, chunk, masks, starts
        self.rule, self.target, self.labels = course.rule, target, labels
        self.key = (self.rule.name, target)
        self.times: list[float] = series.time[series.first :].tolist()
        self.ticks = chunk.ticks
        self.row, self.tick = 0, 0
        self._firing: Mask | None = None
        self._breaks: npt.NDArray[np.int64] | None = None
        self._moved: Moved = {}

    def run(self, held: Held | None, alert: Alert | None) -> tuple[Held | None, Alert | None, list[AlertEdge]]:
        edges: list[AlertEdge] = []
        spec = self.rule.spec
        while held is not None or self._to_start():
            now = self._next(asked=held is not None or self.course.ticks)
            if now is None:
                break
            now_s, row = now
            truth = self._truth(held, row, now_s)
            held, edge = step(spec, held, truth, now_s)
            if edge is Edge.FIRED and held is not None:
                alert = self._alert(held, row, now_s)
                edges.append(AlertEdge(time_s=now_s, fired=True, alert=alert))
            elif edge is Edge.RESOLVED and alert is not None:
                edges.append(AlertEdge(time_s=now_s, fired=False, alert=alert))
                alert = None
            if held is not None and held.firing and truth is Truth.YES and held.ended_s is None:
                held = self._skip(held, row, now_s)
        return held, alert, edges

    def _to_start(self) -> bool:
        """Go to the next place at which it may begin; return whether there is one."""
        # Place p is the time from signal p - 1 on; place 0 is before the first signal.
        here = self.row
        at = int(np.searchsorted(self.starts, here if self.course.ticks else here + 1))
        if at >= len(self.starts):
            return False
        place = int(self.starts[at])
        if place > here:
            self.row = place - 1
            self.tick = max(self.tick, bisect_right(self.ticks, self.times[self.row]))
        return True

    def _next(self, *, asked: bool) -> tuple[float, int] | None:
        """Return the next time at which it is asked, and the row that is newest then. A tick comes before a signal."""
        if not asked:
            if self.row >= len(self.times):
                return None
            self.tick = max(self.tick, bisect_right(self.ticks, self.times[self.row]))
        if self.tick < len(self.ticks) and (
            self.row >= len(self.times) or self.ticks[self.tick] <= self.times[self.row]
        ):
            self.tick += 1
            return self.ticks[self.tick - 1], self.row - 1
        if self.row >= len(self.times):
            return None
        self.row += 1
        return self.times[self.row - 1], self.row - 1

    def _truth(self, held: Held | None, row: int, now_s: float) -> Truth:
        ends = held is not None and held.firing and self.rule.resolve is not None
        mask = int((self._going() if ends else self.masks)[row + 1])
        known = _TRUTHS.get(mask)
        if known is not None:
            return known
        when = self.rule.resolve if ends and self.rule.resolve is not None else self.rule.when
        truth = judge(when, self.series.values(when, self.series.first + row, now_s, self._moved)).truth
        if not ends or truth is Truth.UNKNOWN:
            return truth
        return Truth.NO if truth is Truth.YES else Truth.YES

    def _going(self) -> Mask:
        if self._firing is None:
            self._firing = self.course.firing(self.series, self.chunk, self.masks)
        return self._firing

    def _alert(self, held: Held, row: int, now_s: float) -> Alert:
        values = self.series.values(self.rule.when, self.series.first + row, now_s)
        answer = judge(self.rule.when, values)
        return alert_of(self.rule, self.key, self.labels, (self.target,), answer, held)

    def _skip(self, held: Held, row: int, now_s: float) -> Held:
        """Go on to where it may hold no longer: until then every answer leaves all but its time as it is."""
        going = self._going()
        if going[row + 1] != YES:
            return held
        if self._breaks is None:
            self._breaks = np.flatnonzero(going != YES)
        at = int(np.searchsorted(self._breaks, row + 2))
        if at < len(self._breaks):
            self.row = max(self.row, int(self._breaks[at]) - 1)
            self.tick = max(self.tick, bisect_right(self.ticks, self.times[self.row]))
        else:
            self.row, self.tick = len(self.times), len(self.ticks)
        last_s = now_s
        if self.tick:
            last_s = max(last_s, self.ticks[self.tick - 1])
        if self.row:
            last_s = max(last_s, self.times[self.row - 1])
        return msgspec.structs.replace(held, last_s=last_s)


def down_edges(
    turns: Turns, alert: Alert | None, make: Callable[[float, str], Alert]
) -> tuple[Alert | None, list[AlertEdge]]:
    """Return what a probe's threshold began and ended. make: an alert from time and reason."""
    status = turns.status
    down = status == 3
    if alert is None and not down.any():
        return None, []
    begins = np.flatnonzero(down)
    # Up, degraded and paused: maintenance and pending say nothing of the target.
    ends = np.flatnonzero((status == 1) | (status == 2) | (status == 4))
    edges: list[AlertEdge] = []
    at = 0
    while True:
        places = ends if alert is not None else begins
        found = int(np.searchsorted(places, at))
        if found >= len(places):
            return alert, edges
        at = int(places[found])
        time_s = float(turns.time[at])
        if alert is None:
            alert = make(time_s, turns.words[turns.reasons[at]])
            edges.append(AlertEdge(time_s=time_s, fired=True, alert=alert))
        else:
            edges.append(AlertEdge(time_s=time_s, fired=False, alert=alert))
            alert = None
