"""What rules would have done with recorded signals: the deciders that run live, with the times of the signals."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from dogwatch.core.values import Signal
from dogwatch.rules.desk import Setting
from dogwatch.rules.driver import Moment, decide, moments
from dogwatch.rules.incident import Decisions, Incident, Note, Notice, State
from dogwatch.rules.remedy.values import Start
from dogwatch.rules.spec import Rule
from dogwatch.rules.topology import Node
from dogwatch.rules.watcher import Watcher

# Signals that are decided together; what is kept between is the state alone.
_BATCH = 10_000


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A notice that would have gone out."""

    time_s: float
    notice: Notice


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What would have happened. incidents: in the order of their numbers; those at the end may be open still.

    fired: alerts by rule. suppressed: alerts that were told of as a part of another's incident only. starts: what
    would have been done, each taken to end well at once. lost: seconds → results of which no more than means over so
    long were left. dropped: what was too much to be kept, by kind; the newest are there. busy_s: how long it took to
    compute.
    """

    since_s: float
    until_s: float
    signals: int
    incidents: Sequence[Incident]
    notes: Sequence[Note]
    notices: Sequence[Told]
    fired: dict[str, int]
    suppressed: int
    starts: Sequence[Start] = ()
    held: int = 0
    planned: int = 0
    lost: dict[int, int] = {}
    dropped: dict[str, int] = {}
    busy_s: float = 0.0


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """The time that a backtest goes through."""

    since_s: float
    until_s: float


class Progress(msgspec.Struct, kw_only=True):
    """How far a backtest is. share: of the time, 0 to 1. stop: set by whoever wants no more of it."""

    share: float = 0.0
    signals: int = 0
    time_s: float = 0.0
    busy_s: float = 0.0
    stop: bool = False


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Between two rehearsals of the same signals, by cause. later_s: how much later the second one opened, of those
    where that, or the rule, is another.
    """

    only_first: Sequence[Incident]
    only_second: Sequence[Incident]
    later_s: dict[str, float]
    notices: int


def rehearse(
    setting: Setting,
    rules: Sequence[Rule],
    signals: Sequence[Signal],
    *,
    until_s: float,
    nodes: Sequence[Node] = (),
) -> Rehearsal:
    """Return what would have happened. signals: by time. nodes: what is known to be watched from the start."""
    watcher = Watcher(rules)
    since_s = signals[0].time_s if signals else until_s
    for node in nodes:
        watcher.know("probe", node.name, node.labels, since_s)
    state = State()
    kept = _Kept()
    for at in range(0, max(len(signals), 1), _BATCH):
        part = signals[at : at + _BATCH]
        last = at + _BATCH >= len(signals)
        seen = list(moments(watcher, part, until_s if last else part[-1].time_s))
        for group in _groups(seen):
            state, decisions = decide(setting, state, group)
            kept.take(decisions, state, group[-1].time_s)
    return Rehearsal(
        since_s=since_s,
        until_s=until_s,
        signals=len(signals),
        incidents=[kept.incidents[number] for number in sorted(kept.incidents)],
        notes=kept.notes,
        notices=kept.notices,
        fired=dict(sorted(kept.fired.items())),
        suppressed=sum(note.kind == "joined" for note in kept.notes),
        starts=kept.starts,
        held=sum(note.kind == "held" for note in kept.notes),
        planned=sum(note.kind == "planned" for note in kept.notes),
    )


class _Kept:
    def __init__(self) -> None:
        self.incidents: dict[int, Incident] = {}
        self.notes: list[Note] = []
        self.notices: list[Told] = []
        self.fired: Counter[str] = Counter()
        self.starts: list[Start] = []

    def take(self, decisions: Decisions, state: State, now_s: float) -> None:
        for incident in (*state.incidents.values(), *decisions.ended):
            self.incidents[incident.number] = incident
        self.notes += decisions.notes
        self.starts += decisions.starts
        self.notices += (Told(time_s=now_s, notice=notice) for notice in decisions.notices)
        self.fired.update(note.rule for note in decisions.notes if note.kind in ("opened", "joined"))


