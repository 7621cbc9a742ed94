"""What Alertmanager posts, for tests."""

from __future__ import annotations

from typing import Any


def alertmanager_payload(**changes: Any) -> dict[str, Any]:
    one = {
        "status": "firing",
        "labels": {"alertname": "HighLatency", "instance": "db", "severity": "error"},
        "annotations": {"summary": "db answers slowly"},
        "startsAt": "2027-01-15T08:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "8a6f09cd1c8cbcc1",
        **changes,
    }
    return {"version": "4", "status": "firing", "receiver": "dogwatch", "alerts": [one]}
