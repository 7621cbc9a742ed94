"""The status page for everybody: the page itself, its feed, badges, JSON, and subscriptions. Shows StatusPart's values
and nothing of the program beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from html import escape
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import QueryParameter

from dogwatch.access.identity import anonymous
from dogwatch.errors import Conflict, DogwatchError, NotFound, UsageError
from dogwatch.notify.message import iso_time
from dogwatch.status.part import StatusPart
from dogwatch.status.public import PublicIncident, PublicPage, PublicTarget
from dogwatch.web.badges import COLOURS, badge
from dogwatch.web.context import Ctx, Segment, WebContext, segment
from dogwatch.web.contributions import Pages
from dogwatch.web.permissions import FORM, PUBLIC
from dogwatch.web.rendering import html_page
from dogwatch.words import Language, Phrase

Asked = Request[Any, Any, Any]
Token = Annotated[str, QueryParameter(max_length=200)]
_CACHED = {"Cache-Control": "public, max-age=10"}
_VERDICTS = {
    "up": Phrase("All is well"),
    "degraded": Phrase("Some things are slow or partly out"),
    "down": Phrase("There is an outage"),
    "maintenance": Phrase("Work is under way"),
    "unknown": Phrase("Nothing is known yet"),
}
_WORDS = {
    "up": Phrase("working"),
    "degraded": Phrase("degraded"),
    "down": Phrase("down"),
    "maintenance": Phrase("maintenance"),
    "unknown": Phrase("unknown"),
}


def _part(ctx: WebContext) -> StatusPart:
    if ctx.services.status is None or not ctx.services.status.options.groups:
        raise NotFound("there is nothing at this address")
    return ctx.services.status


def _stranger(ctx: WebContext) -> WebContext:
    """Return the context as anybody has it: whoever is logged in sees the same page as all others."""
    seen = ctx.seen_by(anonymous(ctx.identity.actor.address))
    seen.asked = ctx.asked
    return seen


def bar_of(ratio: float | None) -> str:
    """Return how a day is drawn."""
    if ratio is None:
        return "none"
    return "up" if ratio >= 0.9995 else "degraded" if ratio >= 0.98 else "fail"


@get("/status", opt=PUBLIC, include_in_schema=False)
async def status_page(ctx: Ctx) -> Response[bytes]:
    part = _part(ctx)
    page = await part.page()
    values = {
        "page": page,
        "verdict": _VERDICTS[page.status],
        "status_words": _WORDS,
        "bar_of": bar_of,
        "kinds": part.kinds,
        "days": part.options.days,
    }
    answer = html_page(_stranger(ctx), "status.html", values)
    answer.headers.update({"Cache-Control": "private, max-age=10"})
    return answer


@get("/status/summary.json", opt=PUBLIC, include_in_schema=False)
async def status_summary(ctx: Ctx) -> Response[bytes]:
    page = await _part(ctx).page()
    return Response(msgspec.json.encode(page), media_type="application/json", headers=_CACHED)


@get("/status/feed.atom", opt=PUBLIC, include_in_schema=False)
async def status_feed(ctx: Ctx, request: Asked) -> Response[bytes]:
    part = _part(ctx)
    base = part.options.url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"
    text = "".join(_feed(await part.page(), base))
    return Response(text.encode(), media_type="application/atom+xml; charset=utf-8", headers=_CACHED)


def _feed(page: PublicPage, base: str) -> Iterator[str]:
    entries = [*page.open, *page.past]
    changed = [max(one.ended_s or one.began_s, *(up.time_s for up in one.updates), one.began_s) for one in entries]
    newest_s = max(changed, default=page.time_s)
    yield '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
    yield f"<id>{_xml(base)}/status</id><title>{_xml(page.title)}</title><updated>{iso_time(newest_s)}</updated>"
    yield f'<link href="{_xml(base)}/status"/><link rel="self" href="{_xml(base)}/status/feed.atom"/>'
    yield f"<author><name>{_xml(page.title)}</name></author>"
    for one, time_s in zip(entries, changed, strict=True):
        yield _entry(one, time_s, base)
    for work in page.work:
        begins = iso_time(work.begin_s) if work.begin_s is not None else "now"
        text = f"{', '.join(work.affects)}: planned work from {begins}. {work.text}"
        stamp = iso_time(work.begin_s if work.begin_s is not None else page.time_s)
        yield f"<entry><id>urn:dogwatch:{work.key}</id><title>{_xml(', '.join(work.affects))}: planned work</title>"
        yield f'<updated>{stamp}</updated><link href="{_xml(base)}/status"/><content>{_xml(text)}</content></entry>'
    yield "</feed>\n"


def _entry(one: PublicIncident, time_s: float, base: str) -> str:
    what = ", ".join(one.affects)
    lines = [f"Trouble since {iso_time(one.began_s)}."]
    lines += [f"{iso_time(update.time_s)}: {update.text}" for update in reversed(one.updates)]
    if one.ended_s is not None:
        lines.append(f"Well again since {iso_time(one.ended_s)}.")
    state = "trouble" if one.ended_s is None else "well again"
    return (
        f"<entry><id>urn:dogwatch:{one.key}</id><title>{_xml(what)}: {state}</title>"
        f'<updated>{iso_time(time_s)}</updated><link href="{_xml(base)}/status#i-{one.key}"/>'
        f"<content>{_xml(chr(10).join(lines))}</content></entry>"
    )


def _xml(text: str) -> str:
    """Return text as XML may hold it: control characters have no form there."""
    plain = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)
    return escape(plain.encode("utf-8", "replace").decode())


@get("/status/badge.svg", opt=PUBLIC, include_in_schema=False)
async def status_badge(ctx: Ctx, request: Asked) -> Response[bytes]:
    page = await _part(ctx).page()
    return _badge(request, page.title, page.status)


@get("/status/badge/{file:str}", opt=PUBLIC, include_in_schema=False)
async def target_badge(ctx: Ctx, request: Asked, file: Segment) -> Response[bytes]:
    """Answer by public names only."""
    page = await _part(ctx).page()
    wanted = segment(file).removesuffix(".svg")
    found: PublicTarget | None = next(
        (one for group in page.groups for one in group.targets if one.name == wanted), None
    )
    if found is None:
        raise NotFound("there is no such badge")
    return _badge(request, found.name, found.status)


def _badge(request: Asked, name: str, status: str) -> Response[bytes]:
    words = {"up": "well", "unknown": "unknown"}
    body = badge(name, words.get(status, status), COLOURS.get(status, COLOURS["pending"])).encode("utf-8", "replace")
    etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    headers = {"Cache-Control": "no-cache, max-age=0", "ETag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers, media_type="image/svg+xml")
    return Response(body, headers=headers, media_type="image/svg+xml; charset=utf-8")


# -- subscriptions -----------------------------------------------------------------------------------------------------


def _said(ctx: WebContext, said: str, error: DogwatchError | None = None, *, status: int = 200) -> Response[bytes]:
    values = {"page_title": _part(ctx).options.title, "said_text": said, "error": error, "do": "", "token": ""}
    return html_page(_stranger(ctx), "status_said.html", values, status)


def _language(ctx: WebContext) -> Language:
    """Return the language in which the page is read, and whoever subscribes is told."""
    return "zh" if ctx.words.language == "zh" else "en"


@post("/status/subscribe", opt=FORM, status_code=200, include_in_schema=False)
async def status_subscribe(ctx: Ctx, request: Asked) -> Response[bytes]:
    part = _part(ctx)
    fields = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    try:
        kind, address = fields.get("kind", "email"), fields.get("address", "")
        await part.subscribe(kind, address, _stranger(ctx).actor, _language(ctx))
    except (UsageError, Conflict) as error:
        return _said(ctx, "", error, status=400)
    return _said(ctx, Phrase("Follow the link in the message that is on its way to you. Until then you hear nothing."))


@get("/status/confirm", opt=PUBLIC, include_in_schema=False)
async def confirm_page(ctx: Ctx, token: Token = "") -> Response[bytes]:
    """Show a button: programs that look at mail follow links, but press nothing."""
    values = {"page_title": _part(ctx).options.title, "said_text": "", "error": None, "do": "confirm", "token": token}
    return html_page(_stranger(ctx), "status_said.html", values)


@get("/status/unsubscribe", opt=PUBLIC, include_in_schema=False)
async def unsubscribe_page(ctx: Ctx, token: Token = "") -> Response[bytes]:
    title = _part(ctx).options.title
    values = {"page_title": title, "said_text": "", "error": None, "do": "unsubscribe", "token": token}
    return html_page(_stranger(ctx), "status_said.html", values)


async def _token(request: Asked) -> str:
    token = (await request.form()).get("token", "")
    return token[:200] if isinstance(token, str) else ""


@post("/status/confirm", opt=FORM, status_code=200, include_in_schema=False)
async def confirm_form(ctx: Ctx, request: Asked) -> Response[bytes]:
    try:
        await _part(ctx).confirm(await _token(request), _stranger(ctx).actor)
    except NotFound as error:
        return _said(ctx, "", error, status=404)
    return _said(ctx, Phrase("You will be told of trouble and of planned work."))


@post("/status/unsubscribe", opt=FORM, status_code=200, include_in_schema=False)
async def unsubscribe_form(ctx: Ctx, request: Asked) -> Response[bytes]:
    try:
        await _part(ctx).unsubscribe(await _token(request), _stranger(ctx).actor)
    except NotFound as error:
        return _said(ctx, "", error, status=404)
    return _said(ctx, Phrase("You will hear no more."))


STATUS = Pages(
    handlers=(
        status_page,
        status_summary,
        status_feed,
        status_badge,
        target_badge,
        status_subscribe,
        confirm_page,
        confirm_form,
        unsubscribe_page,
        unsubscribe_form,
    )
)
