"""The pure decider of fires: which are due, which were missed, how far that was decided.

A fire is known by its fire time, the time that its timing names; when it starts may be later (jitter, a window that it
waits for). All of it follows from the plan and the times given: two schedulers decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import msgspec

from dogwatch.engine.schedules.plan import Plan

# Fires that are looked at one by one; where more are due, only the newest are.
MOST = 2000
# Windows that are passed in search of a fire outside of them.
_MOST_WINDOWS = 1000
_JUST_S = 0.001


class Fire(msgspec.Struct, frozen=True, kw_only=True):
    """fire_s: its identity. due_s: when it starts. cursor_s: up to where all is decided once it is."""

    fire_s: float
    due_s: float
    cursor_s: float


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """start: fires to start now, in order. missed: how many are left out; more than that where not exact.

    first_missed_s, last_missed_s: fire times. cursor_s: up to where all is decided once these are.
    """

    start: tuple[Fire, ...] = ()
    missed: int = 0
    exact: bool = True
    first_missed_s: float | None = None
    last_missed_s: float | None = None
    cursor_s: float


def upcoming(plan: Plan, after_s: float) -> Iterator[Fire]:
    """Yield the fires after a time in order, those that windows leave out left out."""
    cursor_s = max(after_s, plan.start_s - _JUST_S)
    last_due_s = -math.inf
    windows = 0
    while (fire_s := plan.timing.after(cursor_s)) is not None and fire_s <= plan.end_s:
        due_s = fire_s + plan.jitter_s(fire_s)
        # What the jitter moves into a window is in it, too.
        end_s = plan.held(fire_s)
        end_s = plan.held(due_s) if end_s is None else end_s
        if end_s is None:
            # Where the jitter would let one overtake another, the later waits.
            last_due_s = max(last_due_s, due_s)
            yield Fire(fire_s=fire_s, due_s=last_due_s, cursor_s=fire_s)
            cursor_s, windows = fire_s, 0
            continue
        windows += 1
        if end_s == math.inf or windows > _MOST_WINDOWS:
            return
        before_end_s = max(end_s - _JUST_S, fire_s)
        # The fire at the end itself stands for those that wait for it.
        if plan.spec.blackout_policy == "defer" and plan.timing.after(before_end_s) != end_s:
            yield Fire(fire_s=fire_s, due_s=end_s, cursor_s=before_end_s)
            windows = 0
        cursor_s = before_end_s


def next_fires(plan: Plan, after_s: float, count: int) -> list[Fire]:
    """Return the first fires after a time."""
    return list(islice(upcoming(plan, after_s), count))


def due(plan: Plan, cursor_s: float, now_s: float) -> Due:
    """Decide about all fires after the cursor that are due by now, by the plan's misfire policy.

    A clock that was set back, so that the cursor lies ahead, makes nothing due: what is decided stays so.
    """
    fires, exact = _due_fires(plan, cursor_s, now_s)
    if not fires:
        return Due(cursor_s=cursor_s)
    late = [fire for fire in fires if now_s - fire.due_s > plan.spec.misfire_after]
    start = fires[len(late) :]
    if plan.spec.misfire == "all":
        start = late + start
    elif plan.spec.misfire == "latest" and not start:
        start = late[-1:]
    start = start[-plan.spec.misfire_limit :]
    missed = fires[: len(fires) - len(start)]
    return Due(
        start=tuple(start),
        missed=len(missed),
        exact=exact,
        first_missed_s=missed[0].fire_s if missed else None,
        last_missed_s=missed[-1].fire_s if missed else None,
        cursor_s=fires[-1].cursor_s,
    )


def _due_fires(plan: Plan, cursor_s: float, now_s: float) -> tuple[list[Fire], bool]:
    """Return the due fires, oldest first, and whether they are all; where there are too many, the newest."""
    found = _until(plan, cursor_s, now_s)
    if len(found) <= MOST:
        return found, True
    # How far back to begin so that enough are found, and not too many: doubling, then halving.
    low_s, back_s, high_s = 0.0, 64.0, math.inf
    while True:
        from_s = max(cursor_s, now_s - plan.spec.jitter - back_s)
        newest = _until(plan, from_s, now_s)
        if len(newest) > MOST:
            high_s = back_s
        elif len(newest) >= plan.spec.misfire_limit or high_s - low_s < 1.0:
            return newest, False
        else:
            low_s = back_s
        back_s = 4 * back_s if high_s == math.inf else (low_s + high_s) / 2


def _until(plan: Plan, cursor_s: float, now_s: float) -> list[Fire]:
    """Return the fires that are due, up to one more than MOST."""
    found = []
    for fire in upcoming(plan, cursor_s):
        if fire.due_s > now_s:
            break
        found.append(fire)
        if len(found) > MOST:
            break
    return found
