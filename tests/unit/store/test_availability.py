"""Accounting against one that walks through every second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.values import Status, Transition
from dogwatch.store.availability import account, union

STATUSES = st.sampled_from(list(Status))
TIMES = st.integers(0, 200)


@given(
    initial=STATUSES,
    changes=st.lists(st.tuples(TIMES, STATUSES), max_size=20),
    stretches=st.lists(st.tuples(TIMES, TIMES), max_size=8),
    since=TIMES,
    length=st.integers(0, 200),
)
def test_every_second_is_counted_once(
    initial: Status, changes: list[tuple[int, Status]], stretches: list[tuple[int, int]], since: int, length: int
) -> None:
    until = since + length
    changes.sort(key=lambda change: change[0])
    transitions, before = [], initial
    for time_s, after in changes:
        if since < time_s <= until:
            transitions.append(Transition(target="t", time_s=float(time_s), before=before, after=after))
            before = after
    alive = union([(float(a), float(b)) for a, b in stretches], since_s=since, until_s=until)
    found = account("t", initial, transitions, alive, since_s=since, until_s=until)

    spent = dict.fromkeys(Status, 0)
    incidents, previous = 0, None
    for second in range(since, until):
        status = initial
        for transition in transitions:
            if transition.time_s <= second:
                status = transition.after
        incidents += status is Status.DOWN and previous is not Status.DOWN
        previous = status
        if any(a <= second < b for a, b in stretches):
            spent[status] += 1
    assert found.up_s == spent[Status.UP]
    assert found.degraded_s == spent[Status.DEGRADED]
    assert found.down_s == spent[Status.DOWN]
    assert found.maintenance_s == spent[Status.MAINTENANCE]
    assert found.paused_s == spent[Status.PAUSED]
    assert found.unknown_s == length - sum(spent.values()) + spent[Status.PENDING]
    judged = spent[Status.UP] + spent[Status.DEGRADED] + spent[Status.DOWN]
    assert found.ratio == ((judged - spent[Status.DOWN]) / judged if judged else None)
    assert found.incidents == incidents


def test_union_joins_what_meets() -> None:
    assert union([(5, 7), (1, 3), (2, 4), (4, 4.5), (9, 8)], since_s=0, until_s=6) == [(1, 4.5), (5, 6)]
