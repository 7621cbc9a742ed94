"""A rule over several targets together: what each can say in columns, counted over all, and decided where it matters.

Each member gives what it says from one change to the next. Of all together follow ranges of how many hold; where
these leave it open, the members in question are asked as they would be live. The decider of single answers decides at
the very times at which it would be asked live.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from dogwatch.rules.decider import Edge, Held, Truth, step
from dogwatch.rules.gauge import Answer, judge
from dogwatch.rules.rehearsal.columns import Floats, Ints
from dogwatch.rules.rehearsal.course import Chunk, Ranges
from dogwatch.rules.rehearsal.lines import Line
from dogwatch.rules.rehearsal.spans import Moved, Series
from dogwatch.rules.rehearsal.truth import NO, UNKNOWN, YES, Mask, flipped
from dogwatch.rules.spec import Rule
from dogwatch.rules.watcher import Alert, AlertEdge, alert_of, together

# Signals of so long are looked at together.
_BLOCK_S = 300.0
_TRUTHS = {NO: Truth.NO, YES: Truth.YES, UNKNOWN: Truth.UNKNOWN}
_OPPOSITE = {Truth.YES: Truth.NO, Truth.NO: Truth.YES, Truth.UNKNOWN: Truth.UNKNOWN}


class Spells(msgspec.Struct, frozen=True, gc=False):
    """What a member can say, from one change to the next; 0 before it is there."""

    begin_s: Floats
    code: Mask

    def at(self, time_s: float, *, tick: bool) -> int:
        """Return what it is at a time; a tick comes before the signals of its time."""
        place = int(self.begin_s.searchsorted(time_s, side="left" if tick else "right")) - 1
        return int(self.code[max(0, place)])


class Member(msgspec.Struct, eq=False, gc=False):
    """One target in a chunk. time: of all its signals, first of the chunk's. line: None where all is sure."""

    name: str
    time: Floats
    first: int
    says: dict[bool, Spells]
    line: Series | Line | None
    moved: dict[bool, Moved]


