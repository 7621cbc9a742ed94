"""The console's page of maintenance windows: what is planned, what is on, and a form to plan more."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from dogwatch.errors import NotFound
from dogwatch.rules.planned.part import MaintenancePart
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.contributions import Pages
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page

_OVER_SHOWN = 50
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


MAINTENANCE = Pages(handlers=(maintenance_page, maintenance_fragment))
