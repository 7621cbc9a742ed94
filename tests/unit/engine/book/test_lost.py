"""Which workers count as lost: what stands still on the observer's own clock, and nothing else."""

from __future__ import annotations

from dogwatch.engine.book.lost import Watch


def _row(beats: int, ttl_s: float = 3.0, opening: str = "") -> list[tuple[str, int, float, str]]:
    return [("w", beats, ttl_s, opening)]


def test_a_worker_is_lost_when_its_count_stood_still_for_its_time() -> None:
    watch = Watch()
    assert [watch.silent(_row(7), float(second), "") for second in range(4)] == [{}, {}, {}, {"w": 7}]


def test_each_heartbeat_begins_the_time_anew() -> None:
    watch = Watch()
    for second in range(20):
        assert not watch.silent(_row(second // 2), float(second), "")


def test_a_time_in_which_the_database_was_gone_does_not_count() -> None:
    watch = Watch()
    watch.silent(_row(1), 0.0, "")
    watch.blind()
    assert not watch.silent(_row(1), 10.0, "")
    assert watch.silent(_row(1), 13.0, "") == {"w": 1}


def test_an_observer_that_slept_looks_again_before_it_judges() -> None:
    watch = Watch()
    watch.silent(_row(1), 0.0, "")
    assert not watch.silent(_row(1), 60.0, "")
    assert not watch.silent(_row(2), 63.0, "")


def test_who_registered_in_an_earlier_opening_is_lost_at_once() -> None:
    assert Watch().silent(_row(1, opening="old"), 0.0, "new") == {"w": 1}
    assert not Watch().silent(_row(1, opening="new"), 0.0, "new")
