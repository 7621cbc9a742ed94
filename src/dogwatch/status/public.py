"""What anybody may know, from what Dogwatch knows. Pure: whatever is not named here is not told.

Reasons, addresses, labels, rules, people and names of targets that are not on the page never get into these values.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from dogwatch.rules.incident import Incident, Note
from dogwatch.rules.planned.part import Planned
from dogwatch.status.section import StatusOptions

# A comment that begins so is meant for everybody.
PUBLIC_PREFIX = "status:"
_RANK = {"up": 0, "unknown": 0, "maintenance": 1, "degraded": 2, "down": 3}


class Known(Protocol):
    """What is watched, as views show it."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """A day of a target. ratio: None where nothing is known."""

    since_s: float
    ratio: float | None
    down_s: float


class PublicTarget(msgspec.Struct, frozen=True, kw_only=True):
    """name: as the public knows it. status: up, degraded, down, maintenance or unknown."""

    name: str
    status: str
    ratio: float | None = None
    days: Sequence[Day] = ()


class PublicGroup(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    text: str
    status: str
    targets: Sequence[PublicTarget]


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """Something that people were told about an incident."""

    time_s: float
    text: str


class PublicIncident(msgspec.Struct, frozen=True, kw_only=True):
    """key: tells it from others, and nothing else. affects: public names. updates: the newest first."""

    key: str
    affects: Sequence[str]
    began_s: float
    ended_s: float | None
    updates: Sequence[Update] = ()


class PublicWork(msgspec.Struct, frozen=True, kw_only=True):
    """Planned work. begin_s: None while it is on. end_s: None where nobody knows."""

    key: str
    affects: Sequence[str]
    begin_s: float | None
    end_s: float | None
    text: str = ""


class PublicPage(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page shows. status: the worst of its targets."""

    title: str
    text: str
    status: str
    groups: Sequence[PublicGroup]
    open: Sequence[PublicIncident]
    past: Sequence[PublicIncident]
    work: Sequence[PublicWork]
    time_s: float


def chosen(options: StatusOptions, targets: Iterable[Known]) -> dict[str, str]:
    """Return the targets that the page shows: name → public name, of the first group that takes each."""
    found: dict[str, str] = {}
    for view in targets:
        for group in options.groups:
            if group.takes(view.name, view.group):
                found.setdefault(view.name, group.names.get(view.name, view.name))
    return found


def public_status(status: str) -> str:
    """Return a status as the public is told: what is paused or new is unknown."""
    return status if status in ("up", "degraded", "down", "maintenance") else "unknown"


def worst(statuses: Iterable[str]) -> str:
    return max(statuses, key=_RANK.__getitem__, default="unknown")


def groups_of(
    options: StatusOptions, targets: Sequence[Known], ratios: Mapping[str, float | None], days: Mapping[str, list[Day]]
) -> list[PublicGroup]:
    names = chosen(options, targets)
    shown: set[str] = set()
    found = []
    for group in options.groups:
        members = [one for one in targets if one.name not in shown and group.takes(one.name, one.group)]
        shown.update(one.name for one in members)
        public = [
            PublicTarget(
                name=names[one.name],
                status=public_status(one.status),
                ratio=ratios.get(one.name),
                days=days.get(one.name, ()),
            )
            for one in members
        ]
        status = worst(one.status for one in public)
        found.append(PublicGroup(title=group.title, text=group.text, status=status, targets=public))
    return found


def key_of(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:12]


def public_incident(incident: Incident, notes: Sequence[Note], names: Mapping[str, str]) -> PublicIncident | None:
    """Return an incident as the public is told of it, or None where it affects nothing that the page shows."""
    touched = {incident.root, *(note.target for note in notes if note.kind in ("opened", "joined"))}
    affects = sorted({names[name] for name in touched if name in names})
    if not affects or incident.into:
        return None
    updates = [
        Update(time_s=note.time_s, text=note.text.strip()[len(PUBLIC_PREFIX) :].strip())
        for note in notes
        if note.kind == "comment" and note.text.strip().lower().startswith(PUBLIC_PREFIX)
    ]
    return PublicIncident(
        key=key_of("incident", incident.number, incident.opened_s),
        affects=affects,
        began_s=incident.began_s,
        ended_s=incident.ended_s,
        updates=updates[::-1],
    )


def public_work(one: Planned, targets: Sequence[Known], names: Mapping[str, str]) -> PublicWork | None:
    """Return a window as the public is told of it, or None where it is over, or over nothing that the page shows."""
    spec = one.spec
    if one.state == "over" or spec.freezes_only:
        return None
    affects = sorted({names[view.name] for view in targets if view.name in names and _covers(one, view)})
    if not affects:
        return None
    reason = spec.reason.strip()
    public = reason[len(PUBLIC_PREFIX) :].strip() if reason.lower().startswith(PUBLIC_PREFIX) else ""
    return PublicWork(
        key=key_of("work", one.window_id, one.end_s),
        affects=affects,
        begin_s=one.begin_s,
        end_s=one.end_s,
        text=public,
    )


def _covers(one: Planned, view: Known) -> bool:
    spec = one.spec
    if any(view.labels.get(key) != value for key, value in spec.match.items()):
        return False
    return not spec.targets or any(fnmatch.fnmatchcase(view.name, pattern) for pattern in spec.targets)
