"""Signals in, incidents and notices out: what live rules, plans and backtests share, to the last decision.

It reads no clock and does no I/O. The rules' windows move on as signals come; the deciders' state is a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from dogwatch.core.values import Signal
from dogwatch.rules.desk import Input, Setting
from dogwatch.rules.incident import Decisions, State
from dogwatch.rules.remedy.join import step_both, together, worth
from dogwatch.rules.remedy.values import Became
from dogwatch.rules.watcher import TICK_S, Alert, AlertEdge, Watcher


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """What happened at one time: alerts that began and ended, or none at a tick."""

    time_s: float
    edges: tuple[AlertEdge | Became, ...] = ()


class Saying(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody else says of an alert of theirs."""

    alert: Alert
    firing: bool


def moments(
    watcher: Watcher,
    signals: Sequence[Signal],
    until_s: float,
    *,
    told: Sequence[Saying] = (),
    told_s: float = 0.0,
) -> Iterator[Moment]:
    """Take signals in the order of their times, and the ticks between them. until_s: ticks up to there. told: what
    others said at told_s.
    """
    batch: list[Sequence[Signal]] = []
    targets: set[tuple[str, str]] = set()
    for time_s, seen, said in _by_moment(signals, told, told_s):
        names = {(signal.source, signal.target) for signal in seen}
        if said or watcher.is_due(min(time_s, until_s)) or not targets.isdisjoint(names) or len(names) < len(seen):
            yield from _heard(watcher, batch)
            batch, targets = [], set()
        yield from _ticks(watcher, min(time_s, until_s))
        if said:
            yield from _said(watcher, time_s, seen, said)
        else:
            batch.append(seen)
            targets |= names
    yield from _heard(watcher, batch)
    yield from _ticks(watcher, until_s)


def _heard(watcher: Watcher, batch: Sequence[Sequence[Signal]]) -> Iterator[Moment]:
    for time_s, edges in watcher.hear_many(batch):
        if edges:
            yield Moment(time_s=time_s, edges=tuple(edges))


def _said(watcher: Watcher, time_s: float, seen: Sequence[Signal], said: Sequence[Saying]) -> Iterator[Moment]:
    """Take what others said together with the signals of the same time."""
    edges: list[AlertEdge | Became] = []
    heard = list(seen)
    for one in said:
        found, more = watcher.tell(one.alert, firing=one.firing, now_s=time_s)
        edges += found
        heard += more
    if heard:
        edges += watcher.hear(heard)
    if edges:
        yield Moment(time_s=time_s, edges=tuple(edges))


def _by_moment(
    signals: Sequence[Signal], told: Sequence[Saying], told_s: float
) -> Iterator[tuple[float, Sequence[Signal], Sequence[Saying]]]:
    """Return what came at one time together."""
    at, left = 0, bool(told)
    while at < len(signals):
        time_s, end = signals[at].time_s, at + 1
        while end < len(signals) and signals[end].time_s == time_s:
            end += 1
        if left and told_s < time_s:
            left = False
            yield told_s, (), told
        yield time_s, signals[at:end], told if left and told_s == time_s else ()
        left = left and told_s != time_s
        at = end
    if left:
        yield told_s, (), told


def _ticks(watcher: Watcher, until_s: float) -> Iterator[Moment]:
    for tick_s in watcher.due(until_s):
        yield Moment(time_s=tick_s, edges=tuple(watcher.tick(tick_s)))


def decide(
    setting: Setting, state: State, seen: Sequence[Moment], orders: Sequence[Input] = (), *, now_s: float | None = None
) -> tuple[State, Decisions]:
    """Return the next state and all that follows. orders: people's, and how actions ended, after what was seen, at
    now_s.
    """
    every: list[Decisions] = []
    for time_s, inputs in _together(seen):
        wanted = worth(setting, state, inputs)
        if wanted or not idle(state):
            state, decisions = step_both(setting, state, wanted, time_s)
            every.append(decisions)
    if orders and now_s is not None:
        state, decisions = step_both(setting, state, orders, now_s)
        every.append(decisions)
    return state, together(every)


def _together(seen: Sequence[Moment]) -> Iterator[tuple[float, list[AlertEdge | Became]]]:
    """Return what happened at one time as one, however it came."""
    at: float | None = None
    edges: list[AlertEdge | Became] = []
    for moment in seen:
        if at is not None and moment.time_s != at:
            yield at, edges
            edges = []
        at = moment.time_s
        edges += moment.edges
    if at is not None:
        yield at, edges


def idle(state: State) -> bool:
    """Return whether time alone can change nothing."""
    return not state.alerts and not state.incidents and not state.queue and not state.silences


__all__ = ["TICK_S", "Moment", "decide", "idle", "moments"]
