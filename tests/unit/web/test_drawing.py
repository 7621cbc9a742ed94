"""Bars and badges."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.values import Status
from dogwatch.store.protocol import ResultRow
from dogwatch.web.badges import badge, percent
from dogwatch.web.bars import SLOT, draw


def _row(time_s: float, *, success: bool = True, status: Status = Status.UP, reason: str = "") -> ResultRow:
    return ResultRow("t", time_s, success, int(status), 0.0123, reason=reason)


def test_newest_bars_stand_at_the_right() -> None:
    bars = draw([_row(1), _row(2, success=False, reason="timeout")], 10)
    assert bars.paths["up"] == f"M{8 * SLOT + 3} 3V21"
    assert bars.paths["fail"].startswith(f"M{9 * SLOT + 3} ")
    assert json.loads(bars.data) == [[1.0, 12.3, "up", ""], [2.0, 12.3, "fail", "timeout"]]
    assert bars.label == "last 2 checks, 1 failed"


def test_each_shape_differs_without_colour() -> None:
    rows = [
        _row(1),
        _row(2, status=Status.DEGRADED),
        _row(3, success=False, status=Status.DOWN),
        _row(4, success=False, status=Status.MAINTENANCE),
    ]
    bars = draw(rows, 4)
    assert all(bars.paths.values())
    assert len({path.split(" ", 1)[1] for path in bars.paths.values()}) == 4


def test_more_results_than_slots_keep_the_newest() -> None:
    bars = draw([_row(at) for at in range(20)], 5)
    assert [entry[0] for entry in json.loads(bars.data)] == [15, 16, 17, 18, 19]


@given(label=st.text(max_size=120), message=st.text(max_size=120))
def test_badge_is_always_well_formed(label: str, message: str) -> None:
    svg = badge(label, message, "#000").encode("utf-8", "replace")
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert not [element for element in root.iter() if "script" in element.tag]


def test_badge_escapes() -> None:
    assert "<script" not in badge("<script>alert(1)</script>", '" onload="x', "#000")
    assert 'onload="x' not in badge("a", '" onload="x', "#000")


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.0, "100 %"), (0.99999, "99.99 %"), (0.5, "50.00 %"), (0.0, "0.00 %"), (None, "no data")],
)
def test_percent_is_never_rounded_up_to_all(ratio: float | None, text: str) -> None:
    assert percent(ratio) == text
