"""SVG badges: a target's, a group's and the overall status, availability and latency."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from html import escape
from typing import Any

from litestar import Request, Response, get

from dogwatch.core.units import format_duration
from dogwatch.errors import NotFound
from dogwatch.probes.view import TargetView
from dogwatch.web import listing
from dogwatch.web.context import AVAILABILITY_PERIODS, PERIODS_S, Ctx, Segment, WebContext, segment
from dogwatch.web.permissions import may

# Text is white at 11 px on these: each has a contrast of at least 4.5 against it.
COLOURS = {
    "up": "#2c7a3f",
    "degraded": "#9a5b00",
    "down": "#c0262d",
    "pending": "#5f6672",
    "paused": "#5f6672",
    "maintenance": "#5b4bb5",
}
_GREY = "#5f6672"
# Widths of Verdana at 11 px, in px, by kind of character: near enough, textLength does the rest.
_NARROW = frozenset("ijlI.,:;|!'()[]{}ft/\\ ")
_WIDE = frozenset("mwMW@%")
_TEXT_LIMIT = 80
_CHART_POINTS = 100


def text_width(text: str) -> int:
    """Return the width of a text at 11 px, in px."""
    width = 0.0
    for char in text:
        width += 4.3 if char in _NARROW else 10.6 if char in _WIDE else 12.0 if ord(char) > 0x2E7F else 7.0
    return round(width)


def badge(label: str, message: str, colour: str) -> str:
    """Return a badge; texts are cut and escaped."""
    shown = [text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…" for text in (label, message)]
    shown = ["".join(char if char.isprintable() else "\ufffd" for char in text) for text in shown]
    left, right = (text_width(text) + 12 for text in shown)
    label_text, message_text = (escape(text) for text in shown)

    def text(x: float, width: int, content: str) -> str:
        at = f'x="{x:g}" textLength="{width}" lengthAdjust="spacingAndGlyphs"'
        return (
            f'<text {at} y="15" fill="#010101" fill-opacity=".3" aria-hidden="true">{content}</text>'
            f'<text {at} y="14">{content}</text>'
        )

    total = left + right
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" '
        f'aria-label="{label_text}: {message_text}"><title>{label_text}: {message_text}</title>'
        f'<clipPath id="r"><rect width="{total}" height="20" rx="3" fill="#fff"/></clipPath><g clip-path="url(#r)">'
        f'<rect width="{left}" height="20" fill="#3b3f46"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/></g>'
        f'<g fill="#fff" text-anchor="middle" font-family="Verdana,Geneva,DejaVu Sans,sans-serif" font-size="11">'
        f"{text(left / 2, left - 12, label_text)}{text(left + right / 2, right - 12, message_text)}</g></svg>"
    )


def _colour_of(ratio: float | None) -> str:
    if ratio is None:
        return _GREY
    return COLOURS["up" if ratio >= 0.99 else "degraded" if ratio >= 0.95 else "down"]


def percent(ratio: float | None) -> str:
    """Return `99.95 %`, never rounded up to 100; "no data" where it is not known."""
    if ratio is None:
        return "no data"
    if ratio >= 1:
        return "100 %"
    return f"{int(ratio * 10_000) / 100:.2f} %"


def _respond(request: Request[Any, Any, Any], svg: str, status: int = 200) -> Response[bytes]:
    body = svg.encode("utf-8", "replace")
    etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    # Image proxies (GitHub's) keep what they may: no-cache makes them ask again, the tag makes that cheap.
    headers = {"Cache-Control": "no-cache, max-age=0, s-maxage=0", "ETag": etag}
    if status == 200 and etag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers, media_type="image/svg+xml")
    return Response(body, status_code=status, headers=headers, media_type="image/svg+xml; charset=utf-8")


def _unknown(request: Request[Any, Any, Any], label: str, message: str = "not found") -> Response[bytes]:
    return _respond(request, badge(label or "dogwatch", message, _GREY), 404)


def _stem(file: str) -> str | None:
    name = segment(file)
    return name[:-4] if name.endswith(".svg") else None


def _target(ctx: WebContext, name: str) -> Sequence[TargetView]:
    try:
        return (ctx.services.watch.target(name),)
    except NotFound:
        return ()


def _group(ctx: WebContext, name: str) -> Sequence[TargetView]:
    return [view for view in ctx.targets() if view.group == name]


def _status(request: Request[Any, Any, Any], label: str, views: Sequence[TargetView]) -> Response[bytes]:
    word = listing.worst(view.status for view in views)
    message = word
    if len(views) > 1 and word in ("down", "degraded"):
        message = f"{sum(view.status == word for view in views)} of {len(views)} {word}"
    return _respond(request, badge(label, message, COLOURS[word]))


async def _uptime(
    ctx: WebContext, request: Request[Any, Any, Any], label: str, views: Sequence[TargetView], file: str
) -> Response[bytes]:
    period = _stem(file)
    if period not in AVAILABILITY_PERIODS:
        return _unknown(request, label, "unknown period")
    found = await ctx.availability([view.name for view in views], period)
    up_s = sum(one.up_s + one.degraded_s for one in found.values())
    known_s = up_s + sum(one.down_s for one in found.values())
    ratio = up_s / known_s if known_s else None
    return _respond(request, badge(f"{label} {period}", percent(ratio), _colour_of(ratio)))


@get("/badge/{file:str}", opt=may("probe", public="status"), include_in_schema=False)
async def status_badge(ctx: Ctx, request: Request[Any, Any, Any], file: Segment) -> Response[bytes]:
    name = _stem(file)
    views = _target(ctx, name) if name is not None else ()
    return _status(request, views[0].name, views) if views else _unknown(request, name or "")


@get("/badge/{name:str}/uptime/{file:str}", opt=may("probe", public="status"), include_in_schema=False)
async def uptime_badge(ctx: Ctx, request: Request[Any, Any, Any], name: Segment, file: Segment) -> Response[bytes]:
    label = segment(name)
    views = _target(ctx, label)
    return await _uptime(ctx, request, label, views, file) if views else _unknown(request, label)


@get("/badge/{name:str}/latency/{file:str}", opt=may("probe", public="status"), include_in_schema=False)
async def latency_badge(ctx: Ctx, request: Request[Any, Any, Any], name: Segment, file: Segment) -> Response[bytes]:
    label, period = segment(name), _stem(file)
    if not _target(ctx, label):
        return _unknown(request, label)
    if period not in PERIODS_S:
        return _unknown(request, label, "unknown period")
    until_s = ctx.services.clock.now_s()
    points = await ctx.services.store.chart(
        label, since_s=until_s - PERIODS_S[period], until_s=until_s, points=_CHART_POINTS
    )
    weighed = [(point.mean_s, point.count - point.failures) for point in points if point.mean_s is not None]
    total = sum(weight for _mean_s, weight in weighed)
    if not total:
        return _respond(request, badge(f"{label} {period}", "no data", _GREY))
    mean_s = sum(mean_s * weight for mean_s, weight in weighed) / total
    return _respond(request, badge(f"{label} {period}", format_duration(mean_s), "#1f6feb"))


@get("/group-badge/{file:str}", opt=may("probe", public="status"), include_in_schema=False)
async def group_badge(ctx: Ctx, request: Request[Any, Any, Any], file: Segment) -> Response[bytes]:
    name = _stem(file)
    views = _group(ctx, name) if name is not None else ()
    return _status(request, name or "", views) if views else _unknown(request, name or "")


@get("/group-badge/{name:str}/uptime/{file:str}", opt=may("probe", public="status"), include_in_schema=False)
async def group_uptime_badge(
    ctx: Ctx, request: Request[Any, Any, Any], name: Segment, file: Segment
) -> Response[bytes]:
    label = segment(name)
    views = _group(ctx, label)
    return await _uptime(ctx, request, label, views, file) if views else _unknown(request, label)


@get("/badge.svg", opt=may("probe", public="status"), include_in_schema=False)
async def overall_badge(ctx: Ctx, request: Request[Any, Any, Any]) -> Response[bytes]:
    return _status(request, ctx.options.title, ctx.targets())


BADGE_HANDLERS = (status_badge, uptime_badge, latency_badge, group_badge, group_uptime_badge, overall_badge)
