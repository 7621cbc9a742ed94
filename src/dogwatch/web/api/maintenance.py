"""`/api/v1/maintenance`: windows in which work is expected, and freezes of schedules and deployments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import get, post
from litestar.params import JSONBody, PathParameter, QueryParameter

from dogwatch.core.units import parse_duration
from dogwatch.errors import NotFound, UsageError
from dogwatch.rules.maintenance import MaintenanceSpec
from dogwatch.rules.planned.part import MaintenancePart, Planned, once
from dogwatch.web.api.models import refusals
from dogwatch.web.api.paging import Listed, Page
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.permissions import may

WindowId = Annotated[str, PathParameter(max_length=200)]
_MOST_S = 366 * 86_400.0
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Short = Annotated[str, msgspec.Meta(max_length=200)]
_Many = Annotated[list[_Name], msgspec.Meta(max_length=200)]
_Labels = Annotated[dict[_Short, _Short], msgspec.Meta(max_length=50)]


class MaintenanceIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A window: `duration` from now on; `from` and `to`; or `cron` with `duration`.

    targets, match: of probes and hosts; none for all, unless it is over schedules alone. rules: whose alerts it keeps
    quiet; none for all. schedules: that are frozen. deployments: jobs whose deployments wait; match then chooses these
    by their labels, and no targets. duration: as in `2h`. from, to: times of day, or dates with times.
    """

    name: _Name
    targets: _Many = []
    match: _Labels = {}
    rules: _Many = []
    schedules: _Many = []
    deployments: _Many = []
    cron: _Short = ""
    duration: _Short = ""
    from_: _Short = msgspec.field(default="", name="from")
    to: _Short = ""
    time_zone: _Short = "UTC"
    reason: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class EndIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """reason: why it ends early."""

    reason: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class MaintenanceOut(msgspec.Struct, frozen=True, kw_only=True):
    """A window. state: on, next or over. begin_s: when it is on next; null while it is on. end_s: when that ends.

    window_id: its name, for one of the configuration, which has `by` "".
    """

    window_id: str
    name: str
    state: str
    begin_s: float | None
    end_s: float | None
    targets: list[str]
    match: dict[str, str]
    rules: list[str]
    schedules: list[str]
    deployments: list[str]
    cron: str
    duration_s: float | None
    from_: str = msgspec.field(name="from")
    to: str
    time_zone: str
    reason: str
    by: str
    ended_by: str


def _part(ctx: WebContext) -> MaintenancePart:
    if ctx.services.maintenance is None:
        raise NotFound("there is no maintenance in this program")
    return ctx.services.maintenance


def _out(one: Planned) -> MaintenanceOut:
    spec = one.spec
    return MaintenanceOut(
        window_id=one.window_id,
        name=spec.name,
        state=one.state,
        begin_s=one.begin_s,
        end_s=one.end_s,
        targets=list(spec.targets),
        match=dict(spec.match),
        rules=list(spec.rules),
        schedules=list(spec.schedules),
        deployments=list(spec.deployments),
        cron=spec.cron,
        duration_s=spec.duration,
        from_=spec.from_,
        to=spec.to,
        time_zone=spec.time_zone,
        reason=spec.reason,
        by=one.by,
        ended_by=one.ended_by,
    )


def spec_of(data: MaintenanceIn, now_s: float) -> MaintenanceSpec:
    """Return a window as it was asked for. Raises: UsageError."""
    duration_s = None
    if data.duration:
        try:
            duration_s = parse_duration(data.duration)
        except ValueError as error:
            raise UsageError(f"duration: {error}") from None
        if not 0 < duration_s <= _MOST_S:
            raise UsageError("a maintenance window lasts more than nothing and at most 366d")
    common: dict[str, Any] = {
        "targets": tuple(data.targets),
        "match": data.match,
        "rules": tuple(data.rules),
        "schedules": tuple(data.schedules),
        "deployments": tuple(data.deployments),
        "reason": data.reason,
    }
    if duration_s is not None and not (data.cron or data.from_ or data.to):
        return once(data.name, now_s, now_s + duration_s, **common)
    return msgspec.structs.replace(
        MaintenanceSpec(name=data.name, **common),
        cron=data.cron,
        duration=duration_s,
        from_=data.from_,
        to=data.to,
        time_zone=data.time_zone,
    )


@get(
    "/api/v1/maintenance",
    opt=may("incident"),
    summary="Maintenance windows and freezes: the configuration's, then those that people made",
    responses=refusals(404, 503),
)
async def list_maintenance(
    ctx: Ctx,
    paging: Page,
    which: Annotated[
        list[Literal["on", "next", "over"]] | None,
        QueryParameter(name="state", max_items=3, description="On, coming next, or over"),
    ] = None,
) -> Listed[MaintenanceOut]:
    sees = ctx.rights.filter("incident")
    windows = (one for one in _part(ctx).windows() if not which or one.state in which)
    seen = (_out(one) for one in windows if sees(one.spec.match))
    return paging.page(seen, lambda one: one.window_id)


@post(
    "/api/v1/maintenance",
    opt=may("incident", "create"),
    status_code=201,
    summary="Plan a maintenance window, or a freeze of schedules or deployments",
    responses=refusals(403, 404, 409, 413, 503),
)
async def add_maintenance(ctx: Ctx, data: JSONBody[MaintenanceIn]) -> MaintenanceOut:
    # What it takes is known by its labels only: whoever is limited to some must name them.
    ctx.require("incident", "create", data.match)
    if data.schedules:
        ctx.require("schedule", "change", data.match)
    if data.deployments:
        ctx.require("job", "run", data.match)
    return _out(await _part(ctx).add(spec_of(data, ctx.services.clock.now_s()), ctx.actor))


def _seen(ctx: WebContext, window_id: str) -> Planned:
    """Raises: NotFound, for one that may not be seen, too."""
    found = _part(ctx).show(window_id)
    if not ctx.rights.filter("incident")(found.spec.match):
        raise NotFound(f"no maintenance window '{window_id}'", hint="see dogwatch maintenance list")
    return found


@get(
    "/api/v1/maintenance/{window_id:str}",
    opt=may("incident"),
    summary="One maintenance window",
    responses=refusals(404, 503),
)
async def show_maintenance(ctx: Ctx, window_id: WindowId) -> MaintenanceOut:
    return _out(_seen(ctx, window_id))


@post(
    "/api/v1/maintenance/{window_id:str}/end",
    opt=may("incident", "change"),
    status_code=200,
    summary="End a maintenance window now",
    responses=refusals(403, 404, 409, 413, 503),
)
async def end_maintenance(ctx: Ctx, window_id: WindowId, data: JSONBody[EndIn | None] = None) -> MaintenanceOut:
    ctx.require("incident", "change", _seen(ctx, window_id).spec.match)
    return _out(await _part(ctx).end(window_id, ctx.actor, reason=data.reason if data is not None else ""))


MAINTENANCE_HANDLERS = (list_maintenance, show_maintenance, add_maintenance, end_maintenance)