class Group:
    """A rule that asks for several targets together."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.longest_s = max(when.longest_s for when in rule.whens)
        self._ranges = {False: Ranges(rule.when)}
        if rule.resolve is not None:
            self._ranges[True] = Ranges(rule.resolve)
        self._courses: dict[str, _Together] = {}
        self._members: dict[str, list[Member]] = {}
        # Before the first tick a condition over time was not asked of who said nothing yet.
        self._ticked = False

    def add(self, target: str, labels: Mapping[str, str], line: Series | Line, chunk: Chunk, *, met: bool) -> None:
        """Take what a member says in a chunk. met: it is there from its first signal on."""
        key = self.rule.group(target, labels)
        course = self._courses.get(key)
        if course is None:
            course = self._courses[key] = _Together(self.rule, key, labels)
        says, open_ = {}, False
        for going, ranges in self._ranges.items():
            masks = ranges.masks(line, chunk, fully=True)
            if going:
                masks = flipped(masks)
            if met:
                masks[0] = 0
            open_ = open_ or bool((masks & (masks - 1)).any()) or (not going and bool((masks == YES).any()))
            says[going] = _spells(line, masks, chunk)
            if not line.first and self.rule.source == "probe" and not self._ticked:
                says[going] = self._unasked(says[going], chunk)
        member = Member(target, line.time, line.first, says, line if open_ else None, {False: {}, True: {}})
        self._members.setdefault(key, []).append(member)

    def close(self, chunk: Chunk) -> list[AlertEdge]:
        """Return what began and ended in a chunk."""
        edges: list[AlertEdge] = []
        for key, members in self._members.items():
            edges += self._courses[key].run(members, chunk)
        self._members = {}
        self._ticked = self._ticked or bool(chunk.ticks)
        return edges

    def _unasked(self, spells: Spells, chunk: Chunk) -> Spells:
        """Return what a member says that says nothing until it is asked for the first time."""
        if not self.rule.over:
            return spells
        begin, code = spells.begin_s, spells.code
        first_s = float(begin[1]) if len(begin) > 1 else chunk.end_s
        tick_s = chunk.ticks[0] if chunk.ticks else chunk.end_s
        if tick_s > first_s:
            return Spells(begin, np.concatenate((np.array([UNKNOWN], np.uint8), code[1:])))
        # At a tick all are asked: it is so just before.
        asked_s = np.nextafter(tick_s, -np.inf)
        return Spells(
            np.concatenate((begin[:1], [asked_s], begin[1:])),
            np.concatenate((np.array([UNKNOWN], np.uint8), code)),
        )


def _spells(line: Series | Line, masks: Mask, chunk: Chunk) -> Spells:
    begin = line.places(chunk.begin_s, chunk.end_s).begin_s.copy()
    # A tick at the very begin comes before signals of that time.
    begin[0] = -np.inf
    # What is open is not one thing, though it looks the same.
    kept = np.append(True, masks[1:] != masks[:-1])
    return Spells(begin[kept], masks[kept].copy())


class _Counts:
    """How many members can say what, from one time to the next. begin_s: where anything may change."""

    def __init__(self, members: list[Member], rule: Rule, *, going: bool) -> None:
        spells = [member.says[going] for member in members]
        begin = np.concatenate([one.begin_s for one in spells])
        codes = np.concatenate([one.code for one in spells])
        before = np.concatenate([np.append(np.uint8(0), one.code[:-1]) for one in spells])
        order = np.argsort(begin, kind="stable")
        begin, codes, before = begin[order], codes[order], before[order]
        last = np.append(begin[1:] > begin[:-1], True)
        self.begin_s: Floats = begin[last]

        def count(table: Ints) -> Ints:
            found: Ints = np.cumsum(table[codes] - table[before])[last]
            return found

        every = np.arange(8)
        yes, yes_at_most = count((every == YES) * 1), count(((every & YES) != 0) * 1)
        there = count((every != 0) * 1)
        known = count(((every != 0) & ((every & UNKNOWN) == 0)) * 1)
        known_at_most = count(((every & (YES | NO)) != 0) * 1)
        least, most = _wanted(rule, known), _wanted(rule, known_at_most)
        can_yes, can_not = yes_at_most >= least, yes < most
        can_unknown = can_not & (yes_at_most + there - known >= least) & (known < there)
        sure = (known == known_at_most) & (yes == yes_at_most)
        self._yes, self._known, self._there = yes, known, there
        # Those that may have to be asked.
        self.vague = [one for one in members if bool((one.says[going].code & (one.says[going].code - 1)).any())]
        unknown = sure & can_unknown
        self.mask: Mask = np.asarray(
            can_yes * YES | (can_not & ~unknown) * NO | can_unknown * UNKNOWN, np.uint8
        )  # fmt: skip

    def together(self, rule: Rule, place: int, asked: Iterator[tuple[int, Truth]]) -> Truth:
        """Return what all say together, as live. asked: the open ones: what they could say, and what they said."""
        yes, known, there = int(self._yes[place]), int(self._known[place]), int(self._there[place])
        for code, truth in asked:
            yes += truth is Truth.YES
            known += bool(code & UNKNOWN) and truth is not Truth.UNKNOWN
        wanted = rule.wanted(known)
        if yes >= wanted:
            return Truth.YES
        return Truth.UNKNOWN if yes + there - known >= wanted and known < there else Truth.NO

    def place(self, time_s: float, *, tick: bool) -> int:
        """Return what is so at a time; a tick comes before the signals of its time."""
        return max(0, int(self.begin_s.searchsorted(time_s, side="left" if tick else "right")) - 1)


def _wanted(rule: Rule, known: Ints) -> Ints:
    if not rule.share:
        return np.full(len(known), max(1, rule.quorum))
    found: Ints = np.maximum(1, -np.floor(-known * rule.share).astype(np.int64))
    return found


class _Together:
    """One group. held, alert: as live. turned_s: when what is asked changed last, which all members answered then."""

    def __init__(self, rule: Rule, key: str, labels: Mapping[str, str]) -> None:
        self.rule, self.key, self.labels = rule, key, labels
        self.held: Held | None = None
        self.alert: Alert | None = None
        self._turned_s = self._ticked_s = float("-inf")
        self._members: list[Member] = []
        self._counts: dict[bool, _Counts] = {}
        self._chunk = Chunk(begin_s=0.0, end_s=0.0, ticks=[])
        self._block: tuple[float, list[float]] = (float("-inf"), [])

    def run(self, members: list[Member], chunk: Chunk) -> list[AlertEdge]:
        """Return what began and ended in a chunk."""
        self._members, self._chunk = members, chunk
        self._counts, self._block = {}, (float("-inf"), [])
        edges: list[AlertEdge] = []
        # A tick at a time comes before the signals of it: (time, 0) and (time, 1).
        at = (chunk.begin_s, -1)
        while True:
            if self.held is None:
                begin = self._next_start(at)
                if begin is None:
                    break
                at = max(at, begin)
            found = self._next_ask(at)
            if found is None:
                break
            at = found
            edges += self._ask(at[0], tick=at[1] == 0)
            if self.held is not None and self.held.firing and self.held.ended_s is None:
                at = self._skip(at)
        if chunk.ticks:
            self._ticked_s = chunk.ticks[-1]
        self._members, self._counts, self._block = [], {}, (float("-inf"), [])
        return edges

    def _count(self) -> _Counts:
        going = self.held is not None and self.held.firing and self.rule.resolve is not None
        if going not in self._counts:
            self._counts[going] = _Counts(self._members, self.rule, going=going)
        return self._counts[going]

    def _next_start(self, at: tuple[float, int]) -> tuple[float, int] | None:
        """Return where it may begin to hold: just before the first ask from which on it can say yes."""
        counts = self._count()
        place = counts.place(at[0], tick=at[1] <= 0)
        rest = np.flatnonzero(counts.mask[place:] & YES)
        if not len(rest):
            return None
        found = place + int(rest[0])
        # The signals at that time are the first that can say so; a tick of the same time is not.
        return at if found == place else (float(counts.begin_s[found]), 0)

    def _next_ask(self, at: tuple[float, int]) -> tuple[float, int] | None:
        """Return the next time at which it is asked: by a tick (0) or by signals (1)."""
        signal_s = self._next_signal(at)
        if self.rule.over or self.held is not None:
            ticks = self._chunk.ticks
            place = bisect_left(ticks, at[0]) if at[1] < 0 else bisect_right(ticks, at[0])
            if place < len(ticks) and (signal_s is None or ticks[place] <= signal_s):
                return (ticks[place], 0)
        return None if signal_s is None else (signal_s, 1)

    def _next_signal(self, at: tuple[float, int]) -> float | None:
        """Return the time of the next signal of any member."""
        begin_s = at[0]
        while begin_s < self._chunk.end_s:
            slot = begin_s // _BLOCK_S
            if self._block[0] != slot:
                self._block = (slot, self._times(slot * _BLOCK_S, (slot + 1) * _BLOCK_S))
            times = self._block[1]
            place = bisect_right(times, at[0]) if at[1] == 1 else bisect_left(times, at[0])
            if place < len(times):
                return times[place]
            begin_s = (slot + 1) * _BLOCK_S
        return None

    def _times(self, begin_s: float, end_s: float) -> list[float]:
        parts = []
        for member in self._members:
            low, high = member.time.searchsorted((begin_s, end_s))
            low = max(int(low), member.first)
            if high > low:
                parts.append(member.time[low:high])
        return np.unique(np.concatenate(parts)).tolist() if parts else []

    def _ask(self, now_s: float, *, tick: bool) -> Iterator[AlertEdge]:
        held = self.held
        going = held is not None and held.firing and self.rule.resolve is not None
        truth = self._truth(now_s, tick=tick, going=going)
        self.held, edge = step(self.rule.spec, held, truth, now_s)
        if edge is Edge.FIRED and self.held is not None:
            answer, targets = self._answer(now_s, tick=tick, going=False)
            self.alert = alert_of(self.rule, (self.rule.name, self.key), self.labels, targets, answer, self.held)
            yield AlertEdge(time_s=now_s, fired=True, alert=self.alert)
        elif edge is Edge.RESOLVED and self.alert is not None:
            yield AlertEdge(time_s=now_s, fired=False, alert=self.alert)
            self.alert = None
        if edge is not Edge.NONE and self.rule.resolve is not None:
            self._turned_s = now_s

    def _truth(self, now_s: float, *, tick: bool, going: bool) -> Truth:
        counts = self._count()
        place = counts.place(now_s, tick=tick)
        known = _TRUTHS.get(int(counts.mask[place]))
        if known is not None:
            return known
        codes = ((member, member.says[going].at(now_s, tick=tick)) for member in counts.vague)
        asked = (
            (code, self._exactly(member, now_s, tick=tick, going=going)) for member, code in codes if code & (code - 1)
        )
        return counts.together(self.rule, place, asked)

    def _answer(self, now_s: float, *, tick: bool, going: bool) -> tuple[Answer, tuple[str, ...]]:
        """Return what the group says, as live: of every member what it said when it was asked last."""
        said: dict[str, Answer] = {}
        for member in self._members:
            spells = member.says[going]
            code = spells.at(now_s, tick=tick)
            if code:
                said[member.name] = Answer(_TRUTHS.get(code) or self._exactly(member, now_s, tick=tick, going=going))
        first = min((name for name, one in said.items() if one.truth is Truth.YES), default=None)
        if first is not None and not going:
            member = next(one for one in self._members if one.name == first)
            said[first] = Answer(Truth.YES, self._judge(member, now_s, tick=tick, going=False).evidence)
        return together(self.rule, said)

    def _exactly(self, member: Member, now_s: float, *, tick: bool, going: bool) -> Truth:
        truth = self._judge(member, now_s, tick=tick, going=going).truth
        return _OPPOSITE[truth] if going else truth

    def _judge(self, member: Member, now_s: float, *, tick: bool, going: bool) -> Answer:
        """Return what a member said when it was asked last: at its own signal, a tick, or when the question changed."""
        line = member.line
        assert line is not None
        row = int(line.time.searchsorted(now_s, side="left" if tick else "right")) - 1
        asked_s = float(line.time[row]) if row >= 0 else float("-inf")
        if self.rule.over:
            ticks = self._chunk.ticks
            place = bisect_right(ticks, now_s)
            asked_s = max(asked_s, ticks[place - 1] if place else self._ticked_s)
        asked_s = max(asked_s, self._turned_s)
        if asked_s == float("-inf"):
            return Answer(Truth.UNKNOWN)
        when: Any = self.rule.resolve if going else self.rule.when
        return judge(when, line.values(when, row, asked_s, member.moved[going]))

    def _skip(self, at: tuple[float, int]) -> tuple[float, int]:
        """Go on to where it may hold no longer: until then every answer leaves all but its time as it is."""
        counts = self._count()
        place = counts.place(at[0], tick=at[1] == 0)
        if self._turned_s == at[0] or counts.mask[place] != YES:
            return at
        breaks = np.flatnonzero(counts.mask[place:] != YES)
        if not len(breaks):
            return (self._chunk.end_s, 1)
        return max(at, (float(counts.begin_s[place + int(breaks[0])]), 0))
