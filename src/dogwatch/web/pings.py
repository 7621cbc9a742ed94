"""Heartbeat addresses as Healthchecks has them: `/ping/<id>`, `/start`, `/fail`, `/log`, `/<exit status>`."""

from __future__ import annotations

import uuid
from typing import Any

from litestar import HttpMethod, Request, Response, route

from dogwatch.errors import NotFound, TransientError
from dogwatch.web import problems
from dogwatch.web.context import Ctx, Segment, WebContext, segment
from dogwatch.web.permissions import PUBLIC

_METHODS = [HttpMethod.GET, HttpMethod.HEAD, HttpMethod.POST]
_SIGNALS = ("start", "fail", "log")


def _text(text: str, status: int, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(
        text.encode(),
        status_code=status,
        media_type="text/plain",
        headers={"Access-Control-Allow-Origin": "*", **(headers or {})},
    )


def _meaning(action: str) -> tuple[str, int | None] | None:
    """Return signal and exit status for the address's last part, or None where it means nothing."""
    if not action:
        return "success", None
    if action in _SIGNALS:
        return action, None
    if action.isascii() and action.isdigit() and len(action) <= 3 and int(action) <= 255:
        return "exit", int(action)
    return None


async def _body(request: Request[Any, Any, Any], limit: int) -> str:
    """Return the first `limit` bytes as text. The rest is read and dropped, so that the sender sees our answer."""
    kept = bytearray()
    async for chunk in request.stream():
        kept += chunk[: max(0, limit - len(kept))]
    # A cut may have split the last character; NUL ends text in more than one database.
    return bytes(kept).decode("utf-8", "replace").replace("\0", "\ufffd")


async def _take(ctx: WebContext, request: Request[Any, Any, Any], ping_id: str, action: str) -> Response[bytes]:
    meaning = _meaning(action)
    if meaning is None:
        return _text("invalid url format\n", 400)
    rid = request.query_params.get("rid", "")
    if rid:
        try:
            rid = str(uuid.UUID(rid))
        except ValueError:
            return _text("invalid uuid format\n", 400)
    limit = ctx.options.ping_body_limit
    body = await _body(request, limit) if request.method == "POST" else ""
    remote = request.client.host if request.client else ""
    signal, exit_status = meaning
    try:
        await ctx.services.watch.ping(
            ping_id, signal=signal, exit_status=exit_status, body=body, remote=remote, rid=rid
        )
    except NotFound:
        return _text("not found\n", 404)
    except TransientError as error:
        return _text(f"{error}\n", 503, {"Retry-After": "5", **problems.retry_after(error)})
    return _text("OK", 200, {"Ping-Body-Limit": str(limit)})


@route("/ping/{ping_id:str}", opt=PUBLIC, http_method=_METHODS, status_code=200, include_in_schema=False)
async def ping(ctx: Ctx, request: Request[Any, Any, Any], ping_id: Segment) -> Response[bytes]:
    return await _take(ctx, request, segment(ping_id), "")


@route("/ping/{ping_id:str}/{action:str}", opt=PUBLIC, http_method=_METHODS, status_code=200, include_in_schema=False)
async def ping_action(ctx: Ctx, request: Request[Any, Any, Any], ping_id: Segment, action: Segment) -> Response[bytes]:
    return await _take(ctx, request, segment(ping_id), segment(action))


PING_HANDLERS = (ping, ping_action)
