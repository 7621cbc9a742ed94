"""Steady growth is found; saw-teeth, steps, noise and loads that end are not."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.diagnose.growth import Threshold, judge, slope_per_s, thin

HOUR = 3600.0
EVERY = 15.0
COUNT = 240
LIMIT = Threshold(absolute=20)


def points(value) -> list[tuple[float, float]]:
    return [(1000.0 + index * EVERY, float(value(index))) for index in range(COUNT)]


def grown(value):
    return judge(points(value), min_span_s=HOUR / 2, threshold=LIMIT)


seeds = st.integers(0, 2**32)


@given(per_hour=st.floats(30, 10_000), first=st.floats(0, 200), noise=st.floats(0, 0.04), seed=seeds)
def test_a_steady_leak_is_found_with_its_slope(per_hour: float, first: float, noise: float, seed: int) -> None:
    shaking = random.Random(seed)
    rise = per_hour / COUNT
    found = grown(lambda i: first + i * rise + shaking.uniform(-noise, noise) * per_hour)
    assert found is not None
    assert found.per_hour == pytest.approx(per_hour, rel=0.2)
    assert found.first < found.last
    assert found.span_s == (COUNT - 1) * EVERY


@given(period=st.integers(2, 35), height=st.floats(1, 10_000), per_hour=st.floats(50, 1000), seed=seeds)
def test_a_leak_under_a_saw_tooth_is_found(period: int, height: float, per_hour: float, seed: int) -> None:
    small = min(height, per_hour / 8)
    assert grown(lambda i: 100 + i * per_hour / COUNT + (i % period) / period * small) is not None


@given(period=st.integers(2, 35), height=st.floats(0, 1e9), base=st.floats(0, 1e9))
def test_a_saw_tooth_is_no_leak(period: int, height: float, base: float) -> None:
    assert grown(lambda i: base + (i % period) / period * height) is None


@given(at=st.integers(0, COUNT), height=st.floats(-1e9, 1e9), base=st.floats(0, 1e9))
def test_a_step_is_no_leak(at: int, height: float, base: float) -> None:
    assert grown(lambda i: base + (height if i >= at else 0)) is None


@given(ats=st.lists(st.integers(0, COUNT), min_size=2, max_size=3), height=st.floats(0, 1e6))
def test_a_few_steps_are_no_leak(ats: list[int], height: float) -> None:
    assert grown(lambda i: 50 + sum(height for at in ats if i >= at)) is None


@given(seed=seeds, sigma=st.floats(0, 1e6), base=st.floats(0, 1e6))
def test_noise_is_no_leak(seed: int, sigma: float, base: float) -> None:
    shaking = random.Random(seed)
    assert grown(lambda i: base + shaking.gauss(0, sigma)) is None


@given(seed=seeds)
def test_noise_is_no_leak_however_often_one_looks(seed: int) -> None:
    """A sliding window is judged at every sample: an alarm in a thousand looks would be one every four hours."""
    shaking = random.Random(seed)
    series = [(i * EVERY, 1000 + shaking.gauss(0, 100)) for i in range(COUNT + 120)]
    for start in range(0, 120, 4):
        assert judge(series[start : start + COUNT], min_span_s=HOUR / 2, threshold=LIMIT) is None


@given(seed=seeds, cycles=st.floats(1, 8), height=st.floats(1, 1e5))
def test_a_load_that_comes_and_goes_is_no_leak(seed: int, cycles: float, height: float) -> None:
    shift = random.Random(seed).uniform(0, 2 * math.pi)
    assert grown(lambda i: 1e5 + height * math.sin(shift + i / COUNT * 2 * math.pi * cycles)) is None


@given(full=st.integers(5, COUNT // 2), height=st.floats(1, 1e6))
def test_a_cache_that_filled_up_is_no_leak(full: int, height: float) -> None:
    assert grown(lambda i: height * min(i, full) / full) is None


@given(per_hour=st.floats(-1e6, 0))
def test_shrinking_is_no_leak(per_hour: float) -> None:
    assert grown(lambda i: 1e6 + i * per_hour / COUNT) is None


def test_what_is_small_is_nobodys_concern() -> None:
    assert grown(lambda i: 100 + i * 19 / COUNT) is None
    assert grown(lambda i: 10_000 + i * 500 / COUNT) is None  # 5 % of what was there


def test_it_is_too_early_to_say() -> None:
    leak = points(lambda i: i * 10)
    assert judge(leak[:20], min_span_s=1, threshold=LIMIT) is None
    assert judge(leak[:100], min_span_s=HOUR / 2, threshold=LIMIT) is None
    assert judge([], min_span_s=HOUR, threshold=LIMIT) is None
    # All points at once, as after a long pause of the process.
    assert judge([(5.0, float(i)) for i in range(100)], min_span_s=0, threshold=LIMIT) is None
    # A hole in the middle: nobody knows what happened there.
    assert judge(leak[:20] + leak[-20:], min_span_s=HOUR / 2, threshold=LIMIT) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e9)), max_size=80))
def test_any_points_are_judged_without_an_error(raw: list[tuple[float, float]]) -> None:
    found = judge(sorted(raw), min_span_s=10, threshold=Threshold(absolute=1))
    assert found is None or found.last > found.first


def test_a_third_of_wild_points_does_not_move_the_slope() -> None:
    line = [(float(i), 2.0 * i if i % 4 else 1e6) for i in range(60)]
    assert slope_per_s(line) == pytest.approx(2.0, rel=0.3)
    assert slope_per_s([(1.0, 5.0)]) == 0


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=500), st.integers(1, 100))
def test_thinning_keeps_floors(values: list[float], limit: int) -> None:
    thinned = thin([(float(i), value) for i, value in enumerate(values)], limit)
    assert len(thinned) <= limit
    assert min(value for _, value in thinned) == min(values)
