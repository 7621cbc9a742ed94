"""`/api/v1/runs`: what ran, runs and will run; its steps and output; what people may ask of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, QueryParameter

from dogwatch.engine.values import Run, RunFilter
from dogwatch.fleet.adhoc import APPLY_JOB, JOB, PLAN_JOB
from dogwatch.web.api import run_models as models
from dogwatch.web.api.jobs import IdempotencyKey
from dogwatch.web.api.models import Limit, refusals
from dogwatch.web.api.paging import Listed, Page
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.encoding import SafeResponse, encode_json
from dogwatch.web.events import EventStreamResponse
from dogwatch.web.permissions import may
from dogwatch.web.problems import used_otherwise
from dogwatch.web.run_streams import RunStream, output_frames, whole_frames
from dogwatch.web.tags import tag

StepQuery = Annotated[str, QueryParameter(max_length=200, description="Output of this step only")]
After = Annotated[int, QueryParameter(ge=0, le=2**53, description="Output after this sequence")]
# (context, run, step=…, after=…) → its events
Frames = Callable[..., AsyncIterator[bytes]]
# (context, the run, why) → the run afterwards
Order = Callable[[WebContext, Run, str], Awaitable[Run]]
_STREAM = ResponseSpec(str, media_type="text/event-stream", generate_examples=False)


def _document(run: Run, status: int = 200) -> Response[models.RunOut]:
    shown = models.run_out(run)
    return SafeResponse(shown, status_code=status, headers={"ETag": tag(encode_json(shown))})


async def _found(ctx: WebContext, run_id: str, verb: str = "read") -> Run:
    """Return the run that an id or its beginning names. verb: what is to be done to it. Raises: NotAllowed."""
    run = await ctx.services.runs.show(segment(run_id))
    ctx.require("run", verb, run.labels)
    return run


@get("/api/v1/runs", opt=may("run"), summary="Runs, newest first", responses=refusals(503))
async def list_runs(
    ctx: Ctx,
    job: Annotated[str, QueryParameter(max_length=500, description="Of this job")] = "",
    states: Annotated[
        list[str] | None,
        QueryParameter(name="state", max_items=20, description="In this state; `open`: not ended"),
    ] = None,
    trigger: Annotated[
        str, QueryParameter(max_length=100, description="Started so: manual, schedule, webhook, rule, run")
    ] = "",
    parent: Annotated[str, QueryParameter(max_length=200, description="Started by this run")] = "",
    label: models.LabelQuery = None,
    since_s: Annotated[float | None, QueryParameter(ge=0, le=1e11, description="Not older than this")] = None,
    cursor: models.Cursor = "",
    limit: Limit = 50,
) -> models.RunPage:
    page = await ctx.services.runs.find(
        RunFilter(
            job=job,
            states=models.parse_states(states or ()),
            trigger=trigger,
            parent=parent,
            labels=models.parse_labels(label or ()),
            since_s=since_s,
            limit=limit,
            cursor=cursor,
            count=not (cursor or label),
        )
    )
    return models.RunPage(items=[models.run_out(run) for run in page.items], total=page.total, next_cursor=page.cursor)


@get("/api/v1/runs/{run_id:str}", opt=may("run"), summary="One run", responses=refusals(404, 503))
async def show_run(ctx: Ctx, run_id: models.RunIdParam) -> Response[models.RunOut]:
    return _document(await _found(ctx, run_id))


@get("/api/v1/runs/{run_id:str}/steps", opt=may("run"), summary="Its steps, in order", responses=refusals(404, 503))
async def run_steps(ctx: Ctx, run_id: models.RunIdParam, paging: Page) -> Listed[models.StepOut]:
    run = await _found(ctx, run_id)
    return paging.page(map(models.step_out, await ctx.services.runs.steps(run.run_id)), lambda one: one.name)


def _order(verb: str, permission: str, summary: str, does: Order) -> HTTPRouteHandler:
    """Return the handler of something that is asked of a run with a reason."""

    @post(
        f"/api/v1/runs/{{run_id:str}}/{verb}",
        opt=may("run", permission),
        status_code=200,
        summary=summary,
        responses=refusals(403, 404, 409, 413, 503),
    )
    async def order(
        ctx: Ctx, run_id: models.RunIdParam, data: JSONBody[models.ReasonIn | None] = None
    ) -> Response[models.RunOut]:
        run = await _found(ctx, run_id, permission)
        return _document(await does(ctx, run, data.reason if data is not None else ""))

    return order


cancel_run = _order(
    "cancel",
    "cancel",
    "End it and its children; cleanup steps run",
    lambda ctx, run, reason: ctx.services.runs.cancel(run.run_id, ctx.actor, reason=reason),
)
pause_run = _order(
    "pause",
    "change",
    "Begin no further step",
    lambda ctx, run, reason: ctx.services.runs.pause(run.run_id, ctx.actor, reason=reason),
)
resume_run = _order(
    "resume",
    "change",
    "Let a paused run go on",
    lambda ctx, run, _reason: ctx.services.runs.resume(run.run_id, ctx.actor),
)


@post(
    "/api/v1/runs/{run_id:str}/rerun",
    opt=may("run", "run", keyed=True),
    status_code=201,
    summary="Start it again as a new run",
    responses={
        200: ResponseSpec(models.RunOut, generate_examples=False, description="The key was known: its run"),
        **refusals(403, 404, 409, 413, 503),
    },
)
async def rerun_run(
    ctx: Ctx,
    run_id: models.RunIdParam,
    data: JSONBody[models.RerunIn],
    key: IdempotencyKey = None,
) -> Response[models.RunOut]:
    run = await _found(ctx, run_id, "run")
    if run.job in (JOB, PLAN_JOB, APPLY_JOB):
        # Its hosts are chosen anew, among all that there are by then: there are no labels to check yet.
        ctx.require("fleet", "run", {})
    started = await ctx.services.runs.rerun(run.run_id, ctx.actor, failed_only=data.failed_only, key=key or "")
    if not started.created and started.run.rerun_of != run.run_id:
        raise used_otherwise()
    return _document(started.run, 201 if started.created else 200)


@post(
    "/api/v1/runs/{run_id:str}/decide",
    opt=may("run", "approve"),
    status_code=200,
    summary="Approve or reject a step that waits for it",
    responses=refusals(403, 404, 409, 413, 503),
)
async def decide_run(
    ctx: Ctx,
    run_id: models.RunIdParam,
    data: JSONBody[models.DecideIn],
) -> Response[models.RunOut]:
    run = await _found(ctx, run_id, "approve")
    decided = await ctx.services.runs.decide(
        run.run_id, data.step, ctx.actor, approve=data.approve, comment=data.comment
    )
    return _document(decided)


@get(
    "/api/v1/runs/{run_id:str}/output",
    opt=may("run"),
    summary="What was kept of its output",
    responses=refusals(404, 503),
)
async def run_output(
    ctx: Ctx,
    run_id: models.RunIdParam,
    step: StepQuery = "",
    search: Annotated[str, QueryParameter(max_length=500, description="Plain text that a piece must hold")] = "",
    after: After = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=5000, description="Pieces at most")] = 1000,
) -> models.OutputPage:
    run = await _found(ctx, run_id)
    chunks = await ctx.services.runs.output(run.run_id, step=step, after=after, limit=limit, search=search)
    return models.OutputPage(
        items=[models.chunk_out(one) for one in chunks],
        next_after=chunks[-1].sequence if len(chunks) == limit else None,
    )


def _stream(path: str, summary: str, frames: Frames) -> HTTPRouteHandler:
    """Return the handler of a live view of a run. A browser that comes back says where it was: Last-Event-ID."""

    @get(
        f"/api/v1/runs/{{run_id:str}}/{path}",
        opt=may("run"),
        summary=f"{summary} (server-sent events)",
        responses={200: _STREAM, **refusals(404, 429, 503)},
    )
    async def follow(
        ctx: Ctx,
        run_id: models.RunIdParam,
        step: StepQuery = "",
        after: After = 0,
        last: Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=40)] = None,
    ) -> EventStreamResponse:
        run = await _found(ctx, run_id)
        begin = max(after, _sequence(last))
        return EventStreamResponse(RunStream(ctx, lambda: frames(ctx, run.run_id, step=step, after=begin)))

    return follow


follow_output = _stream("output/follow", "Its output as it comes", output_frames)
run_events = _stream("events", "Its state, steps and output as they change", whole_frames)


def _sequence(last: str | None) -> int:
    return int(last) if last and last.isascii() and last.isdigit() and len(last) < 17 else 0


RUN_HANDLERS = (
    list_runs,
    show_run,
    run_steps,
    cancel_run,
    pause_run,
    resume_run,
    rerun_run,
    decide_run,
    run_output,
    follow_output,
    run_events,
)
