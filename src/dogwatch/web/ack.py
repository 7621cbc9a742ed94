"""`/ack/<link>` and `/approve/<link>`: whoever was told of an incident says that they take it, or answers what is asked
about it, without logging in.

Looking at them changes nothing: programs that look into messages follow links, and would acknowledge everything.
"""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.params import PathParameter

from dogwatch.errors import DogwatchError, NotFound, UsageError
from dogwatch.rules.incident import Incident
from dogwatch.rules.links.links import Links, Question
from dogwatch.rules.part import Incidents
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.permissions import FORM, PUBLIC
from dogwatch.web.problems import from_error
from dogwatch.web.rendering import html_page

_Link = Annotated[str, PathParameter(max_length=200)]
# The address is a secret: no cache keeps it, and no other site hears of it.
_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex"}


def _both(ctx: WebContext) -> tuple[Links, Incidents]:
    if ctx.services.links is None or ctx.services.incidents is None:
        raise NotFound("there is nothing at this address")
    return ctx.services.links, ctx.services.incidents


def _page(
    ctx: WebContext, incident: Incident | None, *, done: bool = False, error: DogwatchError | None = None
) -> Response[bytes]:
    status = 200 if error is None else from_error(error).status
    answer = html_page(ctx, "ack.html", {"incident": incident, "done": done, "error": error}, status)
    answer.headers.update(_HEADERS)
    return answer


@get("/ack/{link:str}", opt=PUBLIC, include_in_schema=False)
async def ack_page(ctx: Ctx, link: _Link) -> Response[bytes]:
    try:
        links, incidents = _both(ctx)
        found = await links.find(link)
        return _page(ctx, await incidents.show(found.number))
    except DogwatchError as error:
        return _page(ctx, None, error=error)


@post("/ack/{link:str}", opt=FORM, status_code=200, include_in_schema=False)
async def ack_form(ctx: Ctx, link: _Link, request: Request[Any, Any, Any]) -> Response[bytes]:
    try:
        links, incidents = _both(ctx)
        address = request.client.host if request.client else ""
        return _page(ctx, await links.use(link, incidents, address=address), done=True)
    except DogwatchError as error:
        return _page(ctx, None, error=error)


def _question(
    ctx: WebContext, asked: Question | None, *, done: str = "", error: DogwatchError | None = None
) -> Response[bytes]:
    status = 200 if error is None else from_error(error).status
    answer = html_page(ctx, "approve.html", {"asked": asked, "done": done, "error": error}, status)
    answer.headers.update(_HEADERS)
    return answer


@get("/approve/{link:str}", opt=PUBLIC, include_in_schema=False)
async def approve_page(ctx: Ctx, link: _Link) -> Response[bytes]:
    try:
        links, incidents = _both(ctx)
        return _question(ctx, await links.ask(link, incidents))
    except DogwatchError as error:
        return _question(ctx, None, error=error)


@post("/approve/{link:str}", opt=FORM, status_code=200, include_in_schema=False)
async def approve_form(ctx: Ctx, link: _Link, request: Request[Any, Any, Any]) -> Response[bytes]:
    try:
        links, incidents = _both(ctx)
        answer = (await request.form()).get("answer")
        if answer not in ("approve", "reject"):
            raise UsageError("nothing says whether it is approved or rejected")
        address = request.client.host if request.client else ""
        asked = await links.decide(link, incidents, approve=answer == "approve", address=address)
        return _question(ctx, asked, done=str(answer))
    except DogwatchError as error:
        return _question(ctx, None, error=error)


ACK_HANDLERS = (ack_page, ack_form, approve_page, approve_form)
