"""The console's pages of incidents, silences and rules, and the fragments that keep them fresh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Response, get
from litestar.params import PathParameter, QueryParameter

from dogwatch.errors import NotFound
from dogwatch.rules.incident import RANK, Silence
from dogwatch.rules.part import Incidents
from dogwatch.rules.spec import DOWN_RULE
from dogwatch.web.api.explain import explained_incident
from dogwatch.web.api.incidents import as_seen, incident_detail, seen_counts
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.incident_list import STATES, Asked, asked_for, seen_incidents
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page

PERIODS = ("1h", "24h", "7d", "30d")
Text = Annotated[str, QueryParameter(max_length=500)]
Word = Annotated[str, QueryParameter(max_length=50)]
State = Annotated[str, QueryParameter(name="state", max_length=50)]
Before = Annotated[int | None, QueryParameter(ge=1, le=2**53)]
Number = Annotated[int, PathParameter(ge=1, le=2**53)]


def _incidents(ctx: WebContext) -> Incidents:
    if ctx.services.incidents is None:
        raise NotFound("there are no incidents in this program")
    return ctx.services.incidents


async def _list_values(ctx: WebContext, asked: Asked) -> dict[str, Any]:
    incidents = _incidents(ctx)
    found, counts = await seen_incidents(ctx, incidents, asked), seen_counts(ctx)
    return {
        "asked": asked,
        "incidents": [as_seen(one, counts) for one in found.items],
        "total": found.total,
        "states": STATES,
        "severities": tuple(RANK),
        "older": asked.query(before=found.older) if found.older is not None else "",
        "newest": asked.query(before=None) if asked.before is not None else "",
        "again": asked.query(),
        "trouble": incidents.trouble,
        "silences": _silences(ctx),
    }


def _silences(ctx: WebContext, number: int = 0) -> Sequence[Silence]:
    """Return the silences that are on. They name targets of all kinds: shown to whoever may see all incidents."""
    if ctx.rights.restricted("incident"):
        return ()
    return [one for one in _incidents(ctx).silences() if not number or one.number == number]


@get("/incidents", opt=may("incident"), include_in_schema=False)
async def incidents_page(
    ctx: Ctx, which: State = "active", severity: Word = "", q: Text = "", before: Before = None
) -> Response[bytes]:
    values = await _list_values(ctx, asked_for(which, severity, q, before))
    return html_page(ctx, "incidents.html", values, here="/incidents")


@get("/fragments/incidents", opt=may("incident"), include_in_schema=False)
async def incidents_fragment(
    ctx: Ctx, which: State = "active", severity: Word = "", q: Text = "", before: Before = None
) -> Response[bytes]:
    values = await _list_values(ctx, asked_for(which, severity, q, before))
    return html_page(ctx, "incidents_now.html", values)


@get("/fragments/silences", opt=may("incident"), include_in_schema=False)
async def silences_fragment(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "silences_now.html", {"silences": _silences(ctx)})


async def _detail_values(ctx: WebContext, number: int) -> dict[str, Any]:
    detail = await incident_detail(ctx, number)
    incident = detail.incident
    explanation = await explained_incident(ctx, number)
    known = {view.name for view in ctx.targets()} if ctx.may("probe") else set()
    may_change = ctx.rights.filter("incident", "change")(incident.labels)
    rule = next((rule for rule in _incidents(ctx).rules() if rule.name == incident.rule), None)
    return {
        "incident": incident,
        "explains": detail.explains,
        "timeline": detail.timeline,
        "actions": explanation.actions,
        "not_done": explanation.not_done,
        "budgets": explanation.budgets,
        "evidence": explanation.evidence,
        "because": explanation.because,
        "known": known,
        "hosts": {host.name for host in ctx.services.hosts.hosts()} if ctx.may("host") else set(),
        "rule": rule.spec if rule is not None and ctx.rights.filter("rule")(rule.spec.labels) else None,
        "may_change": may_change,
        "may_silence": ctx.rights.filter("incident", "create")(incident.labels),
        "is_over": incident.ended_s is not None,
        "silences": _silences(ctx, number),
    }


@get("/incidents/{number:int}", opt=may("incident"), include_in_schema=False)
async def incident_page(ctx: Ctx, number: Number) -> Response[bytes]:
    return html_page(ctx, "incident.html", await _detail_values(ctx, number), here="/incidents/-")


@get("/fragments/incident/{number:int}", opt=may("incident"), include_in_schema=False)
async def incident_fragment(ctx: Ctx, number: Number) -> Response[bytes]:
    return html_page(ctx, "incident_now.html", await _detail_values(ctx, number))


@get("/rules", opt=may("rule"), include_in_schema=False)
async def rules_page(ctx: Ctx, q: Text = "") -> Response[bytes]:
    incidents, sees = _incidents(ctx), ctx.rights.filter("rule")
    firing = incidents.firing()
    words = q.lower().split()
    rules = [
        (rule.spec, firing.get(rule.name, 0))
        for rule in incidents.rules()
        if sees(rule.spec.labels)
        and rule.name != DOWN_RULE
        and all(word in f"{rule.name} {rule.spec.when} {rule.spec.severity}".lower() for word in words)
    ]
    values = {
        "rules": rules,
        "q": q,
        "periods": PERIODS,
        "may_backtest": ctx.may("rule", "run") and not ctx.rights.restricted("rule"),
    }
    return html_page(ctx, "rules.html", values, here="/incidents/-")


INCIDENTS = Pages(
    handlers=(
        incidents_page,
        incidents_fragment,
        silences_fragment,
        incident_page,
        incident_fragment,
        rules_page,
    ),
    places=(Place("Incidents", "/incidents", "incident"),),
)
