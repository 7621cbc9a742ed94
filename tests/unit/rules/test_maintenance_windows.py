"""One object over targets, rules and schedules: when it is on, what it takes, and what time it takes from the count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.values import Status, Transition
from dogwatch.engine.schedules.decide import next_fires
from dogwatch.engine.schedules.plan import build_plan, shared_zones
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.engine.schedules.timing import Windows
from dogwatch.rules.maintenance import Calendar, Maintenance, MaintenanceSpec, build_maintenance
from dogwatch.store.availability import account, outside, union

DAY = 86_400.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def window(**fields: Any) -> Maintenance:
    return build_maintenance(MaintenanceSpec(**{"name": "w", **fields}), shared_zones())


@pytest.mark.parametrize(
    ("fields", "targets", "labels", "rule", "takes"),
    [
        ({}, ("db",), {}, "slow", True),
        ({"targets": ("db-*",)}, ("db-1", "db-2"), {}, "slow", True),
        ({"targets": ("db-*",)}, ("db-1", "shop"), {}, "slow", False),
        ({"match": {"team": "a"}}, ("db",), {"team": "b"}, "slow", False),
        ({"rules": ("slow*",)}, ("db",), {}, "slow-answer", True),
        ({"rules": ("slow*",)}, ("db",), {}, "target-down", False),
        ({"schedules": ("nightly",)}, ("db",), {}, "slow", False),
        ({"schedules": ("nightly",), "targets": ("db",)}, ("db",), {}, "slow", True),
    ],
)
def test_what_it_takes(fields: Any, targets: Any, labels: Any, rule: str, takes: bool) -> None:
    one = window(from_="22:00", to="06:00", **fields)
    assert one.takes(targets, labels, rule) is takes


def test_stretches_of_all_kinds_in_a_zone_over_summer_time() -> None:
    night = window(from_="22:00", to="06:00", time_zone="Europe/Berlin")
    begin, end = at("2026-03-27T12:00:00"), at("2026-03-30T12:00:00")
    found = list(night.stretches(begin, end))
    # On the 29th the clocks go forward: that night is an hour shorter, and the next begins at 20:00 UTC.
    assert [round((two - one) / 3600) for one, two in found] == [8, 7, 8]
    assert found[2][0] == at("2026-03-29T20:00:00")
    cron = window(cron="0 3 * * SUN", duration=3600.0)
    assert list(cron.stretches(begin, end)) == [(at("2026-03-29T03:00:00"), at("2026-03-29T04:00:00"))]
    once = window(from_="2026-03-28T00:00", to="2026-03-28T01:00")
    assert list(once.stretches(begin, end)) == [(at("2026-03-28T00:00:00"), at("2026-03-28T01:00:00"))]
    assert list(once.stretches(end, end + DAY)) == []


@given(st.integers(0, 10_000), st.integers(1, 86_399), st.integers(1, 86_399))
def test_it_is_on_exactly_in_its_stretches(hours: int, begin: int, end: int) -> None:
    if begin == end:
        return
    text = [f"{one // 3600:02}:{one // 60 % 60:02}:{one % 60:02}" for one in (begin, end)]
    one = window(from_=text[0], to=text[1], time_zone="America/New_York")
    since_s = at("2026-01-01T00:00:00") + hours * 3600.0
    found = union(list(one.stretches(since_s, since_s + 2 * DAY)), since_s=since_s, until_s=since_s + 2 * DAY)
    for step in range(97):
        now_s = since_s + step * 1781.0
        assert (one.end(now_s) is not None) is any(low <= now_s < high for low, high in found)


def test_one_that_was_ended_is_over_from_then_on() -> None:
    one = window(from_="2026-03-28T00:00", to="2026-03-28T10:00")
    ended = Maintenance(spec=one.spec, windows=one.windows, until_s=at("2026-03-28T02:00:00"))
    assert ended.end(at("2026-03-28T01:00:00")) == at("2026-03-28T02:00:00")
    assert ended.end(at("2026-03-28T02:00:00")) is None
    assert ended.following(at("2026-03-28T02:00:00")) is None


def test_planned_time_counts_for_nobody() -> None:
    calendar = Calendar([window(targets=("db",), from_="2026-03-28T00:00", to="2026-03-28T02:00")])
    since_s, until_s = at("2026-03-28T00:00:00"), at("2026-03-28T10:00:00")
    planned = calendar.planned({"db": {}, "shop": {}}, since_s=since_s, until_s=until_s)
    assert set(planned) == {"db"}
    down = Transition(target="db", time_s=since_s + 3600, before=Status.UP, after=Status.DOWN)
    up = Transition(target="db", time_s=since_s + 3 * 3600, before=Status.DOWN, after=Status.UP)
    alive = [(since_s, until_s)]
    found = account(
        "db", Status.UP, [down, up], alive, since_s=since_s, until_s=until_s, planned=planned["db"]
    )  # fmt: skip
    # Two hours planned, in which it was down for one; one more hour down after that counts.
    assert (found.maintenance_s, found.down_s, found.up_s) == (7200.0, 3600.0, 7 * 3600.0)
    assert found.ratio == pytest.approx(7 / 8)
    assert found.unknown_s == 0.0
    single = window(targets=("db",), rules=("slow",), from_="2026-03-28T00:00", to="2026-03-28T02:00")
    assert Calendar([single]).planned({"db": {}}, since_s=since_s, until_s=until_s) == {}


stretches = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=6).map(
    lambda pairs: union([(low, low + size) for low, size in pairs], since_s=0, until_s=60)
)


@given(stretches, stretches)
def test_outside_is_set_difference(some: Any, cut: Any) -> None:
    def points(pairs: Any) -> set[int]:
        return {one for low, high in pairs for one in range(int(low), int(high))}

    assert points(outside(some, cut)) == points(some) - points(cut)


def test_a_frozen_schedule_fires_after_the_freeze() -> None:
    plan = build_plan(ScheduleSpec(name="nightly", job="j", cron="0 * * * *"), shared_zones())
    calendar = Calendar([window(schedules=("night*",), from_="2026-03-28T00:30", to="2026-03-28T03:30")])
    frozen = type(plan)(
        **{name: getattr(plan, name) for name in plan.__struct_fields__ if name != "freeze"},
        freeze=Windows(calendar.frozen("nightly")),
    )
    after = at("2026-03-28T00:10:00")
    assert next_fires(plan, after, 1)[0].fire_s == at("2026-03-28T01:00:00")
    assert next_fires(frozen, after, 1)[0].fire_s == at("2026-03-28T04:00:00")
    assert calendar.frozen("other") == []
    assert calendar.changes(after, after + DAY) == [at("2026-03-28T00:30:00"), at("2026-03-28T03:30:00")]


def test_a_freeze_of_deployments_is_over_nothing_else() -> None:
    spec = MaintenanceSpec(
        name="sale", deployments=("deploy-*",), match={"team": "shop"}, from_="2027-01-01T00:00", to="2027-01-02T00:00"
    )
    window = build_maintenance(spec, shared_zones())
    calendar, on_s = Calendar([window]), 1_798_800_000.0
    assert calendar.on(on_s)
    assert not window.takes(("shop",), {"team": "shop"})
    assert not window.over("shop", {"team": "shop"})
    assert not window.freezes("deploy-shop")
    held = calendar.frozen_deployment("deploy-shop", {"team": "shop", "zone": "a"}, on_s)
    assert held is not None
    assert (held.name, held.end_s) == ("sale", 1_798_848_000.0)
    assert calendar.frozen_deployment("deploy-shop", {}, on_s) is None
    assert calendar.frozen_deployment("build", {"team": "shop"}, on_s) is None
    assert calendar.frozen_deployment("deploy-shop", {"team": "shop"}, held.end_s) is None
