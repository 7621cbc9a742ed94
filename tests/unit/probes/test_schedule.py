"""The schedule: order, spread, stalls, removal."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from dogwatch.probes.lateness import _BOUNDS_S, _place
from dogwatch.probes.schedule import FIRST_SPREAD_S, Due, Schedule, first_two_s, phase


def due(schedule: Schedule[Due], monotonic_s: float) -> Iterator[tuple[Due, float]]:
    now_s = schedule.catch_up(monotonic_s)
    while (entry := schedule.pop(now_s)) is not None:
        yield entry, now_s - entry.due_s


@given(st.lists(st.floats(0, 0.9), max_size=30))
def test_what_is_due_comes_once_earliest_first_with_its_lateness(dues: list[float]) -> None:
    schedule: Schedule[Due] = Schedule()
    for due_s in dues:
        schedule.put(Due(), due_s)
    seen = list(due(schedule, 0.95))
    assert [lateness_s for _entry, lateness_s in seen] == [0.95 - due_s for due_s in sorted(dues)]
    assert list(due(schedule, 0.95)) == []
    assert schedule.stalls == 0


@given(
    st.lists(st.tuples(st.sampled_from(["put", "remove", "pop"]), st.integers(0, 3), st.integers(0, 5)), max_size=60)
)
def test_many_at_the_same_time_come_in_order_and_each_once(steps: list[tuple[str, int, int]]) -> None:
    schedule: Schedule[Due] = Schedule()
    targets = [Due() for _ in range(4)]
    expected: dict[int, tuple[float, int]] = {}
    for number, (what, which, time_s) in enumerate(steps):
        if what == "put":
            # One that is put where it was already keeps its place.
            if expected.get(which, (None,))[0] != time_s:
                expected[which] = float(time_s), number
            schedule.put(targets[which], float(time_s))
        elif what == "remove":
            expected.pop(which, None)
            schedule.remove(targets[which])
        else:
            found = schedule.pop(float(time_s))
            best = min(expected, key=lambda one: expected[one], default=None)
            if found is None:
                assert best is None or expected[best][0] > time_s
                continue
            # Among those of one time, one that was removed or moved meanwhile may come back to its old place.
            at_s = expected.pop(targets.index(found))[0]
            assert best is not None
            assert at_s == min([at_s, *(one[0] for one in expected.values())])
        assert schedule.next_s() == min((one[0] for one in expected.values()), default=None)


def test_lateness_is_counted_at_the_first_bound_that_holds_it() -> None:
    for number, bound_s in enumerate(_BOUNDS_S):
        assert (_place(bound_s), _place(bound_s * 1.0001)) == (number, number + 1)
    assert _place(-1.0) == 0


def test_a_new_time_replaces_the_old() -> None:
    schedule: Schedule[Due] = Schedule()
    entry = Due()
    schedule.put(entry, 1.0)
    schedule.put(entry, 5.0)
    assert schedule.next_s() == 5.0
    assert list(due(schedule, 1.5)) == []
    schedule.remove(entry)
    assert schedule.next_s() is None


def test_being_behind_moves_everything_and_keeps_the_distances() -> None:
    schedule: Schedule[Due] = Schedule()
    entries = [Due() for _ in range(10)]
    for number, entry in enumerate(entries):
        schedule.put(entry, float(number))
    assert [entry for entry, _late in due(schedule, 1000.0)] == entries[:1]
    assert (schedule.stalls, schedule.stalled_s) == (1, 1000.0)
    assert [entry for entry, _late in due(schedule, 1001.0)] == entries[1:2]
    assert [entry for entry, _late in due(schedule, 1002.9)] == entries[2:3]
    assert schedule.stalls == 1


@given(st.text(min_size=1, max_size=50), st.floats(0.1, 100_000))
def test_the_first_attempt_is_within_the_interval_and_soon(name: str, every_s: float) -> None:
    assert 0 <= phase(name) < 1
    assert phase(name) == phase(name)
    first_s, second_s = first_two_s(name, every_s, 10)
    assert 0 <= first_s <= min(every_s, FIRST_SPREAD_S)
    assert every_s / 2 <= second_s - first_s <= 1.5 * every_s
    assert abs(second_s / every_s % 1 - phase(name)) < 1e-6
