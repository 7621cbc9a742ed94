"""The console's pages of webhooks (endpoints, deliveries) and of the outbox (destinations, messages)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.access.permissions import everything
from dogwatch.errors import UsageError
from dogwatch.notify.message import MessageState, OutboxRow
from dogwatch.web.api.hooks import find_delivery, hooks_of, seen_endpoints
from dogwatch.web.api.notify import outbox_of
from dogwatch.web.context import Ctx, Segment, WebContext, segment
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page
from dogwatch.webhooks.delivery import Delivery, DeliveryState

_SHOWN = 50
# What is answered and never kept can be found in no list.
_STATES = tuple(state for state in DeliveryState if state != DeliveryState.DUPLICATE)
Text = Annotated[str, QueryParameter(max_length=200)]
Word = Annotated[str, QueryParameter(name="state", max_length=50)]
Cursor = Annotated[str, QueryParameter(max_length=100)]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The filter of a list, as its address has it. of: the endpoint or destination."""

    key: str
    of: str = ""
    state: str = ""
    cursor: str = ""

    def __bool__(self) -> bool:
        return bool(self.of or self.state)

    def query(self, **changes: str) -> str:
        """Return the query of the same list with changes."""
        one = msgspec.structs.replace(self, **changes)
        pairs = ((self.key, one.of), ("state", one.state), ("cursor", one.cursor))
        return urlencode([(key, value) for key, value in pairs if value], errors="replace")

    def known(self, states: Sequence[str]) -> None:
        """Raises: UsageError for a state that there is not."""
        if self.state and self.state not in states:
            raise UsageError(f"unknown state '{self.state}'", hint=f"known: {', '.join(states)}")


def _mistake(error: UsageError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)


async def _webhooks_values(ctx: WebContext) -> dict[str, Any]:
    endpoints = await seen_endpoints(ctx) if ctx.services.hooks is not None else []
    return {"endpoints": endpoints, "hooks_url": ctx.options.external_url.rstrip("/")}


@get("/webhooks", opt=may("webhook"), include_in_schema=False)
async def webhooks_page(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "webhooks.html", await _webhooks_values(ctx), here="/webhooks")


@get("/fragments/webhooks", opt=may("webhook"), include_in_schema=False)
async def webhooks_fragment(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "webhooks_now.html", await _webhooks_values(ctx))


async def _deliveries_values(ctx: WebContext, asked: Asked) -> dict[str, Any]:
    mistake, found, following, total = "", list[Delivery](), "", None
    names = [one.name for one in await seen_endpoints(ctx)] if ctx.services.hooks is not None else []
    if ctx.services.hooks is not None:
        among = None if ctx.rights.filter("webhook") is everything else names
        try:
            asked.known(_STATES)
            page = await ctx.services.hooks.deliveries(
                endpoint=asked.of,
                state=asked.state,
                limit=_SHOWN,
                cursor=asked.cursor,
                among=among,
                count=not asked.cursor,
            )
            found, following, total = list(page.items), page.cursor, page.total
        except UsageError as error:
            mistake = _mistake(error)
    return {
        "asked": asked,
        "deliveries": found,
        "total": total,
        "older": asked.query(cursor=following) if following else "",
        "newest": asked.query(cursor="") if asked.cursor else None,
        "again": asked.query(),
        "mistake": mistake,
        "names": names[:500],
        "states": _STATES,
    }


@get("/deliveries", opt=may("webhook"), include_in_schema=False)
async def deliveries_page(ctx: Ctx, word: Word = "", endpoint: Text = "", cursor: Cursor = "") -> Response[bytes]:
    asked = Asked(key="endpoint", of=endpoint, state=word, cursor=cursor)
    return html_page(ctx, "deliveries.html", await _deliveries_values(ctx, asked), here="/webhooks/-")


@get("/fragments/deliveries", opt=may("webhook"), include_in_schema=False)
async def deliveries_fragment(ctx: Ctx, word: Word = "", endpoint: Text = "", cursor: Cursor = "") -> Response[bytes]:
    asked = Asked(key="endpoint", of=endpoint, state=word, cursor=cursor)
    return html_page(ctx, "deliveries_now.html", await _deliveries_values(ctx, asked))


def _pretty(text: str) -> str:
    """Return JSON with its lines broken, anything else as it is."""
    try:
        return msgspec.json.format(text, indent=2)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return text


@get("/deliveries/{delivery_id:str}", opt=may("webhook"), include_in_schema=False)
async def delivery_page(ctx: Ctx, delivery_id: Segment) -> Response[bytes]:
    hooks_of(ctx)
    found, endpoint = await find_delivery(ctx, segment(delivery_id))
    values = {
        "one": found.delivery,
        "detail": found,
        "text": found.text if found.truncated else _pretty(found.text),
        "endpoint": endpoint,
        "may_replay": endpoint is not None and ctx.rights.filter("webhook", "run")(endpoint.labels),
    }
    return html_page(ctx, "delivery.html", values, here="/webhooks/-")


async def _outbox_values(ctx: WebContext, asked: Asked) -> dict[str, Any]:
    mistake, found, following, total = "", list[OutboxRow](), "", None
    destinations = await outbox_of(ctx).destinations() if ctx.services.outbox is not None else ()
    if ctx.services.outbox is not None:
        try:
            asked.known(tuple(MessageState))
            page = await ctx.services.outbox.find(
                destination=asked.of, state=asked.state, limit=_SHOWN, cursor=asked.cursor, count=not asked.cursor
            )
            found, following, total = list(page.items), page.cursor, page.total
        except UsageError as error:
            mistake = _mistake(error)
    return {
        "asked": asked,
        "destinations": destinations,
        "messages": found,
        "total": total,
        "older": asked.query(cursor=following) if following else "",
        "newest": asked.query(cursor="") if asked.cursor else None,
        "again": asked.query(),
        "mistake": mistake,
        "states": tuple(MessageState),
    }


@get("/outbox", opt=may("notification"), include_in_schema=False)
async def outbox_page(ctx: Ctx, word: Word = "", destination: Text = "", cursor: Cursor = "") -> Response[bytes]:
    asked = Asked(key="destination", of=destination, state=word, cursor=cursor)
    return html_page(ctx, "outbox.html", await _outbox_values(ctx, asked), here="/outbox")


@get("/fragments/outbox", opt=may("notification"), include_in_schema=False)
async def outbox_fragment(ctx: Ctx, word: Word = "", destination: Text = "", cursor: Cursor = "") -> Response[bytes]:
    asked = Asked(key="destination", of=destination, state=word, cursor=cursor)
    return html_page(ctx, "outbox_now.html", await _outbox_values(ctx, asked))


@get("/outbox/{message_id:str}", opt=may("notification"), include_in_schema=False)
async def message_page(ctx: Ctx, message_id: Segment) -> Response[bytes]:
    row = await outbox_of(ctx).show(segment(message_id))
    data = _pretty(msgspec.json.encode(row.message.data).decode()) if row.message.data else ""
    return html_page(ctx, "message.html", {"row": row, "data": data}, here="/outbox/-")


HOOKS = Pages(
    handlers=(
        webhooks_page,
        webhooks_fragment,
        deliveries_page,
        deliveries_fragment,
        delivery_page,
        outbox_page,
        outbox_fragment,
        message_page,
    ),
    places=(Place("Webhooks", "/webhooks", "webhook"), Place("Outbox", "/outbox", "notification")),
)
