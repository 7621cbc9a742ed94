"""Ids of runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dogwatch.engine.book.ids import LENGTH, Mint, span_of

TIMES = st.floats(min_value=0, max_value=3e10, allow_nan=False)


def test_ids_of_one_moment_sort_as_they_were_made() -> None:
    mint = Mint()
    ids = [mint.next(1_800_000_000.0) for _ in range(5000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5000
    assert {len(one) for one in ids} == {LENGTH}


@given(TIMES, TIMES)
def test_later_ids_are_greater(first: float, second: float) -> None:
    mint = Mint()
    earlier, later = sorted((first, second))
    if int(later * 1000) > int(earlier * 1000):
        assert mint.next(earlier) < mint.next(later)


@given(TIMES, st.integers(1, LENGTH))
def test_every_beginning_of_an_id_spans_its_time(now_s: float, length: int) -> None:
    span = span_of(Mint().next(now_s)[:length])
    assert span is not None
    assert span[0] <= now_s <= span[1]


def test_what_no_id_begins_with_spans_nothing() -> None:
    assert [span_of(text) for text in ("", "%", "u", "0" * 19, "É")] == [None] * 5
