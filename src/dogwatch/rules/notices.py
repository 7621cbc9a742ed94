"""What people read and programs get of a notice. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from dogwatch.engine.values import Json
from dogwatch.notify.message import Message, Severity, iso_time
from dogwatch.rules.incident import RANK, Incident, Notice, Waiting

# Of many notices in one, so many are written out; the rest is counted.
_SHOWN = 20


def message_of(notice: Notice, incidents: Mapping[int, Incident]) -> Message:
    """Return the message of a notice. incidents: those that it may be about, by number."""
    if len(notice.parts) > 1:
        return _together(notice)
    part = notice.parts[0]
    incident = incidents.get(part.number)
    lines = [part.text]
    data: dict[str, Json] = {"number": part.number, "kind": part.kind}
    if incident is not None:
        if incident.reason:
            lines.append(incident.reason)
        lines.append(f"since {iso_time(incident.began_s)}")
        data |= {
            "root": incident.root,
            "rule": incident.rule,
            "state": incident.state,
            "opened": iso_time(incident.opened_s),
            "explains": max(0, incident.explains - 1),
        }
    return Message(
        to=notice.to,
        type=f"incident.{part.kind}",
        title=part.text,
        text="\n".join(lines),
        severity=_severity(part),
        data=data,
        labels=incident.labels if incident is not None else {},
        dedupe=notice.key,
    )


def _together(notice: Notice) -> Message:
    kinds = Counter(part.kind for part in notice.parts)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    lines = [part.text for part in notice.parts[:_SHOWN]]
    if len(notice.parts) > _SHOWN:
        lines.append(f"and {len(notice.parts) - _SHOWN} more")
    worst = max((_severity(part) for part in notice.parts), key=lambda severity: RANK[severity])
    numbers: list[Json] = [part.number for part in notice.parts]
    return Message(
        to=notice.to,
        type="incident.many",
        title=f"{len(notice.parts)} notices: {counted}",
        text="\n".join(lines),
        severity=worst,
        data={"numbers": numbers},
        dedupe=notice.key,
    )


def _severity(part: Waiting) -> Severity:
    return "info" if part.kind in ("resolved", "merged") else part.severity
