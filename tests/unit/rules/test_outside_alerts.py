"""What Alertmanager and Falco post, read as alerts."""

from __future__ import annotations

from typing import Any

import pytest

from dogwatch.rules.outside.read import FALCO_KEEP_S, NotAlerts, read_alerts

NOW = 1_800_000_000.0


def alertmanager(**changes: Any) -> dict[str, Any]:
    one = {
        "status": "firing",
        "labels": {"alertname": "HighLatency", "instance": "db-1:9100", "severity": "page", "team": "shop"},
        "annotations": {"summary": "db-1 answers slowly", "description": "p99 is 2.1 s"},
        "startsAt": "2027-01-15T07:55:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "8a6f09cd1c8cbcc1",
        **changes,
    }
    return {"version": "4", "groupKey": "{}", "status": "firing", "receiver": "dogwatch", "alerts": [one]}


def test_alertmanager() -> None:
    [one] = read_alerts("alertmanager", alertmanager(), NOW)
    alert = one.alert
    assert one.firing
    assert (alert.rule, alert.targets, alert.severity) == ("alertmanager:HighLatency", ("db-1",), "critical")
    assert (alert.summary, alert.reason) == ("db-1 answers slowly", "p99 is 2.1 s")
    assert alert.since_s == pytest.approx(1_799_999_700.123, abs=0.001)
    assert alert.group == "db-1 (8a6f09cd)"
    [end] = read_alerts("alertmanager", alertmanager(status="resolved"), NOW)
    assert (end.key, end.firing) == (one.key, False)


def test_one_that_says_nothing_more_is_called_as_its_target() -> None:
    [one] = read_alerts("alertmanager", alertmanager(labels={"alertname": "Down", "instance": "db-1:9100"}), NOW)
    assert one.alert.group == "db-1"
    assert one.alert.summary == "db-1 answers slowly"


def test_falco_is_over_when_it_was_quiet() -> None:
    payload = {
        "hostname": "node-3",
        "output": "08:00:00: Warning A shell was spawned in a container",
        "priority": "Warning",
        "rule": "Terminal shell in container",
        "source": "syscall",
        "time": "2027-01-15T08:00:00.000000000Z",
        "tags": ["container"],
        "output_fields": {"container.name": "shop", "k8s.pod.name": "<NA>", "k8s.ns.name": None},
    }
    [one] = read_alerts("falco", payload, NOW)
    assert (one.alert.rule, one.alert.severity) == ("falco:Terminal shell in container", "warning")
    assert (one.alert.targets, one.ends_s) == (("node-3",), NOW + FALCO_KEEP_S)
    assert one.alert.labels["container"] == "shop"


@pytest.mark.parametrize(
    ("kind", "payload", "says"),
    [
        ("alertmanager", None, "not what Alertmanager posts"),
        ("alertmanager", {"alerts": [{"status": "firing"}]}, "labels"),
        ("alertmanager", alertmanager(status="pending"), "neither firing nor resolved"),
        ("alertmanager", alertmanager(labels={"instance": "x"}), "no label alertname"),
        ("alertmanager", {"alerts": alertmanager()["alerts"] * 1001}, "more than 1000"),
        ("falco", {"rule": "x"}, "priority"),
        ("falco", {"rule": "", "priority": "Error"}, "names no rule"),
        ("falco", [], "not what Falco posts"),
    ],
)
def test_what_is_no_alert_is_refused(kind: Any, payload: Any, says: str) -> None:
    with pytest.raises(NotAlerts, match=says):
        read_alerts(kind, payload, NOW)


def test_long_and_odd_texts_are_bounded() -> None:
    labels = {"alertname": "x" * 9000, **{f"l{number}": "y\n" * 1000 for number in range(200)}}
    [one] = read_alerts("alertmanager", alertmanager(labels=labels, startsAt="never"), NOW)
    assert len(one.alert.rule) < 600
    assert len(one.alert.labels) <= 50
    assert all("\n" not in value and len(value) <= 500 for value in one.alert.labels.values())
    assert one.alert.since_s == NOW
