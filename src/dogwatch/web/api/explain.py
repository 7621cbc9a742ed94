"""`/api/v1/explain`: why an incident or a run happened, and what was and was not done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.params import PathParameter

from dogwatch.access.permissions import Filter
from dogwatch.engine.values import Run
from dogwatch.errors import NotFound
from dogwatch.rules.part import Incidents
from dogwatch.rules.remedy import records
from dogwatch.rules.remedy.explain import Explanation
from dogwatch.web.api.incidents import (
    AlertOut,
    IncidentOut,
    NoteOut,
    NumberParam,
    _found,
    _note_out,
    as_seen,
    incident_out,
    seen_counts,
)
from dogwatch.web.api.models import refusals
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.permissions import may


class RuleText(msgspec.Struct, frozen=True, kw_only=True):
    """A rule as it was. text: as configuration had it. first_s: when this version was first used."""

    name: str
    version: str
    first_s: float | None
    text: Any


class ActionOut(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. left: of the budget, before it. outcome: done, failed, declined, refused; "" under way."""

    time_s: float
    ended_s: float | None
    target: str
    remedy: str
    version: str
    step: str
    attempt: int
    says: str
    mode: str
    undo: bool
    budget: str
    left: str
    run_id: str
    outcome: str
    reason: str


class NotDoneOut(msgspec.Struct, frozen=True, kw_only=True):
    """What was not done, and why. time_s: when that was so; null for now."""

    what: str
    why: str
    target: str
    time_s: float | None


