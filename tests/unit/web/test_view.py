"""What templates are given."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes import few

from dogwatch.diagnose.finding import Evidence, Finding
from dogwatch.web import view


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
    assert view.shown_values(target) == [("status", "200"), ("tls_days_left", "41.5"), ("ip", "192.0.2.7")]


def test_phases_add_up_to_all() -> None:
    (target,) = [one for one in few(1_800_000_000.0) if one.name == "shop"]
    parts = view.phase_parts(target)
    assert [part[0] for part in parts] == ["resolve", "connect", "tls", "first_byte", "transfer"]
    assert sum(part[3] for part in parts) == pytest.approx(1)


def test_keys_are_ids_whatever_the_name() -> None:
    keys = {view.key(name) for name in ("a", "a b", "a/b", "\ud800", "größe")}
    assert len(keys) == 5
    assert all(key.isalnum() for key in keys)
