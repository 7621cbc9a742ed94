"""`/api/v1/incidents`, `/api/v1/silences` and `/api/v1/rules`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from litestar import delete, get, post
from litestar.params import JSONBody, PathParameter, QueryParameter

from dogwatch.core.units import parse_duration
from dogwatch.errors import NotFound, UsageError
from dogwatch.rules.desk import explained
from dogwatch.rules.incident import Incident, Note, Silence
from dogwatch.rules.part import Incidents
from dogwatch.rules.spec import Rule
from dogwatch.web.api.models import Limit, refusals
from dogwatch.web.api.paging import Cursor, Listed, Page, counted, numbered
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.incident_list import Asked, seen_incidents
from dogwatch.web.permissions import may

_TEXT = 2000
_LONGEST_SILENCE_S = 365 * 86_400.0
NumberParam = Annotated[int, PathParameter(ge=1, le=2**53, description="Of the incident")]
Text = Annotated[str, msgspec.Meta(max_length=_TEXT)]


class IncidentOut(msgspec.Struct, frozen=True, kw_only=True):
    """An incident. state: open, acknowledged, resolved or merged (into another, whose number is `into`).

    root: the target or group that is the cause. explains: how many further alerts it holds. muted: why nobody is told.
    """

    number: int
    state: str
    root: str
    rule: str
    summary: str
    reason: str
    severity: str
    labels: dict[str, str]
    began_s: float
    opened_s: float
    ended_s: float | None
    acked_by: str
    muted: str
    flapping: bool
    explains: int
    into: int
    told: list[str]


class IncidentPage(msgspec.Struct, frozen=True, kw_only=True):
    """total: matches on all pages, 10000 for 10,000 or more; null behind the first page, for words and severities, and
    for whoever may see only some. next_cursor: "" on the last. A page can hold fewer than were asked for.
    """

    items: list[IncidentOut]
    total: int | None = None
    next_cursor: str = ""


class NoteOut(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the timeline. actor: "" for Dogwatch itself."""

    time_s: float
    kind: str
    actor: str
    text: str
    rule: str
    target: str


