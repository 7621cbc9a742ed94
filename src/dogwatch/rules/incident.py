"""Incidents as values: what is open, what alerts it holds, what is silenced, and what is decided about it."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import msgspec

from dogwatch.notify.message import Severity
from dogwatch.rules.remedy.values import Cancel, Memory, Release, Start
from dogwatch.rules.watcher import Alert, Key

RANK: Mapping[str, int] = {"info": 0, "warning": 1, "error": 2, "critical": 3}


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong, with everything that it explains.

    number: its name. root: the target, or the group, that is the cause. opened_s: wall clock. began_s: of its first
    alert. ended_s: None while it is open. into: the incident that turned out to be its cause. acked_by: who took it.
    step: how many steps of its escalation were told. told: who was told anything. told_s, next_s: the decider's own
    clock: of the first notice, of the next step or reminder. muted: why nobody is told now. notices: how many so far.
    flaps: how often an alert of it began again. version: of its rule's text.
    """

    number: int
    root: str
    rule: str
    summary: str
    reason: str = ""
    severity: Severity
    labels: Mapping[str, str] = {}
    notify: tuple[str, ...] = ()
    escalation: str = ""
    opened_s: float
    began_s: float
    ended_s: float | None = None
    into: int = 0
    acked_by: str = ""
    acked_s: float | None = None
    step: int = 0
    told: tuple[str, ...] = ()
    told_s: float | None = None
    next_s: float | None = None
    muted: str = ""
    notices: int = 0
    flapping: bool = False
    flaps: int = 0
    explains: int = 0
    version: str = ""

    @property
    def state(self) -> str:
        if self.ended_s is not None:
            return "merged" if self.into else "resolved"
        return "acknowledged" if self.acked_by else "open"


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """What the decider remembers of one alert. Times but fired_s are of its own clock.

    active: it is out. ended_s: when it ended, while it is kept because it flaps, or remembered in case it comes back.
    due_s: when it has waited long enough for its cause. cause: the root that it was last put under. incident: its
    number, 0 for none. begun: when it began lately, oldest first. muted: the window that keeps it from an incident.
    dismissed: somebody resolved its incident by hand; it means nothing until it ended once.
    """

    alert: Alert
    fired_s: float
    active: bool = True
    ended_s: float | None = None
    due_s: float
    cause: str = ""
    incident: int = 0
    begun: tuple[float, ...] = ()
    flapping: bool = False
    muted: str = ""
    dismissed: bool = False

    @property
    def counts(self) -> bool:
        """Whether it holds an incident open."""
        return (self.active or self.flapping) and not self.dismissed


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody is told of what it takes, until a time. number: of one incident; else rule, targets and match choose."""

    silence_id: str
    until_s: float
    number: int = 0
    rule: str = ""
    targets: tuple[str, ...] = ()
    match: Mapping[str, str] = {}
    by: str = ""
    reason: str = ""

    def takes(self, incident: Incident) -> bool:
        if self.number:
            return incident.number == self.number
        if self.rule and incident.rule != self.rule:
            return False
        if any(incident.labels.get(key) != value for key, value in self.match.items()):
            return False
        return not self.targets or any(fnmatch.fnmatchcase(incident.root, pattern) for pattern in self.targets)


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A notice, before it goes out alone or together with others. kind: opened, escalated, reminder, flapping,
    merged, resolved, planned, asked or spent.
    """

    kind: str
    to: tuple[str, ...]
    number: int
    serial: int
    severity: Severity
    text: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that the decider remembers. last: the highest number given out. clock_s: its own clock, which only moves
    forward; wall_s: the wall clock at the last step. sent: when each destination was told lately. queue: notices that
    wait because of the throttle. remedy: how far remedies are.
    """

    last: int = 0
    clock_s: float = 0.0
    wall_s: float = 0.0
    alerts: Mapping[Key, Tracked] = {}
    incidents: Mapping[int, Incident] = {}
    silences: Mapping[str, Silence] = {}
    sent: Mapping[str, tuple[float, ...]] = {}
    queue: Mapping[str, tuple[Waiting, ...]] = {}
    remedy: Memory = Memory()


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants: ack, unack, comment, escalate, resolve (of an incident), silence, unsilence."""

    verb: str
    actor: str
    number: int = 0
    text: str = ""
    silence: Silence | None = None


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of an incident's timeline. kind: opened, joined, left, fired, ended, muted, heard, told, acked…"""

    number: int
    time_s: float
    kind: str
    actor: str = ""
    text: str = ""
    rule: str = ""
    target: str = ""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What goes out. parts: one, or several that the throttle put together. key: the same for the same notice."""

    to: tuple[str, ...]
    parts: tuple[Waiting, ...]
    key: str


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """What one step led to, in order. ended: incidents that are over, as they were at the end. starts, releases,
    cancels: of actions.
    """

    notes: Sequence[Note] = ()
    notices: Sequence[Notice] = ()
    ended: Sequence[Incident] = ()
    starts: Sequence[Start] = ()
    releases: Sequence[Release] = ()
    cancels: Sequence[Cancel] = ()
