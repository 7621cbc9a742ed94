"""Batches and the stop rule: pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.errors import UsageError
from dogwatch.fleet.rollout import Rollout, cut_batches, judge, parse_amount, parse_batches

HOSTS = [f"h{number}" for number in range(40)]


def sizes(text: str, total: int = 40) -> list[int]:
    return [len(batch) for batch in cut_batches(HOSTS[:total], parse_batches(text))]


@pytest.mark.parametrize(
    ("text", "total", "expected"),
    [
        ("", 40, [40]),
        ("", 0, []),
        ("10%,25%,100%", 40, [4, 6, 30]),
        ("10%", 40, [4] * 10),
        ("1,5,20", 40, [1, 5, 20, 14]),
        ("1,10%,100%", 40, [1, 3, 36]),
        ("10%,25%,100%", 3, [1, 2]),
        ("50", 40, [40]),
        ("1%,100%", 3, [1, 2]),
    ],
)
def test_batches(text: str, total: int, expected: list[int]) -> None:
    assert sizes(text, total) == expected


@given(
    st.lists(st.one_of(st.integers(1, 50).map(str), st.integers(1, 100).map(lambda n: f"{n}%")), max_size=4),
    st.integers(0, 40),
)
def test_every_host_is_in_exactly_one_batch(parts: list[str], total: int) -> None:
    try:
        batches = parse_batches(",".join(parts))
    except UsageError:
        return
    cut = cut_batches(HOSTS[:total], batches)
    assert [host for batch in cut for host in batch] == HOSTS[:total]
    assert all(cut)


@pytest.mark.parametrize("text", ["0", "50%,25%", "x", "-1", "0%", "101%", "10%,10%"])
def test_batches_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_batches(text)


@pytest.mark.parametrize(
    ("rule", "total", "failed", "goes_on"),
    [
        ("0", 10, 0, True),
        ("0", 10, 1, False),
        ("5%", 100, 5, True),
        ("5%", 100, 6, False),
        ("5%", 10, 1, False),
        ("3", 10, 3, True),
    ],
)
def test_the_stop_rule(rule: str, total: int, failed: int, goes_on: bool) -> None:
    verdict = judge(Rollout(max_fail=parse_amount(rule)), total=total, failed=failed)
    assert verdict.go_on is goes_on
    assert bool(verdict.reason) is not goes_on
