"""`/api/v1/notify` and `/api/v1/outbox`: destinations, what was sent, what was not, and sending it again."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get, post
from litestar.params import JSONBody, PathParameter, QueryParameter

from dogwatch.errors import NotFound
from dogwatch.notify.message import Enqueued, Message, MessageState, OutboxRow, Severity
from dogwatch.notify.view import DestinationView, Outbox, Preview
from dogwatch.web.api.models import Limit, NameParam, refusals
from dogwatch.web.api.paging import Cursor, Listed, Page, opened, sealed
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.permissions import may

MessageId = Annotated[str, PathParameter(max_length=100, description="Id, or a beginning that only one has")]


class OutboxPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. total: matches on all pages, 10000 for 10,000 or more; null behind the first page. next_cursor: ""
    on the last page.
    """

    items: list[OutboxRow]
    total: int | None = None
    next_cursor: str = ""


class Redelivered(msgspec.Struct, frozen=True, kw_only=True):
    """messages: how many dead letters go again."""

    messages: int


def outbox_of(ctx: WebContext, verb: str = "read") -> Outbox:
    # Messages carry no labels that a role could be limited to.
    ctx.require("notification", verb, {})
    if ctx.services.outbox is None:
        raise NotFound("this Dogwatch sends no notifications")
    return ctx.services.outbox


@get("/api/v1/notify", opt=may("notification"), summary="Destinations", responses=refusals(403, 404, 503))
async def list_destinations(ctx: Ctx, paging: Page) -> Listed[DestinationView]:
    return paging.page(await outbox_of(ctx).destinations(), lambda one: one.name)


@get("/api/v1/notify/{name:str}", opt=may("notification"), summary="One destination", responses=refusals(403, 404, 503))
async def show_destination(ctx: Ctx, name: NameParam) -> DestinationView:
    known = segment(name)
    for one in await outbox_of(ctx).destinations():
        if one.name == known:
            return one
    raise NotFound(f"there is no destination '{known}'")


@post(
    "/api/v1/notify/{name:str}/test",
    opt=may("notification", "run"),
    status_code=200,
    summary="Send a test message",
    responses=refusals(403, 404, 503),
)
async def test_destination(ctx: Ctx, name: NameParam) -> Enqueued:
    return await outbox_of(ctx, "run").test(segment(name), ctx.actor)


class PreviewIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to look at; what is not given is of an example."""

    type: Annotated[str, msgspec.Meta(max_length=100)] = "incident.opened"
    title: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    text: Annotated[str, msgspec.Meta(max_length=50_000)] = ""
    severity: Severity = "critical"


@post(
    "/api/v1/notify/{name:str}/preview",
    opt=may("notification"),
    status_code=200,
    summary="What a destination would be sent; nothing is",
    responses=refusals(403, 404, 413, 503),
)
async def preview_destination(ctx: Ctx, name: NameParam, data: JSONBody[PreviewIn | None] = None) -> Preview:
    message = None
    if data is not None and (data.title or data.text):
        message = Message(to=(), type=data.type, title=data.title, text=data.text, severity=data.severity)
    return outbox_of(ctx).preview(segment(name), message)


@post(
    "/api/v1/notify/{name:str}/redeliver",
    opt=may("notification", "change"),
    status_code=200,
    summary="Send all dead letters of a destination again",
    responses=refusals(403, 404, 503),
)
async def redeliver_dead(ctx: Ctx, name: NameParam) -> Redelivered:
    return Redelivered(messages=await outbox_of(ctx, "change").redeliver_dead(segment(name), ctx.actor))


@get("/api/v1/outbox", opt=may("notification"), summary="Messages, newest first", responses=refusals(403, 404, 503))
async def list_outbox(
    ctx: Ctx,
    destination: Annotated[str, QueryParameter(max_length=200, description="To this destination")] = "",
    wanted: Annotated[MessageState | None, QueryParameter(name="state", description="In this state")] = None,
    cursor: Cursor = "",
    limit: Limit = 50,
) -> OutboxPage:
    page = await outbox_of(ctx).find(
        destination=destination,
        state=wanted.value if wanted else "",
        limit=limit,
        cursor=opened("outbox", cursor),
        count=not cursor,
    )
    return OutboxPage(items=list(page.items), total=page.total, next_cursor=sealed("outbox", page.cursor))


@get(
    "/api/v1/outbox/{message_id:str}",
    opt=may("notification"),
    summary="One message",
    responses=refusals(403, 404, 503),
)
async def show_message(ctx: Ctx, message_id: MessageId) -> OutboxRow:
    return await outbox_of(ctx).show(segment(message_id))


@post(
    "/api/v1/outbox/{message_id:str}/redeliver",
    opt=may("notification", "change"),
    status_code=200,
    summary="Send a message again, under the same id",
    responses=refusals(403, 404, 409, 503),
)
async def redeliver_message(ctx: Ctx, message_id: MessageId) -> OutboxRow:
    return await outbox_of(ctx, "change").redeliver(segment(message_id), ctx.actor)


NOTIFY_HANDLERS = (
    list_destinations,
    show_destination,
    test_destination,
    preview_destination,
    redeliver_dead,
    list_outbox,
    show_message,
    redeliver_message,
)
