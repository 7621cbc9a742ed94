"""What templates are given."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes import FakeProgram
from tests.fakes_watch import few

from dogwatch.diagnose.finding import Evidence, Finding
from dogwatch.engine.values import RunState
from dogwatch.errors import UsageError
from dogwatch.store.protocol import SeriesPoints
from dogwatch.web import hostview, view
from dogwatch.web.access_pages import parse_search
from dogwatch.web.listing import STATUS_WORDS
from dogwatch.web.measured import measured, shown
from dogwatch.web.run_view import shown_state


def test_finding_in_words() -> None:
    finding = Finding(
        key="growth:fd",
        symptom="Open sockets grow steadily",
        cause="Http.run",
        since_s=5.0,
        evidence=[Evidence(what="sockets", first=12.0, last=48000.0, per_hour=96.0), Evidence(what="a fact")],
    )
    text = view.finding_text(msgspec.to_builtins(finding))
    assert (text.symptom, text.cause, text.since_s) == ("Open sockets grow steadily", "Http.run", 5.0)
    assert text.evidence == ["sockets: 12 → 48,000, +96 an hour", "a fact"]


@pytest.mark.parametrize("finding", [{}, {"evidence": "text"}, {"evidence": [3], "since_s": None}])
def test_strange_findings_are_still_shown(finding: dict[str, object]) -> None:
    assert view.finding_text(finding).symptom


def test_measured_values_are_readable() -> None:
    (target,) = [one for one in few(1_800_000_000.0) if one.name == "shop"]
    shown = [(one.label, one.text) for one in measured(target)]
    assert shown == [("HTTP status", "200"), ("Address", "192.0.2.7"), ("Certificate valid for", "42 days")]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("body_bytes", 1_572_864, "1.5 MiB"),
        ("pings", 1_234_567, "1\u202f234\u202f567"),
        ("loss_ratio", 0.125, "12.5 %"),
        ("rtt_avg_s", 0.000104, "0.104 ms"),
        ("age_s", 5400.0, "1 h 30 min"),
        ("http_version", 1.1, "1.1"),
        ("http_version", 2.0, "2"),
        ("status", 200.0, "200"),
        ("serial", 2_026_112_101, "2026112101"),
        ("tls_days_left", 0.5, "12 hours"),
        ("tls_resumed", True, "yes"),
        ("temperature_c", float("nan"), "–"),
        ("queue_length", 12345.678, "12\u202f345.7"),
    ],
)
def test_units_of_measured_values(name: str, value: float, text: str) -> None:
    assert shown(name, value) == text


def test_what_only_programs_use_is_left_out() -> None:
    (target,) = [one for one in few(1_800_000_000.0) if one.name == "shop"]
    values = {
        "ip_hash": 3.66e9,
        "duration_s": 0.1,
        "redirects": 0,
        "final_url": target.address,
        "content_length": 5,
        "body_bytes": 5,
        "queue_length": 7,
        "errors": "",
        "last_modified_s": 1_700_000_000.0,
    }
    found = {one.label: one for one in measured(msgspec.structs.replace(target, values=values))}
    assert sorted(found) == ["Body", "Last modified", "Queue length"]
    assert found["Last modified"].time_s == 1_700_000_000.0


@pytest.mark.parametrize(
    ("counts", "unknown", "verdict"),
    [
        ({"up": 5}, 0, ("good", "up", "All is well")),
        ({"up": 5, "down": 1200}, 3, ("bad", "down", "1\u202f200 down")),
        ({"up": 5, "degraded": 1}, 3, ("warn", "degraded", "1 degraded")),
        ({"up": 7, "pending": 69}, 69, ("wait", "pending", "First checks: 7 of 76 are well")),
        ({"pending": 3}, 3, ("wait", "pending", "First checks are under way")),
        ({"up": 500, "pending": 2}, 2, ("good", "up", "All is well")),
        ({"up": 1, "pending": 1}, 0, ("good", "up", "All is well")),
        ({"paused": 4}, 0, ("wait", "pending", "Nothing is known yet")),
    ],
)
def test_verdict(counts: dict[str, int], unknown: int, verdict: tuple[str, str, str]) -> None:
    now = view.Now(
        counts={**dict.fromkeys(STATUS_WORDS, 0), **counts},
        total=sum(counts.values()),
        unknown=unknown,
        wrong=(),
        wrong_more=0,
        reload=None,
        store_trouble="",
        findings=(),
        collectors=(),
    )
    assert now.verdict == verdict


def test_spark_fills_its_width_and_skips_what_is_not_known() -> None:
    points = [(0.0, 0.5), (300.0, float("nan")), (600.0, 2.0)]
    drawn = hostview.spark(points, 600.0, "CPU")
    assert drawn is not None
    assert drawn.line == "M0.0 12.0L120.0 0.0"
    assert drawn.area == "M0.0 12.0L120.0 0.0V24H0.0Z"
    assert drawn.label == "CPU in the last 10 min: 50 to 100 %"
    assert hostview.spark(points[:1], 600.0, "CPU") is None


def test_modes_are_summed_by_time() -> None:
    series = [
        SeriesPoints(host="h", series="a", points=[(1.0, 0.1), (2.0, 0.2)]),
        SeriesPoints(host="h", series="b", points=[(2.0, 0.3), (3.0, float("nan"))]),
    ]
    assert hostview.summed(series) == [(1.0, 0.1), (2.0, 0.5)]


def test_phases_add_up_to_all() -> None:
    (target,) = [one for one in few(1_800_000_000.0) if one.name == "shop"]
    parts = view.phase_parts(target)
    assert [part[0] for part in parts] == ["resolve", "connect", "tls", "first_byte", "transfer"]
    assert sum(part[3] for part in parts) == pytest.approx(1)


def test_keys_are_ids_whatever_the_name() -> None:
    keys = {view.key(name) for name in ("a", "a b", "a/b", "\ud800", "größe")}
    assert len(keys) == 5
    assert all(key.isalnum() for key in keys)


def test_what_an_event_changed_is_told_as_json_and_what_is_empty_is_not() -> None:
    after = {"name": "freeze", "targets": [], "dry": False, "over": {"team": "shop"}, "why": "", "by": None}
    assert view.changes(after) == [("name", "freeze"), ("dry", "false"), ("over", '{"team":"shop"}')]
    # Where there was something before, nothing is news.
    assert view.changes({"roles": []}, {"roles": ["viewer"]}) == [("roles", "[]")]
    assert view.changes(None) == []


def test_the_audit_trail_is_searched_by_values_with_spaces() -> None:
    found = parse_search('verb:"roll back" actor:"system:reload by file" two words noun:fleet')
    assert (found.verb, found.actor, found.noun, found.text) == (
        "roll back", "system:reload by file", "fleet", "two words"
    )  # fmt: skip
    with pytest.raises(UsageError, match="has no value"):
        parse_search("verb:")


def test_a_run_that_only_waits_is_called_so() -> None:
    runs = FakeProgram().runs
    going = runs.put("1")
    assert shown_state(going) == "running"
    assert shown_state(msgspec.structs.replace(going, waiting_for="approval of ship")) == "waiting"
    ended = runs.put("2", state=RunState.SUCCEEDED)
    assert shown_state(msgspec.structs.replace(ended, waiting_for="approval of ship")) == "succeeded"