def _groups(seen: Sequence[Moment]) -> Iterator[list[Moment]]:
    """Return what happened at one time together."""
    group: list[Moment] = []
    for moment in seen:
        if group and moment.time_s != group[0].time_s:
            yield group
            group = []
        group.append(moment)
    if group:
        yield group


class Outage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in which something was wrong, as somebody who knows has written it down.

    targets: names with * and ? of what an incident must be about. rules: that count; none for all. within: how long
    after the begin it must be found at the latest; none for the outage's end.
    """

    name: str
    since_s: float
    until_s: float
    targets: tuple[str, ...] = ("*",)
    rules: tuple[str, ...] = ()
    within: float | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Whether rules found an outage. number: the incident, 0 where it was missed. after_s: how long it took them.
    told_after_s: until somebody was told; None where nobody was.
    """

    outage: Outage
    number: int = 0
    after_s: float | None = None
    told_after_s: float | None = None


def find_outages(found: Rehearsal, outages: Sequence[Outage]) -> list[Found]:
    """Return for each outage what the rules of a rehearsal made of it."""
    return [_found(found, outage) for outage in outages]


def _found(rehearsal: Rehearsal, outage: Outage) -> Found:
    ended = {one.number: one.ended_s for one in rehearsal.incidents}
    by_s = outage.until_s if outage.within is None else outage.since_s + outage.within
    for note in rehearsal.notes:
        if note.kind not in ("opened", "joined") or note.time_s > by_s or not _about(note, outage):
            continue
        end_s = ended.get(note.number)
        if end_s is not None and end_s < outage.since_s:
            continue
        told = next((one for one in rehearsal.notes if one.kind == "told" and one.number == note.number), None)
        return Found(
            outage=outage,
            number=note.number,
            after_s=max(0.0, note.time_s - outage.since_s),
            told_after_s=None if told is None else max(0.0, told.time_s - outage.since_s),
        )
    return Found(outage=outage)


def _about(note: Note, outage: Outage) -> bool:
    if outage.rules and not any(fnmatch.fnmatchcase(note.rule, pattern) for pattern in outage.rules):
        return False
    return any(fnmatch.fnmatchcase(note.target, pattern) for pattern in outage.targets)


def compare(first: Rehearsal, second: Rehearsal) -> Difference:
    """Return what the second one's rules would have done otherwise. Incidents are the same where cause and time agree:
    of one cause those that overlap, those of the same rule first.
    """
    matched: dict[int, Incident] = {}
    used: set[int] = set()
    # First what is the same, then what another rule says of the same cause: that is no outage that is missed.
    for alike in (lambda one: (one.rule, one.root), lambda one: one.root):
        for one in first.incidents:
            if one.number in matched:
                continue
            for other in second.incidents:
                same = alike(one) == alike(other) and other.number not in used
                if same and _overlap(one, other, first.until_s):
                    matched[one.number] = other
                    used.add(other.number)
                    break
    return Difference(
        only_first=[one for one in first.incidents if one.number not in matched],
        only_second=[one for one in second.incidents if one.number not in used],
        later_s={
            _named(one, matched[one.number]): matched[one.number].opened_s - one.opened_s
            for one in first.incidents
            if one.number in matched
            and (matched[one.number].opened_s != one.opened_s or matched[one.number].rule != one.rule)
        },
        notices=len(second.notices) - len(first.notices),
    )


def _named(one: Incident, other: Incident) -> str:
    return f"#{one.number} {one.root}" + (f" (by {other.rule}, not {one.rule})" if one.rule != other.rule else "")


def _overlap(one: Incident, other: Incident, until_s: float) -> bool:
    ends = (one.ended_s or until_s, other.ended_s or until_s)
    return one.began_s <= ends[1] and other.began_s <= ends[0]
