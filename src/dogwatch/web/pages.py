"""The console's pages and the fragments that keep them fresh. Collects what templates show; decides nothing."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.exceptions import HTTPException
from litestar.params import QueryParameter

from dogwatch.errors import NotFound, UsageError
from dogwatch.web import hostview, listing, view
from dogwatch.web.context import AVAILABILITY_PERIODS, PERIODS_S, Ctx, Segment, WebContext, segment
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.measured import measured
from dogwatch.web.permissions import PUBLIC, may
from dogwatch.web.problems import Problem
from dogwatch.web.rendering import html_page

_ROWS_ASKED = 100
_RESULTS_SHOWN = 50
_FAILURES_SHOWN = 10
_TRANSITIONS_SHOWN = 30
_PINGS_SHOWN = 10
Text = Annotated[str, QueryParameter(max_length=500)]


def problem_page(ctx: WebContext, problem: Problem, headers: dict[str, str]) -> Response[bytes]:
    answer = html_page(ctx, "problem.html", {"problem": problem}, problem.status)
    answer.headers.update(headers)
    return answer


@get("/", opt=may("probe"), include_in_schema=False)
async def console(ctx: Ctx, q: Text = "", start: Annotated[int, QueryParameter(ge=0, le=10**6)] = 0) -> Response[bytes]:
    mistake = ""
    try:
        wanted = listing.parse_filter(q)
    except UsageError as error:
        wanted, mistake = listing.Filter(words=("\0",)), f"{error}; {error.hint}"
    board = await view.board(ctx, wanted, q, start)
    return html_page(
        ctx,
        "console.html",
        {"board": board, "mistake": mistake, "q": q, "now": view.now(ctx), "hosts": await hostview.tiles(ctx)},
        here="/",
    )


@get("/fragments/now", opt=may("probe"), include_in_schema=False)
async def now_fragment(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "now.html", {"now": view.now(ctx)})


@get("/fragments/hosts", opt=may("host"), include_in_schema=False)
async def hosts_fragment(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "hosts.html", {"hosts": await hostview.tiles(ctx)})


@get("/fragments/group", opt=may("probe"), include_in_schema=False)
async def group_fragment(ctx: Ctx, group: Text, q: Text = "", cursor: Text = "") -> Response[bytes]:
    """Return the next rows of one group."""
    wanted = listing.parse_filter(q)
    views = [one for one in ctx.targets() if one.group == group and wanted.matches(one)]
    chosen, following = listing.page(views, cursor=cursor, limit=view.GROUP_ROWS)
    part = view.GroupPart(
        name=group, counts={}, status="", total=len(views), rows=await view.rows(ctx, chosen), cursor=following, q=q
    )
    return html_page(ctx, "rows.html", {"group": part})


@get("/fragments/rows", opt=may("probe"), include_in_schema=False)
async def rows_fragment(
    ctx: Ctx, target: Annotated[list[str] | None, QueryParameter(max_items=_ROWS_ASKED)] = None
) -> Response[bytes]:
    """Return the rows of named targets, for a page that catches up; those that are gone are left out."""
    chosen = []
    for name in target or ():
        try:
            chosen.append(ctx.services.watch.target(name))
        except NotFound:
            continue
    part = view.GroupPart(name="", counts={}, status="", total=0, rows=await view.rows(ctx, chosen), cursor="", q="")
    return html_page(ctx, "rows.html", {"group": part})


async def _target_values(ctx: WebContext, name: str) -> dict[str, Any]:
    store = ctx.services.store
    target = ctx.services.watch.target(name)
    row = (await view.rows(ctx, [target], slots=100))[0]
    availability = [(period, (await ctx.availability([name], period)).get(name)) for period in AVAILABILITY_PERIODS]
    return {
        "row": row,
        "target": target,
        "values": measured(target),
        "phases": view.phase_parts(target),
        "availability": availability,
        "percentiles": [(period, await ctx.overall(name, period)) for period in PERIODS_S],
        "failures": await store.failures(name, limit=_FAILURES_SHOWN),
        "transitions": await store.transitions(name, limit=_TRANSITIONS_SHOWN),
        "results": await store.results(name, limit=_RESULTS_SHOWN),
        "pings": await store.pings(name, limit=_PINGS_SHOWN) if target.kind == "heartbeat" else (),
    }


@get("/targets/{name:str}", opt=may("probe"), include_in_schema=False)
async def target_page(ctx: Ctx, request: Request[Any, Any, Any], name: Segment) -> Response[bytes]:
    known = ctx.services.watch.target(segment(name)).name
    values = await _target_values(ctx, known)
    values["asked_url"] = ctx.options.external_url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"
    return html_page(ctx, "target.html", values)


@get("/fragments/target/{name:str}", opt=may("probe"), include_in_schema=False)
async def target_fragment(ctx: Ctx, name: Segment) -> Response[bytes]:
    known = ctx.services.watch.target(segment(name)).name
    return html_page(ctx, "target_now.html", await _target_values(ctx, known))


@get("/hosts/{name:str}", opt=may("host"), include_in_schema=False)
async def host_page(ctx: Ctx, name: Segment) -> Response[bytes]:
    host = ctx.services.hosts.host(segment(name))
    values = {"host": host, "mounts": hostview.shown_mounts(host), "charts": hostview.CHARTS}
    return html_page(ctx, "host.html", values)


@get("/fragments/host/{name:str}", opt=may("host"), include_in_schema=False)
async def host_fragment(ctx: Ctx, name: Segment) -> Response[bytes]:
    host = ctx.services.hosts.host(segment(name))
    return html_page(ctx, "host_now.html", {"host": host, "mounts": hostview.shown_mounts(host)})


@get("/favicon.ico", opt=PUBLIC, include_in_schema=False)
async def favicon(ctx: Ctx) -> Response[bytes]:
    asset = ctx.assets.find("icon.svg")
    if asset is None:
        raise HTTPException(status_code=404)
    return Response(asset.content, media_type=asset.media_type, headers={"Cache-Control": "public, max-age=86400"})


OVERVIEW = Pages(
    handlers=(
        console,
        now_fragment,
        hosts_fragment,
        group_fragment,
        rows_fragment,
        target_page,
        target_fragment,
        host_page,
        host_fragment,
        favicon,
    ),
    places=(Place("Overview", "/"),),
)
