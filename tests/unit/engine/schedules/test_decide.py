"""What is due, what was missed, what waits for a window: the pure decider."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.engine.schedules.decide import MOST, due, next_fires, upcoming
from dogwatch.engine.schedules.plan import Plan, build_plan, shared_zones
from dogwatch.engine.schedules.spec import Blackout, ScheduleSpec, timing_digest

T0 = datetime(2026, 11, 21, tzinfo=UTC).timestamp()  # a Saturday


def plan(**options: Any) -> Plan:
    return build_plan(ScheduleSpec(name="backup", job="backup", **options), shared_zones())


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def clocks(times: list[float]) -> list[str]:
    return [datetime.fromtimestamp(time, UTC).strftime("%d %H:%M:%S") for time in times]


def fires(found: Plan, after_s: float, count: int) -> list[str]:
    return clocks([fire.due_s for fire in next_fires(found, after_s, count)])


class TestWhenItFires:
    def test_intervals_go_through_their_anchor(self) -> None:
        assert fires(plan(every=900.0), T0 + 1, 2) == ["21 00:15:00", "21 00:30:00"]
        assert fires(plan(every=900.0, anchor="2027-01-01T00:05Z"), T0, 2) == ["21 00:05:00", "21 00:20:00"]
        assert fires(plan(every=7200.0, start="2026-11-21T01:30Z"), T0, 2) == ["21 01:30:00", "21 03:30:00"]

    @given(st.floats(1, 1e6), st.floats(0, 2e9), st.floats(0, 2e9))
    def test_an_interval_always_moves_on(self, every_s: float, anchor_s: float, after_s: float) -> None:
        anchor = datetime.fromtimestamp(anchor_s, UTC).isoformat()
        timing = plan(every=every_s, anchor=anchor).timing
        found = timing.after(after_s)
        assert found is not None
        assert after_s < found <= after_s + every_s * (1 + 1e-9) + 1e-3
        following = timing.after(found)
        assert following is not None
        assert following > found

    def test_times_of_day_fire_on_every_day_of_the_zone(self) -> None:
        found = plan(at=["06:30", "18:00:05"], time_zone="Europe/Berlin")
        assert fires(found, T0, 3) == ["21 05:30:00", "21 17:00:05", "22 05:30:00"]
        # 02:30 is skipped on this day
        skipped = plan(at=["02:30"], time_zone="Europe/Berlin")
        assert fires(skipped, at("2026-03-28T12:00Z"), 2) == ["29 01:00:00", "30 00:30:00"]

    def test_single_moments_fire_once(self) -> None:
        found = plan(at=["2026-11-22T06:00", "2026-11-21T06:00+02:00"])
        assert fires(found, T0, 5) == ["21 04:00:00", "22 06:00:00"]

    def test_dates_of_every_year_and_of_one(self) -> None:
        found = plan(calendar=["12-24", "02-29", "2026-12-01"], at=["08:00"])
        times = [datetime.fromtimestamp(fire.fire_s, UTC).isoformat()[:16] for fire in next_fires(found, T0, 5)]
        assert times == [
            *("2026-12-01T08:00", "2026-12-24T08:00", "2027-12-24T08:00", "2028-02-29T08:00", "2028-12-24T08:00"),
        ]

    def test_start_and_end_bound_it(self) -> None:
        found = plan(cron="0 * * * *", start="2026-11-21T05:00", end="2026-11-21T07:00")
        assert fires(found, T0, 10) == ["21 05:00:00", "21 06:00:00", "21 07:00:00"]

    def test_jitter_is_the_same_for_everybody_and_within_its_bound(self) -> None:
        found = plan(cron="*/5 * * * *", jitter=60.0)
        late = [fire.due_s - fire.fire_s for fire in next_fires(found, T0, 200)]
        assert late == [fire.due_s - fire.fire_s for fire in next_fires(plan(cron="*/5 * * * *", jitter=60.0), T0, 200)]
        assert all(0 <= one < 60 for one in late)
        assert len({round(one) for one in late}) > 40

    def test_a_jitter_longer_than_the_interval_overtakes_nothing(self) -> None:
        found = next_fires(plan(cron="* * * * * *", jitter=20.0), T0, 100)
        assert [fire.due_s for fire in found] == sorted(fire.due_s for fire in found)
        assert [fire.fire_s for fire in found] == [T0 + 1 + n for n in range(100)]


class TestBlackout:
    NIGHT = (Blackout(from_="22:00", to="06:00"),)

    def test_fires_inside_are_left_out(self) -> None:
        found = plan(cron="0 */2 * * *", blackout=list(self.NIGHT))
        assert fires(found, T0 + 18 * 3600, 3) == ["21 20:00:00", "22 06:00:00", "22 08:00:00"]

    def test_or_one_waits_for_the_end(self) -> None:
        found = plan(cron="30 */2 * * *", blackout=list(self.NIGHT), blackout_policy="defer")
        # Of 22:30, 00:30, 02:30 and 04:30, one starts at six; it is known by the first of their times.
        assert fires(found, T0 + 18 * 3600, 4) == ["21 18:30:00", "21 20:30:00", "22 06:00:00", "22 06:30:00"]
        assert clocks([fire.fire_s for fire in next_fires(found, T0 + 21 * 3600, 2)]) == ["21 22:30:00", "22 06:30:00"]

    def test_the_fire_at_the_end_stands_for_those_that_wait(self) -> None:
        found = plan(cron="0 */2 * * *", blackout=list(self.NIGHT), blackout_policy="defer")
        assert fires(found, T0 + 21 * 3600, 2) == ["22 06:00:00", "22 08:00:00"]

    def test_windows_by_cron_overlap(self) -> None:
        windows = [Blackout(cron="0 1 * * *", duration=3600.0), Blackout(cron="30 1 * * *", duration=3600.0)]
        found = plan(cron="*/15 * * * *", blackout=windows)
        assert fires(found, T0 + 2700, 2) == ["21 02:30:00", "21 02:45:00"]

    def test_a_window_has_its_own_zone(self) -> None:
        found = plan(cron="0 * * * *", blackout=[Blackout(from_="01:00", to="05:00", time_zone="Asia/Tokyo")])
        assert fires(found, at("2026-11-21T15:00Z"), 2) == ["21 20:00:00", "21 21:00:00"]

    def test_one_window_in_time(self) -> None:
        found = plan(cron="0 * * * *", blackout=[Blackout(from_="2026-11-21T00:30", to="2026-11-23T00:00")])
        assert fires(found, T0 - 1, 2) == ["21 00:00:00", "23 00:00:00"]

    def test_what_the_jitter_moves_inside_is_inside(self) -> None:
        found = plan(cron="59 21 * * *", jitter=600.0, blackout=list(self.NIGHT))
        for fire in next_fires(found, T0, 50):
            assert fire.due_s < fire.fire_s + 60

    def test_a_window_without_end_leaves_nothing(self) -> None:
        found = plan(cron="0 * * * *", blackout=[Blackout(cron="* * * * *", duration=120.0)])
        assert next_fires(found, T0, 1) == []

    @settings(max_examples=40)
    @given(
        st.sampled_from(["skip", "defer"]),
        st.lists(st.tuples(st.integers(0, 23), st.integers(1, 300)), min_size=1, max_size=3),
        st.sampled_from(["*/7 * * * *", "0 * * * *", "13 */3 * * *"]),
    )
    def test_nothing_starts_inside(self, policy: Any, windows: list[tuple[int, int]], cron: str) -> None:
        blackout = [Blackout(cron=f"0 {hour} * * *", duration=60.0 * length) for hour, length in windows]
        found = plan(cron=cron, blackout=blackout, blackout_policy=policy)
        until = T0 + 2 * 86400
        free = [fire.fire_s for fire in takewhile(lambda fire: fire.due_s < until, upcoming(plan(cron=cron), T0))]

        def inside(time: float) -> bool:
            return any(0 <= (time - T0 - hour * 3600) % 86400 < length * 60 for hour, length in windows)

        seen = list(takewhile(lambda fire: fire.due_s < until, upcoming(found, T0)))
        assert not [fire for fire in seen if inside(fire.due_s)]
        outside = {time for time in free if not inside(time)}
        assert outside == {fire.fire_s for fire in seen if fire.fire_s == fire.due_s}
        if policy == "skip":
            assert len(seen) == len(outside)


class TestDue:
    def test_nothing_before_its_time(self) -> None:
        found = plan(cron="* * * * *")
        assert due(found, T0, T0 + 59.9).start == ()
        decision = due(found, T0, T0 + 60)
        assert [fire.fire_s for fire in decision.start] == [T0 + 60]
        assert (decision.cursor_s, decision.missed) == (T0 + 60, 0)
        assert due(found, decision.cursor_s, T0 + 61).start == ()

    @pytest.mark.parametrize(
        ("misfire", "expected", "missed"),
        [("skip", [], 5), ("latest", [300], 4), ("all", [60, 120, 180, 240, 300], 0)],
    )
    def test_the_policy_decides_what_was_missed(self, misfire: str, expected: list[int], missed: int) -> None:
        decision = due(plan(cron="* * * * *", misfire=misfire), T0, T0 + 345)
        assert [fire.fire_s - T0 for fire in decision.start] == expected
        assert (decision.missed, decision.exact, decision.cursor_s) == (missed, True, T0 + 300)

    def test_late_by_less_is_not_missed(self) -> None:
        found = plan(cron="*/10 * * * * *", misfire="skip")
        decision = due(found, T0, T0 + 65)
        assert [fire.fire_s - T0 for fire in decision.start] == [40, 50, 60]
        assert (decision.missed, decision.first_missed_s, decision.last_missed_s) == (3, T0 + 10, T0 + 30)

    def test_a_fire_in_time_is_the_latest(self) -> None:
        decision = due(plan(cron="* * * * *"), T0, T0 + 301)
        assert [fire.fire_s - T0 for fire in decision.start] == [300]
        assert decision.missed == 4

    def test_all_has_a_limit(self) -> None:
        decision = due(plan(cron="* * * * *", misfire="all", misfire_limit=3), T0, T0 + 6000)
        assert [fire.fire_s - T0 for fire in decision.start] == [5880, 5940, 6000]
        assert decision.missed == 97

    @pytest.mark.parametrize("misfire", ["skip", "latest", "all"])
    def test_a_year_of_seconds_is_not_walked(self, misfire: str) -> None:
        now_s = T0 + 365 * 86400 + 0.5
        decision = due(plan(cron="* * * * * *", misfire=misfire, misfire_after=0.1, misfire_limit=5), T0, now_s)
        assert decision.cursor_s == now_s - 0.5
        assert [now_s - 0.5 - fire.fire_s for fire in decision.start] == {
            "skip": [],
            "latest": [0.0],
            "all": [4.0, 3.0, 2.0, 1.0, 0.0],
        }[misfire]
        assert not decision.exact
        assert 0 < decision.missed <= MOST

    def test_dense_hours_long_ago_end_with_the_newest(self) -> None:
        found = plan(cron="* * 0-5 21 11 *", misfire_after=0.0)
        decision = due(found, T0 - 1, T0 + 200 * 86400)
        assert [fire.fire_s for fire in decision.start] == [T0 + 6 * 3600 - 1]

    def test_a_clock_set_back_makes_nothing_due(self) -> None:
        found = plan(cron="* * * * *")
        decision = due(found, T0 + 3600, T0)
        assert (decision.start, decision.missed, decision.cursor_s) == ((), 0, T0 + 3600)

    def test_what_waits_for_a_window_is_not_late_when_it_ends(self) -> None:
        found = plan(cron="0 23 * * *", blackout=[Blackout(from_="22:00", to="06:00")], blackout_policy="defer")
        before, after = T0 + 29.9 * 3600, T0 + 30 * 3600
        assert due(found, T0, before).start == ()
        decision = due(found, T0, after)
        assert [(fire.fire_s, fire.due_s) for fire in decision.start] == [(T0 + 23 * 3600, after)]
        assert due(found, decision.cursor_s, after + 1).start == ()

    @given(
        st.sampled_from(["* * * * *", "*/10 * * * * *", "7 * * * *"]),
        st.sampled_from(["all", "latest", "skip"]),
        st.lists(st.floats(-300, 900), min_size=1, max_size=40),
        st.floats(0, 30),
    )
    def test_no_fire_twice_however_the_clock_jumps(
        self, cron: str, misfire: Any, steps: list[float], jitter: float
    ) -> None:
        found = plan(cron=cron, misfire=misfire, misfire_limit=1000, jitter=jitter)
        cursor_s = now_s = T0
        seen: list[float] = []
        missed = 0
        for step in steps:
            now_s += step
            decision = due(found, cursor_s, now_s)
            assert decision.cursor_s >= cursor_s
            seen += [fire.fire_s for fire in decision.start]
            missed += decision.missed
            cursor_s = decision.cursor_s
        assert seen == sorted(set(seen))
        between = [fire for fire in next_fires(found, T0, 5000) if fire.fire_s <= cursor_s]
        assert len(between) == len(seen) + missed
        if misfire == "all":
            assert seen == [fire.fire_s for fire in between]


def test_the_digest_is_about_when_only() -> None:
    spec = ScheduleSpec(name="a", job="b", cron="0 * * * *")
    same = ScheduleSpec(name="a", job="c", cron="0 * * * *", parameters={"x": 1}, misfire="all", doc="new")
    assert timing_digest(spec) == timing_digest(same)
    others = [
        ScheduleSpec(name="a", job="b", cron="1 * * * *"),
        ScheduleSpec(name="a", job="b", cron="0 * * * *", paused=True),
        ScheduleSpec(name="a", job="b", cron="0 * * * *", blackout=[Blackout(from_="01:00", to="02:00")]),
    ]
    assert len({timing_digest(one) for one in [spec, *others]}) == 4


def test_the_walk_is_lazy() -> None:
    assert next(upcoming(plan(cron="* * * * * *"), T0)).fire_s == T0 + 1
    assert plan(cron="* * * * *").end_s == math.inf
