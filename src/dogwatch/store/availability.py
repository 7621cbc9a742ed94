"""Time in each status over a period, from transitions and the stretches in which Dogwatch ran. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from dogwatch.core.values import Status, Transition
from dogwatch.store.protocol import Availability

Stretch = tuple[float, float]


def union(stretches: Sequence[Stretch], *, since_s: float, until_s: float) -> list[Stretch]:
    """Return the stretches cut to the period, in order, joined where they meet or overlap."""
    out: list[Stretch] = []
    for start, end in sorted((max(start, since_s), min(end, until_s)) for start, end in stretches):
        if start >= end:
            continue
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


def outside(stretches: Sequence[Stretch], cut: Sequence[Stretch]) -> list[Stretch]:
    """Return what of the stretches lies outside of others; both as union() returns them."""
    out: list[Stretch] = []
    for start, end in stretches:
        at = start
        for begin, close in cut:
            if close <= at:
                continue
            if begin >= end:
                break
            if begin > at:
                out.append((at, begin))
            at = max(at, close)
        if at < end:
            out.append((at, end))
    return out


def _phases(
    initial: Status, transitions: Sequence[Transition], since_s: float, until_s: float
) -> list[tuple[float, float, Status]]:
    out = []
    start, status = since_s, initial
    for transition in transitions:
        out.append((start, transition.time_s, status))
        start, status = transition.time_s, transition.after
    out.append((start, until_s, status))
    return [(begin, end, status) for begin, end, status in out if end > begin]


def account(
    target: str,
    initial: Status,
    transitions: Sequence[Transition],
    alive: Sequence[Stretch],
    *,
    since_s: float,
    until_s: float,
    planned: Sequence[Stretch] = (),
) -> Availability:
    """Return the time in each status.

    planned: stretches of planned work; time in them is maintenance, whatever the status was.

    initial: the status at since_s. transitions: those with since_s < time <= until_s, oldest first. alive: as
    union() returns them. Pending time, and time in which Dogwatch did not run, is unknown. incidents: stretches of
    down that overlap the period.
    """
    spent = dict.fromkeys(Status, 0.0)
    phases = _phases(initial, transitions, since_s, until_s)
    whole = alive
    if planned:
        alive = outside(alive, union(planned, since_s=since_s, until_s=until_s))
    position = 0
    for begin, end, status in phases:
        while position < len(alive) and alive[position][1] <= begin:
            position += 1
        at = position
        while at < len(alive) and alive[at][0] < end:
            spent[status] += min(end, alive[at][1]) - max(begin, alive[at][0])
            at += 1
    spent[Status.MAINTENANCE] += sum(end - start for start, end in whole) - sum(end - start for start, end in alive)
    known = sum(spent.values()) - spent[Status.PENDING]
    good = spent[Status.UP] + spent[Status.DEGRADED]
    judged = good + spent[Status.DOWN]
    return Availability(
        target=target,
        since_s=since_s,
        until_s=until_s,
        up_s=spent[Status.UP],
        degraded_s=spent[Status.DEGRADED],
        down_s=spent[Status.DOWN],
        maintenance_s=spent[Status.MAINTENANCE],
        paused_s=spent[Status.PAUSED],
        unknown_s=max(0.0, until_s - since_s - known),
        ratio=good / judged if judged > 0 else None,
        incidents=_incidents(phases),
    )


def _incidents(phases: Sequence[tuple[float, float, Status]]) -> int:
    count, before = 0, None
    for _, _, status in phases:
        count += status is Status.DOWN and before is not Status.DOWN
        before = status
    return count