class AlertOut(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that an open incident holds."""

    rule: str
    target: str
    since_s: float
    severity: str
    summary: str
    reason: str


class IncidentDetail(msgspec.Struct, frozen=True, kw_only=True):
    """explains: alerts that it holds, the first of them first. timeline: the oldest first, at most 1000 entries."""

    incident: IncidentOut
    explains: list[AlertOut]
    timeline: list[NoteOut]


class TextIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """text: why, or what is said."""

    text: Text = ""


class SilenceIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long nobody is told: of one incident, or of all that rule, targets and match choose.

    duration: as in `2h`.
    """

    duration: Annotated[str, msgspec.Meta(max_length=50)]
    number: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    rule: Annotated[str, msgspec.Meta(max_length=200)] = ""
    targets: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    match: dict[str, str] = {}
    reason: Text = ""


class SilenceOut(msgspec.Struct, frozen=True, kw_only=True):
    """until_s: when it ends."""

    silence_id: str
    until_s: float
    number: int
    rule: str
    targets: list[str]
    match: dict[str, str]
    by: str
    reason: str


class RuleOut(msgspec.Struct, frozen=True, kw_only=True):
    """A rule as it is configured. firing: how many of its alerts are out."""

    name: str
    when: str
    for_s: float
    severity: str
    enabled: bool
    labels: dict[str, str]
    firing: int


def incidents_of(ctx: WebContext) -> Incidents:
    if ctx.services.incidents is None:
        raise NotFound("there are no incidents in this program")
    return ctx.services.incidents


async def _found(ctx: WebContext, number: int, verb: str = "read") -> tuple[Incidents, Incident]:
    """Return an incident. What may not be seen does not exist. Raises: NotFound, NotAllowed."""
    incidents = incidents_of(ctx)
    incident = await incidents.show(number)
    if not ctx.rights.filter("incident")(incident.labels):
        # As for one that there is not: who asks must not be told which it is.
        raise NotFound(f"no incident #{number}", hint="see dogwatch incident list --all")
    ctx.require("incident", verb, incident.labels)
    return incidents, incident


def seen_counts(ctx: WebContext) -> Mapping[int, int] | None:
    """Return how many alerts of each incident the one who asks may see; None for whoever sees all of them."""
    if not ctx.rights.restricted("incident"):
        return None
    sees = ctx.rights.filter("incident")
    alerts = incidents_of(ctx).state.alerts.values()
    return Counter(one.incident for one in alerts if one.incident and one.counts and sees(one.alert.labels))


def as_seen(one: Incident, counts: Mapping[int, int] | None) -> Incident:
    """Return an incident that does not count what the one who asks may not see. counts: as of `seen_counts`.

    One that is over holds no alert any more: how many there were is told to those only who see all of them.
    """
    return one if counts is None else msgspec.structs.replace(one, explains=counts.get(one.number, 0))


def incident_out(one: Incident) -> IncidentOut:
    return IncidentOut(
        number=one.number,
        state=one.state,
        root=one.root,
        rule=one.rule,
        summary=one.summary,
        reason=one.reason,
        severity=one.severity,
        labels=dict(one.labels),
        began_s=one.began_s,
        opened_s=one.opened_s,
        ended_s=one.ended_s,
        acked_by=one.acked_by,
        muted=one.muted,
        flapping=one.flapping,
        explains=max(0, one.explains - 1),
        into=one.into,
        told=list(one.told),
    )


def _note_out(note: Note) -> NoteOut:
    return NoteOut(
        time_s=note.time_s, kind=note.kind, actor=note.actor, text=note.text, rule=note.rule, target=note.target
    )


def _silence_out(one: Silence) -> SilenceOut:
    return SilenceOut(
        silence_id=one.silence_id,
        until_s=one.until_s,
        number=one.number,
        rule=one.rule,
        targets=list(one.targets),
        match=dict(one.match),
        by=one.by,
        reason=one.reason,
    )


def _rule_out(rule: Rule, firing: int) -> RuleOut:
    spec = rule.spec
    return RuleOut(
        name=spec.name,
        when=spec.when,
        for_s=spec.for_,
        severity=spec.severity,
        enabled=spec.enabled,
        labels=dict(spec.labels),
        firing=firing,
    )


@get("/api/v1/incidents", opt=may("incident"), summary="Incidents, the newest first", responses=refusals(404, 503))
async def list_incidents(
    ctx: Ctx,
    q: Annotated[str, QueryParameter(max_length=500, description="Words, and labels as `team=shop`")] = "",
    which: Annotated[
        Literal["", "active", "open", "acknowledged", "resolved", "merged"],
        QueryParameter(name="state", description="In this state; active: not over"),
    ] = "",
    severity: Annotated[
        Literal["", "info", "warning", "error", "critical"], QueryParameter(description="At least this severe")
    ] = "",
    cursor: Cursor = "",
    limit: Limit = 100,
) -> IncidentPage:
    asked = Asked(state=which or "all", severity=severity, q=q, before=counted("incidents", cursor))
    found = await seen_incidents(ctx, incidents_of(ctx), asked, limit)
    counts = seen_counts(ctx)
    return IncidentPage(
        items=[incident_out(as_seen(one, counts)) for one in found.items],
        total=found.total,
        next_cursor=numbered("incidents", found.older),
    )


@get("/api/v1/incidents/{number:int}", opt=may("incident"), summary="One incident", responses=refusals(404, 503))
async def show_incident(ctx: Ctx, number: NumberParam) -> IncidentDetail:
    return await incident_detail(ctx, number)


async def incident_detail(ctx: WebContext, number: int) -> IncidentDetail:
    """Return an incident with that of it which the one who asks may see. Raises: NotFound, NotAllowed."""
    incidents, incident = await _found(ctx, number)
    sees = ctx.rights.filter("incident")
    held = [one.alert for one in explained(incidents.state, number) if sees(one.alert.labels)]
    notes = await incidents.timeline(number)
    if ctx.rights.restricted("incident"):
        # The timeline names what else was wrong: shown is only what the one who asks may see by itself.
        seen = {incident.root} | {alert.group for alert in held}
        notes = [note for note in notes if note.actor or (note.target in seen and note.kind != "left")]
    alerts = [
        AlertOut(
            rule=alert.rule,
            target=alert.group,
            since_s=alert.since_s,
            severity=alert.severity,
            summary=alert.summary,
            reason=alert.reason,
        )
        for alert in held
    ]
    return IncidentDetail(
        incident=incident_out(as_seen(incident, seen_counts(ctx))),
        explains=alerts,
        timeline=[_note_out(note) for note in notes],
    )


async def _order(ctx: WebContext, number: int, verb: str, data: TextIn | None) -> IncidentOut:
    incidents, _incident = await _found(ctx, number, "change")
    text = data.text if data is not None else ""
    if verb == "comment" and not text.strip():
        raise UsageError("the comment is empty")
    ordered = await incidents.order(number, verb, ctx.actor, text=text)
    return incident_out(as_seen(ordered, seen_counts(ctx)))


_ORDER = refusals(403, 404, 409, 413, 503)


@post(
    "/api/v1/incidents/{number:int}/ack",
    opt=may("incident", "change"),
    status_code=200,
    summary="Acknowledge: no more reminders, no further escalation",
    responses=_ORDER,
)
async def ack_incident(ctx: Ctx, number: NumberParam, data: JSONBody[TextIn | None] = None) -> IncidentOut:
    return await _order(ctx, number, "ack", data)


@post(
    "/api/v1/incidents/{number:int}/unack",
    opt=may("incident", "change"),
    status_code=200,
    summary="Take the acknowledgement back",
    responses=_ORDER,
)
async def unack_incident(ctx: Ctx, number: NumberParam, data: JSONBody[TextIn | None] = None) -> IncidentOut:
    return await _order(ctx, number, "unack", data)


@post(
    "/api/v1/incidents/{number:int}/comment",
    opt=may("incident", "change"),
    status_code=200,
    summary="Say something in its timeline",
    responses=_ORDER,
)
async def comment_incident(ctx: Ctx, number: NumberParam, data: JSONBody[TextIn | None] = None) -> IncidentOut:
    return await _order(ctx, number, "comment", data)


@post(
    "/api/v1/incidents/{number:int}/escalate",
    opt=may("incident", "change"),
    status_code=200,
    summary="Tell the next step of its escalation now",
    responses=_ORDER,
)
async def escalate_incident(ctx: Ctx, number: NumberParam, data: JSONBody[TextIn | None] = None) -> IncidentOut:
    return await _order(ctx, number, "escalate", data)


@post(
    "/api/v1/incidents/{number:int}/resolve",
    opt=may("incident", "change"),
    status_code=200,
    summary="Close it by hand; its alerts open another only after they have ended once",
    responses=_ORDER,
)
async def resolve_incident(ctx: Ctx, number: NumberParam, data: JSONBody[TextIn | None] = None) -> IncidentOut:
    return await _order(ctx, number, "resolve", data)


@get("/api/v1/silences", opt=may("incident", whole=True), summary="Silences that are on", responses=refusals(404, 503))
async def list_silences(ctx: Ctx, paging: Page) -> Listed[SilenceOut]:
    return paging.page(map(_silence_out, incidents_of(ctx).silences()), lambda one: one.silence_id)


@get(
    "/api/v1/silences/{silence_id:str}",
    opt=may("incident", whole=True),
    summary="One silence that is on",
    responses=refusals(404, 503),
)
async def show_silence(ctx: Ctx, silence_id: Annotated[str, PathParameter(max_length=100)]) -> SilenceOut:
    for one in incidents_of(ctx).silences():
        if one.silence_id == silence_id:
            return _silence_out(one)
    raise NotFound(f"no silence '{silence_id}' is on")


@post(
    "/api/v1/silences",
    opt=may("incident", "create"),
    status_code=201,
    summary="Tell nobody for a time",
    responses=refusals(403, 404, 413, 503),
)
async def create_silence(ctx: Ctx, data: JSONBody[SilenceIn]) -> SilenceOut:
    try:
        duration_s = parse_duration(data.duration)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not 0 < duration_s <= _LONGEST_SILENCE_S:
        raise UsageError("a silence lasts more than nothing and at most 365d")
    if data.number:
        incidents, _incident = await _found(ctx, data.number, "create")
    elif data.rule or data.targets or data.match:
        # What it takes is known by its labels only: whoever is limited to some must name them.
        ctx.require("incident", "create", data.match)
        incidents = incidents_of(ctx)
    else:
        raise UsageError("nothing says what is silenced", hint="give number, rule, targets or match")
    silence = Silence(
        silence_id="",
        until_s=ctx.services.clock.now_s() + duration_s,
        number=data.number,
        rule=data.rule,
        targets=tuple(data.targets),
        match=data.match,
        reason=data.reason,
    )
    return _silence_out(await incidents.silence(silence, ctx.actor))


@delete(
    "/api/v1/silences/{silence_id:str}",
    opt=may("incident", "change", whole=True),
    status_code=204,
    summary="End a silence",
    responses=refusals(403, 404, 503),
)
async def delete_silence(ctx: Ctx, silence_id: Annotated[str, PathParameter(max_length=100)]) -> None:
    await incidents_of(ctx).unsilence(silence_id, ctx.actor)


@get("/api/v1/rules", opt=may("rule"), summary="Rules, in configuration order", responses=refusals(404, 503))
async def list_rules(ctx: Ctx, paging: Page) -> Listed[RuleOut]:
    incidents, sees = incidents_of(ctx), ctx.rights.filter("rule")
    firing = incidents.firing()
    seen = (_rule_out(rule, firing.get(rule.name, 0)) for rule in incidents.rules() if sees(rule.spec.labels))
    return paging.page(seen, lambda one: one.name)


INCIDENT_HANDLERS = (
    list_incidents,
    show_incident,
    ack_incident,
    unack_incident,
    comment_incident,
    escalate_incident,
    resolve_incident,
    list_silences,
    show_silence,
    create_silence,
    delete_silence,
    list_rules,
)
