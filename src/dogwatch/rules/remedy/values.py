"""Remedies as values: what may be done about which alert, how far it is, and what is decided. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dogwatch.rules.remedy.spec import MODES, BackoffSpec, Mode
from dogwatch.rules.spec import DOWN_RULE
from dogwatch.rules.watcher import Alert, Became, Key


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be done. scope: its name; remedies of one scope share its uses. at_once, share: one of both is
    meant. members: how many targets the share is of.
    """

    scope: str
    max: int
    per_s: float
    at_once: int = 1
    share: float = 0.0
    members: int = 0

    @property
    def most_at_once(self) -> int:
        return max(1, int(self.share * self.members)) if self.share else self.at_once


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a remedy. job, undo_job: what is started. restarts: the service that begins anew by it."""

    name: str
    says: str
    job: str
    verify_s: float = 120.0
    attempts: int = 1
    undo_job: str = ""
    undo_says: str = ""
    undo_failed: bool = False
    undo_recovered: bool = False
    timeout_s: float = 300.0
    restarts: str = ""


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about the alerts of a rule.

    targets: only of these; None for all of the rule's. version: of its text. gate: the service that must have started
    before it does anything. startup_s: it waits so long for the service to start, instead of for its gate. expires_s:
    of an approval. escalate: who is told besides when all has been tried.
    """

    name: str
    rule: str
    targets: frozenset[str] | None = None
    mode: Mode = "plan"
    steps: tuple[Step, ...]
    budget: Budget
    backoff: BackoffSpec = BackoffSpec()
    cooldown_s: float = 60.0
    expires_s: float = 1800.0
    escalate: tuple[str, ...] = ()
    version: str = ""
    gate: str = ""
    startup_s: float | None = None


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """How far a remedy is with one target or group. Times are of the decider's own clock.

    number: of the incident. phase: waiting, running, verifying, holding, undoing, planned, spent, or idle between two
    incidents. step, tries: the one that it is at, and how often that was tried. attempts: actions since all was well
    for long. serial: actions in this incident. act: the one under way. due_s: not before. until_s: the proof is
    due. held: the kind of what holds it back, why: in words. cool_s: nothing before. well_s: since when all is well.
    undo: steps that are taken back when all is well again. acted: something was done in this incident. recovered: the
    alert ended while the action was under way.
    """

    number: int = 0
    phase: str = "idle"
    step: int = 0
    tries: int = 0
    attempts: int = 0
    serial: int = 0
    act: str = ""
    due_s: float = 0.0
    until_s: float = 0.0
    held: str = ""
    why: str = ""
    cool_s: float = 0.0
    well_s: float | None = None
    undo: tuple[int, ...] = ()
    acted: bool = False
    recovered: bool = False


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """One action on a budget. open: it has not been proved yet. until_s: when it counts as ended in any case."""

    key: str
    time_s: float
    until_s: float
    open: bool = True


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a service has started. since_s: since it began anew. up: its startup probes that have succeeded since."""

    started: bool = False
    since_s: float
    up: tuple[str, ...] = ()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service with startup probes."""

    name: str
    startup: tuple[str, ...]


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """All that is remembered. episodes: by remedy and group. uses: by budget. lives: of services, by name."""

    episodes: Mapping[Key, Episode] = {}
    uses: Mapping[str, tuple[Use, ...]] = {}
    lives: Mapping[str, Life] = {}


# What comes in.


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How an action ended. refused: it was not begun. declined: somebody said no. retry_s: seconds until it is worth
    another try. acted: it may have done something.
    """

    key: str
    ok: bool
    reason: str = ""
    refused: bool = False
    declined: bool = False
    acted: bool = True
    retry_s: float = 0.0


# What comes out.


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """An action to start, once for its key. undo: it takes one back. left: of the budget, before it."""

    key: str
    time_s: float
    number: int
    remedy: str
    rule: str
    version: str
    group: str
    targets: tuple[str, ...]
    step: str
    attempt: int
    job: str
    says: str
    mode: Mode
    undo: bool = False
    budget: Budget | None = None
    until_s: float = 0.0
    left: str = ""
    reason: str = ""
    labels: Mapping[str, str] = {}


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """An action ended for its budget. void: it counts as never made. outcome: for its record."""

    key: str
    outcome: str
    reason: str = ""
    void: bool = False


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """An action that need not be approved any more."""

    key: str
    reason: str


class Say(msgspec.Struct, frozen=True, kw_only=True):
    """A notice about an incident. kind: planned, asked or spent. more: who is told beside those who know of it."""

    number: int
    kind: str
    text: str
    more: tuple[str, ...] = ()


class Remedies:
    """All remedies of a configuration, by the alerts that they are for. most: the most that any may do."""

    def __init__(
        self, remedies: Sequence[Remedy] = (), services: Sequence[Service] = (), *, most: Mode = "auto"
    ) -> None:
        self.all = tuple(remedies)
        self.by_name = {one.name: one for one in remedies}
        self.most = most
        self.services = {one.name: one for one in services}
        self.startup: dict[str, list[Service]] = {}
        for service in services:
            for target in service.startup:
                self.startup.setdefault(target, []).append(service)
        self._whole: dict[str, list[Remedy]] = {}
        self._single: dict[Key, list[Remedy]] = {}
        for one in remedies:
            if one.targets is None:
                self._whole.setdefault(one.rule, []).append(one)
            for target in one.targets or ():
                self._single.setdefault((one.rule, target), []).append(one)

    def __bool__(self) -> bool:
        return bool(self.all)

    def of(self, alert: Alert) -> Sequence[Remedy]:
        """Return what may be done about an alert."""
        single = self._single.get(alert.key, ()) if alert.rule == DOWN_RULE else ()
        return (*self._whole.get(alert.rule, ()), *single)

    def mode(self, remedy: Remedy) -> Mode:
        return MODES[min(MODES.index(remedy.mode), MODES.index(self.most))]

    def acts(self, alert: Alert) -> bool:
        """Return whether something would be done about an alert without asking."""
        return any(self.mode(one) == "auto" for one in self.of(alert))


NONE = Remedies()

__all__ = [
    "NONE", "Became", "Budget", "Cancel", "Episode", "Life", "Memory", "Release", "Remedies", "Remedy", "Result",
    "Say", "Service", "Start", "Step", "Use",
]  # fmt: skip
