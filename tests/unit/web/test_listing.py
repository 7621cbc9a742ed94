"""Filters, pages and groups of targets."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes_watch import few, many

from dogwatch.errors import UsageError
from dogwatch.web import listing


def _names(text: str) -> list[str]:
    wanted = listing.parse_filter(text)
    return [view.name for view in few(1_800_000_000.0) if wanted.matches(view)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("shop", ["shop", "shop/checkout", "blog", "login", "resolver", "certificate"]),
        ("SHOP checkout", ["shop/checkout"]),
        ("status:down", ["shop/checkout"]),
        ("status:down status:degraded", ["shop/checkout", "blog"]),
        ("group:data db", ["db-1", "db-2"]),
        ("label:team=shop status:up", ["shop", "login"]),
        ("数据", ["größe 数据 <b>&"]),
        ("https://blog.example/", ["blog"]),
        ("nothing-like-it", []),
    ],
)
def test_filter_finds(text: str, names: list[str]) -> None:
    assert _names(text) == names


def test_unknown_status_is_refused_with_what_is_known() -> None:
    with pytest.raises(UsageError) as caught:
        listing.parse_filter("status:dwon")
    assert "down" in caught.value.hint


def test_label_without_value_is_refused() -> None:
    with pytest.raises(UsageError):
        listing.parse_filter("label:team")


@given(count=st.integers(0, 60), limit=st.integers(1, 25))
def test_pages_show_every_target_once(count: int, limit: int) -> None:
    views = many(count, 1_800_000_000.0)
    seen: list[str] = []
    cursor = ""
    for _turn in range(100):
        chosen, cursor = listing.page(views, cursor=cursor, limit=limit)
        assert len(chosen) <= limit
        seen += [view.name for view in chosen]
        if not cursor:
            break
    assert seen == [view.name for view in views]


@given(removed=st.sets(st.integers(0, 19), max_size=15), added=st.integers(0, 10))
def test_reload_between_pages_repeats_nothing_and_loses_only_what_went(removed: set[int], added: int) -> None:
    views = many(20, 1_800_000_000.0)
    first, cursor = listing.page(views, cursor="", limit=10)
    # The target that the cursor names stays; others come and go.
    kept = [view for index, view in enumerate(views) if index not in removed - {9}]
    new = many(added, 1_800_000_000.0, groups=1)
    changed = [*(view for view in new if view.name not in {one.name for one in views}), *kept]
    rest, _cursor = listing.page(changed, cursor=cursor, limit=100)
    names = [view.name for view in rest]
    assert not set(names) & {view.name for view in first}
    assert names == [view.name for index, view in enumerate(views) if index > 9 and index not in removed]


@given(st.text(max_size=60))
def test_foreign_cursor_is_a_usage_error_or_a_page(cursor: str) -> None:
    with contextlib.suppress(UsageError):
        listing.page(many(5, 0.0), cursor=cursor, limit=2)


def test_cursor_of_a_removed_target_goes_on_at_its_place() -> None:
    views = many(10, 0.0)
    _first, cursor = listing.page(views, cursor="", limit=5)
    rest, _cursor = listing.page(views[:4] + views[5:], cursor=cursor, limit=10)
    assert [view.name for view in rest] == [view.name for view in views[5:]]


def test_trouble_is_down_before_degraded_and_newest_first() -> None:
    names = [view.name for view in listing.troubled(few(1_800_000_000.0))]
    assert names == ["shop/checkout", "blog"]


def test_worst_status_of_a_group() -> None:
    assert listing.worst(["up", "paused"]) == "up"
    assert listing.worst(["up", "down", "degraded"]) == "down"
    assert listing.worst([]) == "pending"
