"""`/api/v1/targets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from litestar import Response, get, post
from litestar.params import QueryParameter

from dogwatch.core.values import Status
from dogwatch.errors import UsageError
from dogwatch.store.protocol import TransitionFilter
from dogwatch.web import listing
from dogwatch.web.api import models
from dogwatch.web.api.models import Handled, Limit, NameParam, Range, refusals
from dogwatch.web.api.paging import Cursor, Listed, Page, counted, numbered, opened, sealed
from dogwatch.web.context import AVAILABILITY_PERIODS, Ctx, WebContext, segment
from dogwatch.web.encoding import SafeResponse
from dogwatch.web.permissions import may
from dogwatch.web.tags import steady

Epoch = Annotated[float, QueryParameter(ge=0, le=1e11, description="Not older than this")]
Words = Annotated[str, QueryParameter(max_length=500, description="Words that the name or the reason must hold")]
After = Annotated[
    list[str] | None, QueryParameter(max_items=20, description="To one of these: up, down, degraded, paused…")
]
# More than are kept of any target.
_FAILURES = 100_000
# What every check changes.
_MOVING = ("last_time_s", "last_success", "last_duration_s", "last_phases", "lateness_s", "next_s", "values")
EpochOrNone = Annotated[float | None, QueryParameter(ge=0, le=1e11, description="Older than this")]
SinceOrNone = Annotated[float | None, QueryParameter(ge=0, le=1e11, description="Not older than this")]


@get("/api/v1/targets", opt=may("probe"), summary="Targets, in configuration order", responses=refusals())
async def list_targets(
    ctx: Ctx,
    q: Annotated[
        str, QueryParameter(max_length=500, description="Words, `status:down`, `group:web`, `label:a=b`")
    ] = "",
    status: Annotated[list[str] | None, QueryParameter(max_items=20, description="In this status")] = None,
    group: Annotated[list[str] | None, QueryParameter(max_items=100, description="Of this group")] = None,
    label: Annotated[list[str] | None, QueryParameter(max_items=20, description="`team=shop`; all must match")] = None,
    cursor: Cursor = "",
    limit: Limit = 100,
) -> models.TargetPage:
    wanted = listing.parse_filter(q, groups=group or (), statuses=status or (), labels=label or ())
    views = [view for view in ctx.targets() if wanted.matches(view)] if wanted else ctx.targets()
    chosen, following = listing.page(views, cursor=cursor, limit=limit)
    return models.TargetPage(
        items=[models.target_out(view) for view in chosen],
        total=len(views),
        counts=listing.counts(views),
        next_cursor=following,
    )


@get("/api/v1/targets/{name:str}", opt=may("probe"), summary="One target", responses=refusals(404))
async def show_target(ctx: Ctx, name: NameParam) -> Response[models.TargetOut]:
    shown = models.target_out(ctx.services.watch.target(segment(name)))
    return SafeResponse(shown, headers=steady(shown, *_MOVING))


@get("/api/v1/targets/{name:str}/history", opt=may("probe"), summary="Latency over time", responses=refusals(404))
async def target_history(
    ctx: Ctx,
    name: NameParam,
    range_: Annotated[Range | None, QueryParameter(name="range")] = None,
    since_s: SinceOrNone = None,
    until_s: EpochOrNone = None,
    points: Annotated[int, QueryParameter(ge=1, le=1000)] = 300,
) -> models.HistoryOut:
    known = ctx.services.watch.target(segment(name)).name
    since, until = models.span(ctx, range_, since_s, until_s)
    found = await ctx.services.store.chart(known, since_s=since, until_s=until, points=points)
    return models.HistoryOut(
        target=known, since_s=since, until_s=until, points=[models.point_out(point) for point in found]
    )


@get("/api/v1/targets/{name:str}/results", opt=may("probe"), summary="Results, newest first", responses=refusals(404))
async def target_results(
    ctx: Ctx, name: NameParam, until_s: EpochOrNone = None, cursor: Cursor = "", limit: Limit = 100
) -> models.ResultPage:
    known = ctx.services.watch.target(segment(name)).name
    before_s = _time(opened("results", cursor)) if cursor else until_s
    rows = await ctx.services.store.results(known, limit=limit, before_s=before_s)
    following = sealed("results", repr(rows[-1].time_s)) if len(rows) == limit else ""
    return models.ResultPage(items=[models.result_out(row) for row in rows], next_cursor=following)


def _time(cursor: str) -> float:
    try:
        return float(cursor)
    except ValueError:
        raise UsageError("the cursor is not one of this list", hint="take next_cursor of the page before") from None


@get(
    "/api/v1/targets/{name:str}/failures",
    opt=may("probe"),
    summary="Failures with their evidence, newest first",
    responses=refusals(404),
)
async def target_failures(ctx: Ctx, name: NameParam, paging: Page) -> Listed[models.FailureOut]:
    known = ctx.services.watch.target(segment(name)).name
    found = await ctx.services.store.failures(known, limit=_FAILURES)
    return paging.page(map(models.failure_out, found), lambda one: f"{one.time_s!r} {one.reason}")


@get(
    "/api/v1/targets/{name:str}/transitions",
    opt=may("probe"),
    summary="Changes of status, newest first",
    responses=refusals(404),
)
async def target_transitions(
    ctx: Ctx,
    name: NameParam,
    q: Words = "",
    status: After = None,
    since_s: Epoch = 0.0,
    until_s: EpochOrNone = None,
    cursor: Cursor = "",
    limit: Limit = 100,
) -> models.TransitionList:
    known = ctx.services.watch.target(segment(name)).name
    wanted = TransitionFilter(
        targets=[known], after=_statuses(status), words=q.lower().split(), since_s=since_s, until_s=until_s
    )
    return await _transitions(ctx, wanted, cursor, limit)


async def _transitions(ctx: WebContext, wanted: TransitionFilter, cursor: str, limit: int) -> models.TransitionList:
    before = counted("transitions", cursor)
    page = await ctx.services.store.find_transitions(wanted, limit=limit, before=before)
    return models.TransitionList(
        items=[models.transition_out(one) for one in page.items],
        total=page.total,
        next_cursor=numbered("transitions", page.before),
    )


def _statuses(words: Sequence[str] | None) -> list[Status]:
    for word in words or ():
        if word not in listing.STATUS_WORDS:
            raise UsageError(f"unknown status '{word}'", hint=f"known: {', '.join(listing.STATUS_WORDS)}")
    return [Status[word.upper()] for word in words or ()]


@get(
    "/api/v1/targets/{name:str}/availability",
    opt=may("probe"),
    summary="Availability over 24 h, 7 d, 30 d",
    responses=refusals(404),
)
async def target_availability(ctx: Ctx, name: NameParam) -> models.AvailabilityOut:
    known = ctx.services.watch.target(segment(name)).name
    periods = {}
    for period in AVAILABILITY_PERIODS:
        found = await ctx.availability([known], period)
        if known in found:
            periods[period] = found[known]
    return models.AvailabilityOut(target=known, periods=periods)


@get(
    "/api/v1/transitions",
    opt=may("probe"),
    summary="Changes of status of all targets, newest first",
    responses=refusals(),
)
async def all_transitions(
    ctx: Ctx,
    q: Words = "",
    target: Annotated[list[str] | None, QueryParameter(max_items=100, description="Of these targets")] = None,
    status: After = None,
    since_s: Epoch = 0.0,
    until_s: EpochOrNone = None,
    cursor: Cursor = "",
    limit: Limit = 100,
) -> models.TransitionList:
    wanted = TransitionFilter(
        targets=target, after=_statuses(status), words=q.lower().split(), since_s=since_s, until_s=until_s
    )
    return await _transitions(ctx, wanted, cursor, limit)


def _asked_of(verb: str, permission: str) -> Handled:
    """Return what makes a function the handler of something that is asked of one target."""
    return post(
        f"/api/v1/targets/{{name:str}}/{verb}",
        opt=may("probe", permission),
        status_code=200,
        summary="Run one attempt now" if verb == "run" else verb.capitalize(),
        responses=refusals(403, 404),
    )


@_asked_of("pause", "change")
async def pause_target(ctx: Ctx, name: NameParam) -> models.TargetOut:
    view = await ctx.services.watch.pause(segment(name))
    ctx.forget_snapshot()
    return models.target_out(view)


@_asked_of("resume", "change")
async def resume_target(ctx: Ctx, name: NameParam) -> models.TargetOut:
    view = await ctx.services.watch.resume(segment(name))
    ctx.forget_snapshot()
    return models.target_out(view)


@_asked_of("run", "run")
async def run_target(ctx: Ctx, name: NameParam) -> models.ProbeOut:
    result = await ctx.services.watch.run_now(segment(name))
    ctx.forget_snapshot()
    return models.probe_out(result)


TARGET_HANDLERS = (
    list_targets,
    show_target,
    target_history,
    target_results,
    target_failures,
    target_transitions,
    target_availability,
    all_transitions,
    pause_target,
    resume_target,
    run_target,
)
