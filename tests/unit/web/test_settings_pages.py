"""What the pages of settings and the palette choose to show."""

from __future__ import annotations

import pytest

from dogwatch.config.show import Row, masked
from dogwatch.web.palette import best
from dogwatch.web.settings_pages import matching, shown

ROWS = [
    Row(path="server.listen", value=":8080", origin="dogwatch.yaml:3"),
    Row(path="server.grace", value="10s", origin="default"),
    Row(path="schedules[1].parameters.token", value="hunter22", origin="dogwatch.yaml:9"),
    Row(path="schedules[1].parameters.token2.deep", value="seen", origin="dogwatch.yaml:9"),
    Row(path="schedules[11].parameters.token.deep", value="hunter23", origin="dogwatch.yaml:9"),
]


@pytest.mark.parametrize(
    ("q", "written", "paths"),
    [
        ("", True, [0, 2, 3, 4]),
        ("", False, [0, 1, 2, 3, 4]),
        ("SERVER yaml", False, [0]),
        ("10s", True, []),
        (":9 deep", True, [3, 4]),
    ],
)
def test_settings_are_found_by_path_value_and_origin(q: str, written: bool, paths: list[int]) -> None:
    assert matching(ROWS, q, written=written) == [ROWS[at] for at in paths]


def test_what_a_schedule_gives_as_a_secret_is_masked() -> None:
    found = masked(ROWS, {"schedules[1].parameters.token", "schedules[11].parameters.token"})
    assert [row.value for row in found] == [":8080", "10s", "***", "seen", "***"]


def test_long_values_are_cut() -> None:
    one = shown(Row(path="a", value=["x" * 1000], origin="default"))
    assert len(one.value) == 401
    assert one.default


def test_names_that_begin_with_the_word_come_first() -> None:
    names = ["nightly/deploy", "deploy-web", "deploy", "backup"]
    assert best(names, ["dep"]) == ["deploy", "deploy-web", "nightly/deploy"]
    assert best(names, ["dep", "night"]) == ["nightly/deploy"]
    assert best(names, ["dep"], 1) == ["deploy"]
