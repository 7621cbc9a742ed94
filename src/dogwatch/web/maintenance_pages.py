"""The console's page of maintenance windows: what is planned, what is on, and a form to plan more."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.errors import NotFound
from dogwatch.rules.planned.part import MaintenancePart
from dogwatch.web.api.maintenance import MaintenanceIn, spec_of
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.contributions import Pages
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page

_OVER_SHOWN = 50
_NAMED = 12
Text = Annotated[str, QueryParameter(max_length=2000)]
_ORDER = {"on": 0, "next": 1, "over": 2}


def _part(ctx: WebContext) -> MaintenancePart:
    if ctx.services.maintenance is None:
        raise NotFound("there is no maintenance in this program")
    return ctx.services.maintenance


def _values(ctx: WebContext) -> dict[str, Any]:
    sees = ctx.rights.filter("incident")
    windows = sorted(
        (one for one in _part(ctx).windows() if sees(one.spec.match)),
        key=lambda one: (_ORDER[one.state], one.begin_s or one.end_s or 0.0),
    )
    shown = [one for one in windows if one.state != "over"]
    over = [one for one in reversed(windows) if one.state == "over"]
    changes = ctx.rights.filter("incident", "change")
    return {
        "windows": [*shown, *over[:_OVER_SHOWN]],
        "may_end": {one.window_id for one in shown if one.by and changes(one.spec.match)},
    }


@get("/maintenance", opt=may("incident"), include_in_schema=False)
async def maintenance_page(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "maintenance.html", _values(ctx), here="/incidents/-")


@get("/fragments/maintenance", opt=may("incident"), include_in_schema=False)
async def maintenance_fragment(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "maintenance_now.html", _values(ctx))


def _listed(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _labels(text: str) -> dict[str, str]:
    pairs = (one.partition("=") for one in _listed(text))
    return {name: value for name, _, value in pairs}


@get("/fragments/maintenance-plan", opt=may("incident"), include_in_schema=False)
async def maintenance_plan(
    ctx: Ctx,
    name: Text = "",
    targets: Text = "",
    match: Text = "",
    schedules: Text = "",
    deployments: Text = "",
    duration: Text = "",
    from_: Annotated[str, QueryParameter(name="from", max_length=50)] = "",
    to: Text = "",
    time_zone: Text = "UTC",
) -> Response[bytes]:
    """Return what a window would be over, and when. Nothing is planned by it."""
    asked = MaintenanceIn(
        name=name,
        targets=_listed(targets),
        match=_labels(match),
        schedules=_listed(schedules),
        deployments=_listed(deployments),
        duration=duration,
        from_=from_,
        to=to,
        time_zone=time_zone,
    )
    now_s = ctx.services.clock.now_s()
    window = _part(ctx).check(spec_of(asked, now_s))
    following = window.following(now_s)
    views = ctx.targets() if ctx.may("probe") else ()
    over = [] if window.spec.freezes_only else [view.name for view in views if window.over(view.name, view.labels)]
    values = {
        "spec": window.spec,
        "over": over[:_NAMED],
        "over_total": len(over),
        "watched": len(views),
        "begin_s": following[0] if following else None,
        "end_s": following[1] if following else None,
        "freezes_only": window.spec.freezes_only,
    }
    return html_page(ctx, "maintenance_plan.html", values)


MAINTENANCE = Pages(handlers=(maintenance_page, maintenance_fragment, maintenance_plan))
