"""`/api/v1/hosts`."""

from __future__ import annotations

import math
from typing import Annotated

from litestar import get
from litestar.params import QueryParameter

from dogwatch.errors import UsageError
from dogwatch.hosts.view import HostView
from dogwatch.web.api import models
from dogwatch.web.api.models import NameParam, Range, refusals
from dogwatch.web.api.paging import Listed, Page
from dogwatch.web.api.targets import EpochOrNone
from dogwatch.web.context import Ctx, segment
from dogwatch.web.permissions import may

_NAMES_LIMIT = 20


@get("/api/v1/hosts", opt=may("host"), summary="Hosts as they are now", responses=refusals())
async def list_hosts(ctx: Ctx, paging: Page) -> Listed[HostView]:
    return paging.page(ctx.services.hosts.hosts(), lambda one: one.name)


@get("/api/v1/hosts/{name:str}", opt=may("host"), summary="One host", responses=refusals(404))
async def show_host(ctx: Ctx, name: NameParam) -> HostView:
    return ctx.services.hosts.host(segment(name))


@get("/api/v1/hosts/{name:str}/series", opt=may("host"), summary="History of a host's samples", responses=refusals(404))
async def host_series(
    ctx: Ctx,
    name: NameParam,
    metric: Annotated[str, QueryParameter(max_length=2000, description="Metric names, comma between: node_load1")],
    range_: Annotated[Range | None, QueryParameter(name="range")] = None,
    since_s: EpochOrNone = None,
    until_s: EpochOrNone = None,
    points: Annotated[int, QueryParameter(ge=1, le=1000)] = 300,
) -> models.HostSeriesOut:
    known = ctx.services.hosts.host(segment(name)).name
    names = [one for one in metric.split(",") if one]
    if not 1 <= len(names) <= _NAMES_LIMIT:
        raise UsageError(f"name 1 to {_NAMES_LIMIT} metrics")
    since, until = models.span(ctx, range_, since_s, until_s)
    found = await ctx.services.store.series(known, names, since_s=since, until_s=until, points=points)
    return models.HostSeriesOut(
        host=known,
        since_s=since,
        until_s=until,
        series=[
            models.SeriesOut(
                series=one.series,
                times_s=[time_s for time_s, _value in one.points],
                values=[value if math.isfinite(value) else None for _time_s, value in one.points],
            )
            for one in found
        ],
    )


HOST_HANDLERS = (list_hosts, show_host, host_series)
