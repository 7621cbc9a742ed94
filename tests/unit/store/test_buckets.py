from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.values import Status
from dogwatch.store import histogram
from dogwatch.store.buckets import Bucket, merge_into, points, roll_up, width_s, worse
from dogwatch.store.columns import ResultColumns
from dogwatch.store.protocol import ResultRow


@given(since=st.floats(0, 4e9), span=st.floats(0.01, 1e9), count=st.integers(1, 2000))
def test_a_period_has_at_most_as_many_buckets_as_asked_for(since: float, span: float, count: int) -> None:
    width = width_s(since, since + span, count)
    first, last = since // width, -(-(since + span) // width)
    # One bucket cannot hold a period that crosses its border, however wide it is: then two are made of it.
    assert last - first <= max(count, 1) or width > since + span or count == 1


@pytest.mark.parametrize(
    ("hours", "points_wanted", "width"), [(24, 300, 300), (1, 300, 15), (6, 300, 120), (720, 300, 10800)]
)
def test_widths_are_round(hours: int, points_wanted: int, width: int) -> None:
    assert width_s(1.8e9, 1.8e9 + hours * 3600, points_wanted) == width


def test_no_points_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        width_s(0, 1, 0)


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.booleans(), st.integers(1, 10**7), st.integers(0, 5)), max_size=80)
)
def test_rolling_up_in_parts_is_rolling_up_at_once(rows: list[tuple[int, bool, int, int]]) -> None:
    def columns(part: list[tuple[int, bool, int, int]]) -> ResultColumns:
        out = ResultColumns()
        for second, good, us, status in part:
            row = ResultRow("t", float(second), good, status, us / 1e6, us / 2e6)
            out.add(out.pack(row), second * 1000)
        return out

    cut = len(rows) // 3
    fine: dict[int, Bucket] = {}
    for part in (rows[:cut], rows[cut:]):
        if part:
            merge_into(fine, roll_up(columns(part), 300).items(), 300)
    coarse: dict[int, Bucket] = {}
    merge_into(coarse, ((start, bucket.copy()) for start, bucket in fine.items()), 3600)
    assert points(fine) == (points(roll_up(columns(rows), 300)) if rows else [])
    assert points(coarse) == (points(roll_up(columns(rows), 3600)) if rows else [])


def test_down_is_worst_and_pending_says_least() -> None:
    assert worse(Status.DOWN, Status.MAINTENANCE) == Status.DOWN
    assert worse(Status.PENDING, Status.PAUSED) == Status.PAUSED
    assert worse(Status.DEGRADED, Status.UP) == Status.DEGRADED


@given(st.integers(0, 2**32 - 1))
def test_a_bin_stands_for_what_is_in_it(duration_us: int) -> None:
    number = histogram.bin_of(duration_us)
    assert 0 <= number <= 255
    assert histogram.middle_us(number) == pytest.approx(duration_us, rel=0.0625, abs=0.5)


def test_bins_grow_with_durations() -> None:
    bins = [histogram.bin_of(number) for number in range(100_000)]
    assert bins == sorted(bins)


def test_percentiles_survive_encoding_and_merging() -> None:
    chance = random.Random(3)
    durations = [int(chance.lognormvariate(9, 1)) for _ in range(5000)]
    merged = histogram.decode(histogram.encode(histogram.count(durations[:2000])))
    merged.update(histogram.decode(histogram.encode(histogram.count(durations[2000:]))))
    ordered = sorted(durations)
    assert histogram.quantiles_s(merged) == pytest.approx(
        tuple(ordered[int(share * 4999)] / 1e6 for share in (0.5, 0.95, 0.99)), rel=0.07
    )
    assert histogram.quantiles_s(histogram.count([])) is None
