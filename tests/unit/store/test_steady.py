from __future__ import annotations

from dogwatch.store.steady import SETTLE_S, SteadyTime


def test_a_clock_that_runs_evenly_is_believed() -> None:
    steady = SteadyTime(now_s=1000.0, monotonic_s=0.0, last_s=None)
    assert not steady.observe(now_s=1100.0, monotonic_s=99.0)
    assert steady.believed_s() == 1100.0


def test_a_jump_is_believed_after_it_lasted() -> None:
    steady = SteadyTime(now_s=1000.0, monotonic_s=0.0, last_s=990.0)
    assert steady.observe(now_s=9e9, monotonic_s=1.0)
    assert steady.believed_s() is None
    assert not steady.observe(now_s=9e9 + SETTLE_S, monotonic_s=1.0 + SETTLE_S)
    assert steady.believed_s() == 9e9 + SETTLE_S


def test_a_second_jump_begins_the_wait_anew() -> None:
    steady = SteadyTime(now_s=1000.0, monotonic_s=0.0, last_s=990.0)
    steady.observe(now_s=9e9, monotonic_s=1.0)
    assert steady.observe(now_s=1000.0 + SETTLE_S, monotonic_s=SETTLE_S)
    assert steady.believed_s() is None


def test_a_start_far_from_the_last_commit_is_not_believed_at_once() -> None:
    for last_s in (0.0, 1e9 + 60.0):
        steady = SteadyTime(now_s=1e9, monotonic_s=0.0, last_s=last_s)
        assert steady.believed_s() is None
        assert not steady.observe(now_s=1e9 + SETTLE_S, monotonic_s=SETTLE_S)
        assert steady.believed_s() == 1e9 + SETTLE_S
    assert SteadyTime(now_s=1e9, monotonic_s=0.0, last_s=1e9 - 3600).believed_s() == 1e9
