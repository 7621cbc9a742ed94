"""What `/metrics` shows of rules and incidents."""

from __future__ import annotations

from collections.abc import Iterable

from dogwatch.core.metrics import Family


def families(opened: int, firing: int, notices: int, lost: int) -> Iterable[Family]:
    """Return the families. lost: samples and events that rules did not see."""
    values = (
        ("dogwatch_incidents_open", "gauge", "Incidents that are not over.", opened),
        ("dogwatch_alerts_firing", "gauge", "Rules that hold, by target.", firing),
        ("dogwatch_incident_notices_total", "counter", "Notices of incidents put in the outbox.", notices),
        ("dogwatch_rule_samples_dropped_total", "counter", "Samples and events that rules did not see.", lost),
    )
    return [Family(name, kind, text, ((name, float(value)),)) for name, kind, text, value in values]
