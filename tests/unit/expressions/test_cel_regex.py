"""Which patterns run in Python, that they mean what RE2 means, and that none of them can run away."""

from __future__ import annotations

import time

import pytest

from dogwatch.expressions.cel_reference import reference_matcher
from dogwatch.expressions.cel_regex import _is_safe, matcher

TEXTS = [
    '"status": "ok"',
    '"status":"ok"',
    '"status":\n\t "ok"',
    '"status":\v"ok"',
    "a12b",
    "ab",
    "x:  y",
    "a\x0bb",
    "a b",
]


@pytest.mark.parametrize(
    "pattern", [r'"status":\s*"ok"', r"a\d+b", r'"\w+"', "x: +y", r"a\sb", r":\s*\"", r'"a":\s*\[']
)
def test_a_repeated_class_between_other_characters_means_the_same_as_in_re2(pattern: str) -> None:
    assert _is_safe(pattern)
    ours, reference = matcher(pattern), reference_matcher(pattern)
    assert [bool(ours(text)) for text in TEXTS] == [bool(reference(text)) for text in TEXTS]


@pytest.mark.parametrize(
    "pattern",
    [
        r"\s*x",
        r"a\s*",
        r"a\w*b",
        r"a\s*b*",
        r"a \s*b",
        r"a?\s*b",
        r"(a|b)\s*c",
        r"a\s*b?c",
        r"\\s*x",
        r"\d\s*x",
        "a.*b",
    ],
)
def test_a_stretch_that_could_be_entered_or_left_in_many_ways_goes_to_re2(pattern: str) -> None:
    assert not _is_safe(pattern)


def test_a_long_stretch_is_looked_at_once() -> None:
    find = matcher(r'"status":\s*"ok"')
    text = '"status":' + " " * 1_000_000
    started_s = time.thread_time()
    assert not find(text)
    assert time.thread_time() - started_s < 1.0
