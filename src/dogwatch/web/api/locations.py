"""`/api/v1/locations`: what other places see, and what follows from it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get, post
from litestar.params import JSONBody, PathParameter

from dogwatch.errors import NotFound
from dogwatch.rules.quorum.decide import View
from dogwatch.rules.quorum.part import LocationsPart, shown
from dogwatch.web.api.models import refusals
from dogwatch.web.api.paging import Listed, Page
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.permissions import may

_Text = Annotated[str, msgspec.Meta(max_length=500)]


class ViewIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a place sees of a target. since_s: since when, seconds since 1970."""

    status: Annotated[str, msgspec.Meta(max_length=20)]
    reason: _Text = ""
    since_s: Annotated[float, msgspec.Meta(ge=0, le=1e11)] = 0.0


class ReportIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """views: by target. Who says nothing for `locations.silent` is unknown, not up."""

    views: Annotated[dict[_Text, ViewIn], msgspec.Meta(max_length=10_000)]


class QuorumOut(msgspec.Struct, frozen=True, kw_only=True):
    """A target that several places watch. state: down, up or unknown. down, up, unknown: places that say so."""

    target: str
    state: str
    needed: int
    down: list[str]
    up: list[str]
    unknown: list[str]
    reason: str


def _part(ctx: WebContext) -> LocationsPart:
    if ctx.services.locations is None:
        raise NotFound("there are no locations in this program")
    return ctx.services.locations


@post(
    "/api/v1/locations/{name:str}/report",
    opt=may("location", "create", whole=True),
    status_code=204,
    summary="What a place sees of the targets that several watch",
    responses=refusals(403, 404, 413, 503),
)
async def report_location(
    ctx: Ctx, name: Annotated[str, PathParameter(max_length=200)], data: JSONBody[ReportIn]
) -> None:
    views = {
        target: View(status=one.status, reason=one.reason, since_s=one.since_s) for target, one in data.views.items()
    }
    await _part(ctx).hear(segment(name), views)


@get(
    "/api/v1/locations",
    opt=may("location", whole=True),
    summary="Targets that several places watch, and what they say",
    responses=refusals(403, 404, 503),
)
async def list_quorums(ctx: Ctx, paging: Page) -> Listed[QuorumOut]:
    words = {"YES": "down", "NO": "up", "UNKNOWN": "unknown"}
    found = [
        QuorumOut(
            target=quorum.target,
            state=words[verdict.truth.name] if verdict is not None else "unknown",
            needed=quorum.down,
            down=list(verdict.down) if verdict is not None else [],
            up=list(verdict.up) if verdict is not None else [],
            unknown=list(verdict.unknown) if verdict is not None else list(quorum.locations),
            reason=verdict.reason if verdict is not None else "",
        )
        for quorum, verdict in shown(_part(ctx))
    ]
    return paging.page(found, lambda one: one.target)


LOCATION_HANDLERS = (report_location, list_quorums)
