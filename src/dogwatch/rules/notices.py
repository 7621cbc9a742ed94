"""What people read and programs get of a notice. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dogwatch.engine.values import Json
from dogwatch.notify.message import Message, Severity, iso_time
from dogwatch.rules.incident import RANK, Incident, Note, Notice, Waiting

# Of many notices in one, so many are written out; the rest is counted.
_SHOWN = 20
# Of a kind of notes of one incident, so many are kept of one step.
_NOTES_OF_A_KIND = 50


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


def condensed(notes: Sequence[Note]) -> list[Note]:
    """Return the notes, with one in place of many of a kind: a storm must not flood the timeline."""
    seen: dict[tuple[int, str], int] = {}
    found: list[Note] = []
    for note in notes:
        key = (note.number, note.kind)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= _NOTES_OF_A_KIND:
            found.append(note)
    for (number, kind), count in seen.items():
        if count > _NOTES_OF_A_KIND:
            text = f"and {count - _NOTES_OF_A_KIND} more at the same time"
            found.append(Note(number=number, time_s=notes[0].time_s, kind=kind, text=text))
    return found


def line_of(incident: Incident, kind: str, text: str) -> str:
    """Return the one line of a notice."""
    explains = incident.explains - 1
    more = f"; explains {explains} more" if explains > 0 and kind in ("opened", "escalated", "reminder") else ""
    return f"#{incident.number} {kind}: {incident.summary}{more}" + (f": {text}" if text else "")
