"""When a condition that holds becomes an alert, and when the alert ends: a pure decider over single answers.

It is used live, as a plan and in backtests, so it reads no clock: time comes with each answer.
"""

from __future__ import annotations

import enum

import msgspec

from dogwatch.rules.spec import RuleSpec

# Time between two answers counts up to here: a clock that was set forward, or a daemon that did not run, is no time
# in which the condition held.
MAX_GAP_S = 60.0


class Truth(enum.Enum):
    """What a condition says of a target. UNKNOWN: it has no values for it."""

    YES = enum.auto()
    NO = enum.auto()
    UNKNOWN = enum.auto()


class Held(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the decider remembers of a rule for one target or group; nothing where the condition does not hold.

    firing: an alert is out. since_s: when the condition began to hold. held_s: for how long it held, as answers show
    it. ended_s: how long it holds no longer, while the alert is kept; None while it holds. last_s: of the last answer.
    """

    firing: bool = False
    since_s: float
    held_s: float = 0.0
    ended_s: float | None = None
    last_s: float


class Edge(enum.Enum):
    """What an answer led to."""

    NONE = enum.auto()
    FIRED = enum.auto()
    RESOLVED = enum.auto()


def step(spec: RuleSpec, state: Held | None, truth: Truth, now_s: float) -> tuple[Held | None, Edge]:
    """Return the next state, and whether an alert began or ended.

    truth: of `when`; while an alert is out and the rule has `resolve`, YES means that this one does not hold yet.
    """
    passed_s = 0.0 if state is None else min(max(0.0, now_s - state.last_s), MAX_GAP_S)
    if truth is Truth.UNKNOWN:
        if state is None or spec.missing == "keep":
            # Nothing was seen: the time does not count, neither for it nor against it.
            return (None if state is None else msgspec.structs.replace(state, last_s=now_s)), Edge.NONE
        truth = Truth.NO
    if truth is Truth.YES:
        return _holds(spec, state, passed_s, now_s)
    if state is None or not state.firing:
        return None, Edge.NONE
    # The answer before it was the last that held: from now on it does not.
    ended_s = 0.0 if state.ended_s is None else state.ended_s + passed_s
    if ended_s >= spec.keep_firing:
        return None, Edge.RESOLVED
    return msgspec.structs.replace(state, ended_s=ended_s, last_s=now_s), Edge.NONE


def _holds(spec: RuleSpec, state: Held | None, passed_s: float, now_s: float) -> tuple[Held, Edge]:
    if state is None:
        state = Held(since_s=now_s, last_s=now_s)
    held_s = state.held_s + passed_s
    fires = not state.firing and held_s >= spec.for_
    after = Held(
        firing=state.firing or fires, since_s=state.since_s, held_s=min(held_s, spec.for_), last_s=now_s
    )  # fmt: skip
    return after, Edge.FIRED if fires else Edge.NONE
