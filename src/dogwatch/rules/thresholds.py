"""When a target is down, and when it is up again: a pure decider over single observations.

It is used live, as a plan and in backtests, so it reads no clock: time comes with each observation.
"""

from __future__ import annotations

import enum

import msgspec

from dogwatch.core.values import Status, Transition

_VERSION = 1


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """N of M: down when `failures` of the newest `of` attempts failed.

    failures: how many must have failed. of: among how many of the newest.
    """

    failures: int
    of: int


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When an observation becomes a status.

    failures: in a row until down; not used where there is a window. successes: in a row until up again.
    degraded_after: slow successes in a row until degraded. grace_s: how long after the start failures mean nothing,
    unless it succeeded already.
    """

    failures: int = 3
    successes: int = 2
    window: Window | None = None
    degraded_after: int = 1
    grace_s: float = 0.0


class Seen(enum.Enum):
    """What happened: an attempt's outcome, or what an operator or a maintenance window wants."""

    GOOD = enum.auto()
    POOR = enum.auto()  # succeeded, but the degraded condition held
    BAD = enum.auto()
    PAUSE = enum.auto()
    RESUME = enum.auto()
    MAINTENANCE_ON = enum.auto()
    MAINTENANCE_OFF = enum.auto()


class Observation(msgspec.Struct, frozen=True, gc=False):
    """elapsed_s: time since the last observation of the target on the monotonic clock, 0 for the first. why: "" or a
    sentence for the transition."""

    target: str
    seen: Seen
    elapsed_s: float = 0.0
    why: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the decider remembers of one target.

    decided: what is believed apart from pause and maintenance. since_s: wall clock of the last change of `status`.
    bad, good, fine, poor: failures, successes, quick successes, slow successes in a row. recent: the newest attempts
    as bits, 1 for a failure, newest lowest. waited_s: spent in the start-up grace. proved: it succeeded once.
    """

    decided: Status = Status.PENDING
    since_s: float = 0.0
    bad: int = 0
    good: int = 0
    fine: int = 0
    poor: int = 0
    recent: int = 0
    waited_s: float = 0.0
    proved: bool = False
    paused: bool = False
    maintenance: bool = False

    @property
    def status(self) -> Status:
        if self.paused:
            return Status.PAUSED
        return Status.MAINTENANCE if self.maintenance else self.decided


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    state: State


def encode(state: State) -> bytes:
    """Return the state as versioned JSON."""
    return msgspec.json.encode(_Stored(v=_VERSION, state=state))


def decode(content: bytes) -> State | None:
    """Return a stored state; None for one that is damaged or of another version, which then starts anew."""
    try:
        stored = msgspec.json.decode(content, type=_Stored)
    except (msgspec.DecodeError, ValueError):
        return None
    return stored.state if stored.v == _VERSION else None


def step(policy: Policy, state: State, observation: Observation, now_s: float) -> tuple[State, Transition | None]:
    """Return the next state, and the transition where the status changed. now_s: wall clock; it only stamps."""
    seen = observation.seen
    if seen in _CONTROLS:
        after, reason = _control(state, seen), observation.why or _WORDS[seen]
    elif state.paused:
        # An attempt that was under way when the target was paused says nothing any more.
        return state, None
    else:
        if seen is Seen.GOOD and is_steady(policy, state):
            return state, None
        counted = _count(policy, state, observation)
        decided = _decide(policy, counted, seen)
        after = counted if decided is counted.decided else msgspec.structs.replace(counted, decided=decided)
        reason = "" if after.status is state.status else _reason(policy, after, observation.why)
    if after.status is state.status:
        return after, None
    after = msgspec.structs.replace(after, since_s=now_s)
    transition = Transition(
        target=observation.target, time_s=now_s, before=state.status, after=after.status, reason=reason
    )
    return after, transition


_CONTROLS = frozenset((Seen.PAUSE, Seen.RESUME, Seen.MAINTENANCE_ON, Seen.MAINTENANCE_OFF))
_WORDS = {
    Seen.PAUSE: "paused",
    Seen.RESUME: "resumed",
    Seen.MAINTENANCE_ON: "maintenance began",
    Seen.MAINTENANCE_OFF: "maintenance ended",
}


def _control(state: State, seen: Seen) -> State:
    replace = msgspec.structs.replace
    match seen:
        case Seen.PAUSE:
            return replace(state, paused=True)
        case Seen.RESUME:
            # What was known is old: nothing is claimed until it was asked again.
            return State(since_s=state.since_s, maintenance=state.maintenance) if state.paused else state
        case Seen.MAINTENANCE_ON:
            return replace(state, maintenance=True)
    return replace(state, maintenance=False)


def is_steady(policy: Policy, state: State) -> bool:
    """Return whether one more quick success changes nothing: the case that happens all day.

    Whoever asks this first need not call `step`, which would return the same state and no transition.
    """
    return (
        state.decided is Status.UP
        and state.bad == 0
        and state.poor == 0
        and state.recent == 0
        and state.fine >= policy.successes
    )


def _count(policy: Policy, state: State, observation: Observation) -> State:
    seen = observation.seen
    waited_s = state.waited_s
    if not state.proved and waited_s <= policy.grace_s:
        waited_s += max(0.0, observation.elapsed_s)
    size = policy.window.of if policy.window else 1
    recent = (state.recent << 1) & ((1 << size) - 1)
    if seen is Seen.BAD:
        if _in_grace(policy, state.proved, waited_s):
            return msgspec.structs.replace(state, waited_s=waited_s)
        return State(
            decided=state.decided,
            since_s=state.since_s,
            bad=state.bad + 1,
            recent=recent | 1,
            waited_s=waited_s,
            proved=state.proved,
            maintenance=state.maintenance,
        )
    slow = seen is Seen.POOR
    # Good counters stop at the threshold, so that a healthy target's state stops changing.
    return State(
        decided=state.decided,
        since_s=state.since_s,
        good=min(state.good + 1, policy.successes),
        fine=0 if slow else min(state.fine + 1, policy.successes),
        poor=state.poor + 1 if slow else 0,
        recent=recent,
        proved=True,
        maintenance=state.maintenance,
    )


def _in_grace(policy: Policy, proved: bool, waited_s: float) -> bool:
    return policy.grace_s > 0 and not proved and waited_s <= policy.grace_s


def _failing(policy: Policy, state: State) -> bool:
    if policy.window is None:
        return state.bad >= policy.failures
    return state.recent.bit_count() >= policy.window.failures


def _decide(policy: Policy, state: State, seen: Seen) -> Status:
    before = state.decided
    if seen is Seen.BAD:
        return Status.DOWN if _failing(policy, state) and state.bad else before
    answered = Status.DEGRADED if state.poor >= policy.degraded_after else Status.UP
    match before:
        case Status.PENDING:
            return answered
        case Status.DOWN:
            recovered = state.good >= policy.successes and (policy.window is None or not _failing(policy, state))
            return answered if recovered else Status.DOWN
        case Status.DEGRADED:
            return Status.UP if state.fine >= policy.successes else Status.DEGRADED
    return answered


def _reason(policy: Policy, state: State, why: str) -> str:
    match state.decided:
        case Status.DOWN if policy.window:
            size = min(policy.window.of, max(state.recent.bit_length(), 1))
            count = f"{state.recent.bit_count()} of the newest {size} attempts failed"
        case Status.DOWN:
            count = "1 failure" if state.bad == 1 else f"{state.bad} failures in a row"
        case Status.DEGRADED:
            count = "it answers, but not well"
        case _:
            count = "it answers" if state.good <= 1 else f"{state.good} successes in a row"
    return f"{count}: {why}" if why else count
