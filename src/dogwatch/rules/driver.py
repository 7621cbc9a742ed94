"""Signals in, incidents and notices out: what live rules, plans and backtests share, to the last decision.

It reads no clock and does no I/O. The rules' windows move on as signals come; the deciders' state is a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from dogwatch.core.values import Signal
from dogwatch.rules.desk import Setting, step
from dogwatch.rules.incident import Decisions, Incident, Note, Notice, Order, State
from dogwatch.rules.watcher import TICK_S, AlertEdge, Watcher


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """What happened at one time: alerts that began and ended, or none at a tick."""

    time_s: float
    edges: tuple[AlertEdge, ...] = ()


def moments(watcher: Watcher, signals: Sequence[Signal], until_s: float) -> Iterator[Moment]:
    """Take signals in the order of their times, and the ticks between them. until_s: ticks up to there."""
    for signal in signals:
        yield from _ticks(watcher, min(signal.time_s, until_s))
        edges = tuple(watcher.take(signal))
        if edges:
            yield Moment(time_s=signal.time_s, edges=edges)
    yield from _ticks(watcher, until_s)


def _ticks(watcher: Watcher, until_s: float) -> Iterator[Moment]:
    for tick_s in watcher.due(until_s):
        yield Moment(time_s=tick_s, edges=tuple(watcher.tick(tick_s)))


def decide(
    setting: Setting, state: State, seen: Sequence[Moment], orders: Sequence[Order] = (), *, now_s: float | None = None
) -> tuple[State, Decisions]:
    """Return the next state and all that follows. orders: people's, after what was seen, at now_s."""
    notes: list[Note] = []
    notices: list[Notice] = []
    ended: list[Incident] = []
    steps: list[tuple[Sequence[AlertEdge | Order], float]] = [
        (inputs, time_s) for time_s, inputs in _together(seen) if inputs or not idle(state)
    ]
    if orders and now_s is not None:
        steps.append((orders, now_s))
    for inputs, time_s in steps:
        state, decisions = step(setting, state, inputs, time_s)
        notes += decisions.notes
        notices += decisions.notices
        ended += decisions.ended
    return state, Decisions(notes=notes, notices=notices, ended=ended)


def _together(seen: Sequence[Moment]) -> Iterator[tuple[float, list[AlertEdge]]]:
    """Return what happened at one time as one, however it came."""
    at: float | None = None
    edges: list[AlertEdge] = []
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
