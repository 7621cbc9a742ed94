"""Windows against a recomputation from all samples, for every history."""

from __future__ import annotations

import itertools
import math
import random
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.rules.windows import Window, exact, nearest_float

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0, 1.0, 2.0, 0.1])
STEPS = st.tuples(st.sampled_from([0.0, 0.5, 1.0, 3.0, 20.0, -2.0]), NUMBERS)


class Naive:
    """Keeps all samples and computes everything anew."""

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        self.samples: list[tuple[float, float]] = []

    def add(self, time_s: float, value: float) -> None:
        # What has left stays away, where the clock is set back, too.
        self.samples = [one for one in self.held(time_s) if one[0] < time_s] + [(time_s, value)]

    def held(self, now_s: float) -> list[tuple[float, float]]:
        return [one for one in self.samples if one[0] > now_s - self.length_s]


def rise(values: list[float]) -> Fraction:
    pairs = itertools.pairwise(values)
    return sum((Fraction(b) - Fraction(a) if b >= a else Fraction(b) for a, b in pairs), Fraction(0))


def as_float(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


@given(st.lists(STEPS, max_size=60), st.sampled_from([1.0, 2.5, 10.0]), st.floats(0, 1), st.floats(0, 15))
def test_every_answer_is_that_of_a_recomputation(
    steps: list[tuple[float, float]], length_s: float, share: float, later_s: float
) -> None:
    window, naive = Window(length_s, ranked=True), Naive(length_s)
    now_s = 1000.0
    for passed_s, value in steps:
        now_s += passed_s
        window.add(now_s, value)
        naive.add(now_s, value)
    now_s += later_s
    window.move(now_s)
    held = naive.held(now_s)
    values = [value for _time, value in held]
    assert window.count() == len(values)
    if not values:
        assert (window.avg(), window.sum(), window.min(), window.max()) == (None, None, None, None)
        assert (window.changes(), window.rate(), window.quantile(share)) == (None, None, None)
        return
    total = sum(map(Fraction, values), Fraction(0))
    assert window.sum() == as_float(total)
    assert window.avg() == as_float(total / len(values))
    assert window.min() == min(values)
    assert window.max() == max(values)
    assert window.changes() == sum(a != b for a, b in itertools.pairwise(values))
    ranks = sorted(values)
    quantile = window.quantile(share)
    assert quantile is not None
    assert ranks[0] <= quantile <= ranks[-1] or math.isclose(quantile, ranks[0]) or math.isclose(quantile, ranks[-1])
    assert (window.quantile(0.0), window.quantile(1.0)) == (ranks[0], ranks[-1])
    rate = window.rate()
    if len(values) < 2:
        assert rate is None
    else:
        assert rate == as_float(rise(values)) / (held[-1][0] - held[0][0])


@given(NUMBERS)
def test_exact_numbers_come_back(value: float) -> None:
    assert nearest_float(exact(value)) == value


@pytest.mark.parametrize("value", [5e-324, -5e-324, 2.2e-308, sys.float_info.max, -sys.float_info.max])
def test_the_ends_of_the_numbers_come_back(value: float) -> None:
    assert nearest_float(exact(value)) == value


@given(st.lists(NUMBERS, min_size=1, max_size=40), st.integers(0, 40))
def test_a_window_filled_anew_answers_to_the_last_bit(values: list[float], since: int) -> None:
    """What a window saw before what it holds now must leave no trace in its sums."""
    long = Window(10.0)
    for at, value in enumerate([1e300, 0.1, -1e-300] * since + values):
        long.add(float(at), value)
    short = Window(10.0)
    for at, value in list(enumerate([1e300, 0.1, -1e-300] * since + values))[-10:]:
        short.add(float(at), value)
    for name in ("count", "sum", "avg", "min", "max", "rate", "changes"):
        assert getattr(long, name)() == getattr(short, name)()


def test_memory_is_bounded_and_what_is_lost_is_counted() -> None:
    window = Window(1e9, ranked=True, limit=100)
    for at in range(1000):
        window.add(float(at), random.random())
    assert len(window) == 100
    assert window.dropped == 900
    window.add(1000.0, -1.0)
    assert window.min() == -1.0


def test_what_is_no_number_is_not_taken() -> None:
    window = Window(60.0)
    for at, value in enumerate((math.nan, math.inf, -math.inf, 3.0)):
        window.add(float(at), value)
    assert (window.count(), window.avg()) == (1, 3.0)


def test_a_clock_that_goes_back_forgets_the_future() -> None:
    window = Window(60.0)
    for time_s, value in ((100.0, 1.0), (200.0, 2.0), (150.0, 7.0)):
        window.add(time_s, value)
    window.move(160.0)
    assert (window.count(), window.max()) == (2 if 100.0 > 160.0 - 60.0 else 1, 7.0)


def test_a_counter_that_began_anew_goes_on_rising() -> None:
    window = Window(60.0)
    for time_s, value in ((0.0, 10.0), (10.0, 30.0), (20.0, 5.0), (30.0, 15.0)):
        window.add(time_s, value)
    assert window.rate() == (20.0 + 5.0 + 10.0) / 30.0
