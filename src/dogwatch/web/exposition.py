"""`/metrics`, `/probe`, `/healthz`, `/readyz`: what other programs read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
from litestar import Request, Response, get

from dogwatch.app import Readiness
from dogwatch.core.metrics import Family, number, render
from dogwatch.errors import NotFound
from dogwatch.web.context import Ctx
from dogwatch.web.encoding import SafeResponse
from dogwatch.web.permissions import PUBLIC, may

TEXT_TYPE = "text/plain; version=0.0.4"  # Litestar adds the charset to text/*
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def open_metrics(family: Family) -> str:
    """Return one family in OpenMetrics: a counter is named without `_total`, its series with it."""
    name, kind = family.name, {"untyped": "unknown"}.get(family.kind, family.kind)
    if kind == "counter":
        # Names from node_exporter that count but do not end so are not counters to OpenMetrics.
        name, kind = (name[: -len("_total")], kind) if name.endswith("_total") else (name, "unknown")
    lines = [f"{text} {number(value)}" for text, value in family.series]
    if not lines:
        return ""
    text = family.help.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return "\n".join((f"# TYPE {name} {kind}", f"# HELP {name} {text}", *lines, ""))


async def exposed(families: Iterable[Family], *, openmetrics: bool) -> bytes:
    """Return the text of all families; the event loop goes on after each."""
    parts = []
    for family in families:
        parts.append((open_metrics(family) if openmetrics else render((family,))).encode())
        await asyncio.sleep(0)
    if openmetrics:
        parts.append(b"# EOF\n")
    return b"".join(parts)


@get("/metrics", opt=may("probe", public="metrics"), include_in_schema=False)
async def metrics(ctx: Ctx, request: Request[Any, Any, Any]) -> Response[bytes]:
    openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
    body = await exposed(chain(ctx.services.metrics(), ctx.meter.families()), openmetrics=openmetrics)
    return Response(body, media_type=OPENMETRICS_TYPE if openmetrics else TEXT_TYPE)


@get("/probe", opt=may("probe", "run", public="metrics", whole=True), include_in_schema=False)
async def probe(ctx: Ctx, request: Request[Any, Any, Any]) -> Response[bytes]:
    if ctx.services.blackbox is None:
        raise NotFound("this Dogwatch answers no /probe")
    # A parameter given twice counts as its first, as Go's Query().Get does.
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        query.setdefault(name, value)
    status, media_type, text = await ctx.services.blackbox(query, dict(request.headers))
    return Response(
        text.encode(),
        status_code=status,
        media_type=media_type.removesuffix("; charset=utf-8") if media_type.startswith("text/") else media_type,
    )


@get("/healthz", opt=PUBLIC, include_in_schema=False)
async def healthz() -> Response[bytes]:
    """Say that the event loop turns."""
    return Response(b"ok\n", media_type="text/plain")


class ReadyOut(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool
    checks: Sequence[Readiness]


@get("/readyz", opt=PUBLIC, include_in_schema=False)
async def readyz(ctx: Ctx) -> Response[ReadyOut]:
    checks = tuple(ctx.services.readiness())
    ready = all(check.ok for check in checks)
    return SafeResponse(ReadyOut(ready=ready, checks=checks), status_code=200 if ready else 503)


EXPOSITION_HANDLERS = (metrics, probe, healthz, readyz)
