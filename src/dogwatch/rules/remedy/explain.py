"""Why something happened: signals, rules as they were, what was done, what budget was left, what was not and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from dogwatch.rules.causes import named
from dogwatch.rules.desk import Setting, explained
from dogwatch.rules.incident import Incident, Note, State
from dogwatch.rules.records import show, timeline
from dogwatch.rules.remedy import records
from dogwatch.rules.remedy.budget import room
from dogwatch.rules.remedy.records import Action, Evidence, Version
from dogwatch.rules.spec import DOWN_RULE
from dogwatch.rules.watcher import Alert
from dogwatch.store.database import Tx

# Entries of the timeline that say why something was not done.
_NOT_DONE = frozenset({"held", "planned", "declined", "gave up", "withdrawn"})
_MOST_SYMPTOMS = 20


class NotDone(msgspec.Struct, frozen=True, kw_only=True):
    """What was not done, and why. time_s: when that was so; None for now."""

    what: str
    why: str
    target: str
    time_s: float | None = None


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a budget now."""

    budget: str
    left: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of why. alerts: what it holds now, the first of them first. rule: as it was then."""

    incident: Incident
    rule: Version | None
    alerts: Sequence[Alert]
    notes: Sequence[Note]
    actions: Sequence[Action]
    evidence: Sequence[Evidence]
    not_done: Sequence[NotDone]
    budgets: Sequence[Left]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the database has of an incident."""

    incident: Incident
    notes: Sequence[Note]
    actions: Sequence[Action]
    evidence: Sequence[Evidence]
    rule: Version | None


def kept(tx: Tx, number: int) -> Kept:
    """Raises: NotFound."""
    incident = show(tx, number)
    actions = records.actions(tx, number)
    wanted = incident.version or next((one.start.version for one in actions), "")
    return Kept(
        incident=incident,
        notes=timeline(tx, number),
        actions=actions,
        evidence=records.evidence(tx, number),
        rule=records.version(tx, wanted) if wanted else None,
    )


def explanation(found: Kept, setting: Setting, state: State) -> Explanation:
    """Return why an incident happened and what became of it. state: what the deciders know now. Pure."""
    number = found.incident.number
    alerts = [one.alert for one in explained(state, number)]
    return Explanation(
        incident=found.incident,
        rule=found.rule,
        alerts=alerts,
        notes=found.notes,
        actions=found.actions,
        evidence=found.evidence,
        not_done=[*_from_notes(found.notes), *_now(found.incident, alerts, setting, state)],
        budgets=_budgets(found, alerts, setting, state),
    )


def _from_notes(notes: Iterable[Note]) -> list[NotDone]:
    return [
        NotDone(what=note.rule or "remedy", why=f"{note.kind}: {note.text}", target=note.target, time_s=note.time_s)
        for note in notes
        if note.kind in _NOT_DONE
    ]


def _now(incident: Incident, alerts: Sequence[Alert], setting: Setting, state: State) -> list[NotDone]:
    """Return what is not done now though something is wrong."""
    found: list[NotDone] = []
    symptoms = 0
    for alert in alerts:
        remedies = setting.remedies.of(alert)
        if named(alert) != incident.root:
            symptoms += bool(remedies)
            if remedies and symptoms <= _MOST_SYMPTOMS:
                why = f"it is explained by {incident.root}, and only the cause is acted upon"
                found.append(NotDone(what=remedies[0].name, why=why, target=alert.group))
            continue
        if not remedies:
            why = "no rule says what is to be done about it"
            found.append(NotDone(what=_rule_of(alert), why=why, target=alert.group))
        for remedy in remedies:
            episode = state.remedy.episodes.get((remedy.name, alert.group))
            if episode is not None and episode.held:
                found.append(NotDone(what=remedy.name, why=episode.why, target=alert.group))
    if symptoms > _MOST_SYMPTOMS:
        more = symptoms - _MOST_SYMPTOMS
        found.append(NotDone(what="remedies", why=f"{more} more are explained by {incident.root}", target=""))
    return found


def _rule_of(alert: Alert) -> str:
    return "the thresholds of the probe" if alert.rule == DOWN_RULE else alert.rule


def _budgets(found: Kept, alerts: Sequence[Alert], setting: Setting, state: State) -> list[Left]:
    """Return what is left now of the budgets that the incident has to do with."""
    budgets = {remedy.budget.scope: remedy.budget for alert in alerts for remedy in setting.remedies.of(alert)}
    for action in found.actions:
        if action.start.budget is not None:
            budgets.setdefault(action.start.budget.scope, action.start.budget)
    return [
        Left(budget=scope, left=room(budget, state.remedy.uses.get(scope, ()), state.clock_s).left)
        for scope, budget in sorted(budgets.items())
    ]
