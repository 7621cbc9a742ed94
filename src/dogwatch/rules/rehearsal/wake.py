"""When the decider of incidents would do anything by itself: ticks in between leave all but its clock as it is."""

from __future__ import annotations

from collections.abc import Iterator

from dogwatch.rules.desk import Setting
from dogwatch.rules.driver import idle
from dogwatch.rules.incident import State

# Sums of floats are off by less: to be asked a tick early changes nothing.
_EARLY_S = 0.01


def next_due(setting: Setting, state: State) -> float | None:
    """Return the time from which on a tick can change something; None where only signals and windows can.

    Too early is right, too late is not. Begins and ends of maintenance are not in it.
    """
    if idle(state):
        return None
    found = min(_times(setting, state), default=None)
    return None if found is None else found - _EARLY_S


def _times(setting: Setting, state: State) -> Iterator[float]:
    options = setting.policy.options
    for tracked in state.alerts.values():
        if tracked.flapping and not tracked.active:
            yield (tracked.ended_s or 0.0) + options.flapping.quiet
        elif not tracked.active:
            yield (tracked.ended_s or 0.0) + options.flapping.within
        held = state.incidents.get(tracked.incident)
        # It waits to open an incident, or to leave that of a cause that went away.
        if tracked.counts and not tracked.muted and (held is None or held.root != tracked.cause):
            yield tracked.due_s
    for incident in state.incidents.values():
        if incident.next_s is not None and not incident.muted:
            yield incident.next_s
    for silence in state.silences.values():
        yield silence.until_s
    interval_s = options.throttle.interval
    for name in state.queue:
        yield min(state.sent.get(name, ()), default=0.0) + interval_s
    if state.remedy.episodes:
        yield state.clock_s  # budgets, backoff and deadlines: every tick is asked
