"""`/api/v1/hooks` and `/api/v1/deliveries`: endpoints of webhooks, what came in, and its replay."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get, post
from litestar.params import PathParameter, QueryParameter

from dogwatch.access.permissions import everything
from dogwatch.errors import NotFound
from dogwatch.web.api.models import Limit, NameParam, refusals
from dogwatch.web.api.paging import Cursor, Listed, Page, opened, sealed
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.permissions import may
from dogwatch.webhooks.delivery import Delivery, DeliveryDetail, DeliveryState, EndpointView
from dogwatch.webhooks.view import HooksView

DeliveryId = Annotated[str, PathParameter(max_length=100, description="Id, or a beginning that only one has")]


class DeliveryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. total: matches on all pages, 10000 for 10,000 or more; null behind the first page. next_cursor: ""
    on the last page.
    """

    items: list[Delivery]
    total: int | None = None
    next_cursor: str = ""


def hooks_of(ctx: WebContext) -> HooksView:
    if ctx.services.hooks is None:
        raise NotFound("this Dogwatch has no webhooks")
    return ctx.services.hooks


async def seen_endpoints(ctx: WebContext) -> list[EndpointView]:
    sees = ctx.rights.filter("webhook")
    return [view for view in await hooks_of(ctx).endpoints() if sees(view.labels)]


async def find_delivery(ctx: WebContext, delivery_id: str) -> tuple[DeliveryDetail, EndpointView | None]:
    """Return a delivery and its endpoint, if that is still there. What may not be seen does not exist."""
    absent = NotFound(f"'{delivery_id[:80]}': no delivery has this id", hint="'dogwatch hook deliveries' lists them")
    try:
        found = await hooks_of(ctx).delivery(delivery_id)
    except NotFound:
        # That several begin so is told to those who may see them all.
        if ctx.rights.filter("webhook") is everything:
            raise
        raise absent from None
    endpoint = {view.name: view for view in await hooks_of(ctx).endpoints()}.get(found.delivery.endpoint)
    if not ctx.rights.filter("webhook")(endpoint.labels if endpoint else {}):
        raise absent
    return found, endpoint


@get("/api/v1/hooks", opt=may("webhook"), summary="Endpoints of webhooks", responses=refusals(404, 503))
async def list_hooks(ctx: Ctx, paging: Page) -> Listed[EndpointView]:
    return paging.page(await seen_endpoints(ctx), lambda one: one.name)


@get("/api/v1/hooks/{name:str}", opt=may("webhook"), summary="One endpoint", responses=refusals(404, 503))
async def show_hook(ctx: Ctx, name: NameParam) -> EndpointView:
    # Asked first: what an unknown name is told names those that are near.
    if ctx.rights.filter("webhook") is not everything and segment(name) not in {
        one.name for one in await seen_endpoints(ctx)
    }:
        raise NotFound(f"no endpoint is called '{segment(name)}'")
    return await hooks_of(ctx).endpoint(segment(name))


@get("/api/v1/deliveries", opt=may("webhook"), summary="Deliveries, newest first", responses=refusals(404, 503))
async def list_deliveries(
    ctx: Ctx,
    endpoint: Annotated[str, QueryParameter(max_length=200, description="Of this endpoint")] = "",
    outcome: Annotated[DeliveryState | None, QueryParameter(name="state", description="In this state")] = None,
    cursor: Cursor = "",
    limit: Limit = 50,
) -> DeliveryPage:
    names = None
    if ctx.rights.filter("webhook") is not everything:
        names = [view.name for view in await seen_endpoints(ctx)]
    page = await hooks_of(ctx).deliveries(
        endpoint=endpoint,
        state=outcome.value if outcome else "",
        limit=limit,
        cursor=opened("deliveries", cursor),
        among=names,
        count=not cursor,
    )
    return DeliveryPage(items=list(page.items), total=page.total, next_cursor=sealed("deliveries", page.cursor))


@get(
    "/api/v1/deliveries/{delivery_id:str}",
    opt=may("webhook"),
    summary="One delivery with its content, secrets masked",
    responses=refusals(404, 503),
)
async def show_delivery(ctx: Ctx, delivery_id: DeliveryId) -> DeliveryDetail:
    return (await find_delivery(ctx, segment(delivery_id)))[0]


@post(
    "/api/v1/deliveries/{delivery_id:str}/replay",
    opt=may("webhook", "run"),
    status_code=200,
    summary="Take the same payload again, as a new delivery",
    responses=refusals(403, 404, 503),
)
async def replay_delivery(
    ctx: Ctx,
    delivery_id: DeliveryId,
    force: Annotated[bool, QueryParameter(description="Whatever the filter says")] = False,
) -> Delivery:
    found, endpoint = await find_delivery(ctx, segment(delivery_id))
    ctx.require("webhook", "run", endpoint.labels if endpoint else {})
    return await hooks_of(ctx).replay(found.delivery.delivery_id, ctx.actor, force=force)


HOOK_API_HANDLERS = (list_hooks, show_hook, list_deliveries, show_delivery, replay_delivery)