class EvidenceOut(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at before an action. note: what is missing of it."""

    evidence_id: str
    time_s: float
    target: str
    source: str
    note: str
    size_bytes: int
    run_id: str


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a budget now."""

    budget: str
    left: str


class RunOut(msgspec.Struct, frozen=True, kw_only=True):
    """The run that was asked about."""

    run_id: str
    job: str
    state: str
    reason: str
    started_by: str
    trigger: str


class ExplanationOut(msgspec.Struct, frozen=True, kw_only=True):
    """Why. incident: null for a run that is about none. because: the story in sentences, the first first."""

    incident: IncidentOut | None
    run: RunOut | None
    because: list[str]
    alerts: list[AlertOut]
    rule: RuleText | None
    actions: list[ActionOut]
    not_done: list[NotDoneOut]
    budgets: list[LeftOut]
    evidence: list[EvidenceOut]
    timeline: list[NoteOut]


class EvidenceText(msgspec.Struct, frozen=True, kw_only=True):
    """text: what was seen, secrets masked."""

    evidence_id: str
    text: str


@get(
    "/api/v1/explain/{subject:str}",
    opt=may("incident"),
    summary="Why an incident (its number) or a run (its id) happened",
    responses=refusals(404, 503),
)
async def explain(
    ctx: Ctx, subject: Annotated[str, PathParameter(max_length=100, description="A number, or a run's id")]
) -> ExplanationOut:
    text = subject.removeprefix("#")
    if text.isascii() and text.isdecimal() and len(text) <= 15:
        return await explained_incident(ctx, int(text), None)
    run = await ctx.services.runs.show(subject)
    if not ctx.rights.filter("run")(run.labels):
        raise NotFound(f"there is no run '{subject}'")
    number = await _number_of(ctx, run)
    if number:
        return await explained_incident(ctx, number, run)
    return _of_run(run)


async def _number_of(ctx: WebContext, run: Run) -> int | None:
    database = ctx.services.database
    if database is None:
        return None
    # A step of a remedy may be a job of its own: what started it is what counts.
    found = await database.read(lambda tx: records.incident_of_run(tx, run.run_id))
    if found is None and run.parent is not None:
        parent = run.parent[0]
        return await database.read(lambda tx: records.incident_of_run(tx, parent))
    return found


async def explained_incident(ctx: WebContext, number: int, run: Run | None = None) -> ExplanationOut:
    """Return why an incident happened, as far as the one who asks may see. Raises: NotFound, NotAllowed."""
    incidents, _ = await _found(ctx, number)
    found = await incidents.explain(number)
    sees = ctx.rights.filter("incident")
    limited = ctx.rights.restricted("incident")
    alerts = [alert for alert in found.alerts if sees(alert.labels)]
    shown = {found.incident.root} | {alert.group for alert in alerts}
    actions = [one for one in found.actions if sees(one.start.labels) or one.start.group == found.incident.root]
    return ExplanationOut(
        incident=incident_out(as_seen(found.incident, seen_counts(ctx))),
        run=_run_out(run) if run is not None else None,
        because=_because(found, actions, limited=limited),
        alerts=[
            AlertOut(
                rule=one.rule,
                target=one.group,
                since_s=one.since_s,
                severity=one.severity,
                summary=one.summary,
                reason=one.reason,
            )
            for one in alerts
        ],
        rule=_rule(found, incidents, ctx.rights.filter("rule")),
        actions=[_action(one) for one in actions],
        not_done=[
            NotDoneOut(what=one.what, why=one.why, target=one.target, time_s=one.time_s)
            for one in found.not_done
            if not limited or one.target in shown
        ],
        budgets=[LeftOut(budget=one.budget, left=one.left) for one in found.budgets],
        evidence=[
            EvidenceOut(
                evidence_id=one.evidence_id,
                time_s=one.time_s,
                target=one.target,
                source=one.source,
                note=one.note,
                size_bytes=one.size_bytes,
                run_id=one.run_id,
            )
            for one in found.evidence
            if not limited or one.target in shown
        ],
        timeline=[
            _note_out(note)
            for note in found.notes
            if not limited or note.actor or (note.target in shown and note.kind != "left")
        ],
    )


def _because(found: Explanation, actions: Sequence[records.Action], *, limited: bool) -> list[str]:
    """Return the story in sentences. actions: those that are seen."""
    one = found.incident
    lines = [f"{one.summary}" + (f" ({one.reason})" if one.reason and one.reason not in one.summary else "")]
    if one.rule == "target-down":
        lines.append(f"the thresholds of the probe '{one.root}' said so")
    else:
        lines.append(f"the rule '{one.rule}' said so")
    if one.into:
        lines.append(f"its cause turned out to be incident #{one.into}")
    elif one.explains > 1 and not limited:
        lines.append(f"{one.root} is the cause: it explains {one.explains - 1} more")
    done = sum(action.outcome == "done" and not action.start.undo for action in actions)
    if actions:
        going = sum(not action.outcome for action in actions)
        count = len(actions)
        lines.append(f"{count} action{'s were' if count > 1 else ' was'} decided, {done} of them carried out")
        if going:
            lines.append(f"{going} under way")
    else:
        lines.append("nothing was done by itself")
    return lines


def _rule(found: Explanation, incidents: Incidents, sees: Filter) -> RuleText | None:
    if found.rule is None:
        return None
    labels = next((rule.spec.labels for rule in incidents.rules() if rule.name == found.rule.name), {})
    # Whoever may not see the rule sees its name and version, which the incident says anyway.
    text = msgspec.json.decode(found.rule.text) if sees(labels) or sees(found.incident.labels) else None
    return RuleText(name=found.rule.name, version=found.rule.version, first_s=found.rule.first_s, text=text)


def _action(one: records.Action) -> ActionOut:
    start = one.start
    return ActionOut(
        time_s=one.started_s,
        ended_s=one.ended_s,
        target=start.group,
        remedy=start.remedy,
        version=start.version,
        step=start.step,
        attempt=start.attempt,
        says=start.says,
        mode=start.mode,
        undo=start.undo,
        budget=start.budget.scope if start.budget is not None else "",
        left=start.left,
        run_id=one.run_id,
        outcome=one.outcome,
        reason=one.reason,
    )


def _run_out(run: Run) -> RunOut:
    trigger = f"{run.trigger.kind} {run.trigger.name}".strip()
    return RunOut(
        run_id=run.run_id,
        job=run.job,
        state=str(run.state),
        reason=run.reason,
        started_by=str(run.actor),
        trigger=trigger,
    )


def _of_run(run: Run) -> ExplanationOut:
    """Explain a run that is about no incident: who or what started it."""
    because = [f"the job '{run.job}' was started by {run.actor}"]
    if run.trigger.kind != "manual":
        because.append(f"the trigger was {run.trigger.kind} {run.trigger.name}".rstrip())
    if run.rerun_of:
        because.append(f"it repeats run {run.rerun_of}")
    if run.parent is not None:
        because.append(f"step '{run.parent[1]}' of run {run.parent[0]} wanted it")
    because.append(f"it is {run.state}" + (f": {run.reason}" if run.reason else ""))
    nothing: Sequence[Any] = ()
    return ExplanationOut(
        incident=None,
        run=_run_out(run),
        because=because,
        alerts=list(nothing),
        rule=None,
        actions=list(nothing),
        not_done=list(nothing),
        budgets=list(nothing),
        evidence=list(nothing),
        timeline=list(nothing),
    )


@get(
    "/api/v1/incidents/{number:int}/evidence/{evidence_id:str}",
    opt=may("incident"),
    summary="What was seen before an action",
    responses=refusals(404, 503),
)
async def show_evidence(
    ctx: Ctx, number: NumberParam, evidence_id: Annotated[str, PathParameter(max_length=200)]
) -> EvidenceText:
    _, incident = await _found(ctx, number)
    database = ctx.services.database
    if database is None:
        raise NotFound("there is no evidence in this program")
    if ctx.rights.restricted("incident"):
        found = await database.read(lambda tx: records.evidence(tx, number))
        # As with its explanation: of a wider incident only what is about its own cause.
        if not any(one.evidence_id == evidence_id and one.target == incident.root for one in found):
            raise NotFound(f"incident #{number} has no evidence '{evidence_id}'")
    text = await database.read(lambda tx: records.evidence_text(tx, number, evidence_id))
    return EvidenceText(evidence_id=evidence_id, text=text)


EXPLAIN_HANDLERS = (explain, show_evidence)
