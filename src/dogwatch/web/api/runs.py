"""`/api/v1/runs`: what ran, runs and will run; its steps and output; what people may ask of it."""

from __future__ import annotations

import hashlib
from typing import Annotated

from litestar import Response, get, post
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, QueryParameter

from dogwatch.engine.values import Run, RunFilter
from dogwatch.errors import Conflict
from dogwatch.web.api import run_models as models
from dogwatch.web.api.jobs import IdempotencyKey
from dogwatch.web.api.models import Limit, refusals
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.encoding import SafeResponse, encode_json
from dogwatch.web.events import EventStreamResponse
from dogwatch.web.permissions import may
from dogwatch.web.run_streams import RunStream, output_frames, whole_frames

StepQuery = Annotated[str, QueryParameter(max_length=200, description="Output of this step only")]
After = Annotated[int, QueryParameter(ge=0, le=2**53, description="Output after this sequence")]
IfMatch = Annotated[
    str | None, HeaderParameter(name="If-Match", max_length=500, description="ETag that the run must still have")
]
IfNoneMatch = Annotated[str | None, HeaderParameter(name="If-None-Match", max_length=500)]
_STREAM = ResponseSpec(str, media_type="text/event-stream", generate_examples=False)


def _tag(shown: models.RunOut) -> str:
    return f'"{hashlib.blake2b(encode_json(shown), digest_size=12).hexdigest()}"'


def _document(run: Run, status: int = 200) -> Response[models.RunOut]:
    shown = models.run_out(run)
    return SafeResponse(shown, status_code=status, headers={"ETag": _tag(shown)})


async def _found(ctx: WebContext, run_id: str, verb: str = "read", expected: str | None = None) -> Run:
    """Return the run that an id or its beginning names.

    verb: what is to be done to it.
    Raises: NotAllowed; Conflict where it is not any more as `expected`, an ETag, has it.
    """
    run = await ctx.services.runs.show(segment(run_id))
    ctx.require("run", verb, run.labels)
    if expected not in (None, "*") and _tag(models.run_out(run)) not in str(expected):
        raise Conflict(f"the run {run.run_id} changed meanwhile", hint="look at it again")
    return run


@get("/api/v1/runs", opt=may("run"), summary="Runs, newest first", responses=refusals(503))
async def list_runs(
    ctx: Ctx,
    job: Annotated[str, QueryParameter(max_length=500)] = "",
    states: Annotated[
        list[str] | None,
        QueryParameter(name="state", max_items=20, description="One of these; `open`: all that have not ended"),
    ] = None,
    trigger: Annotated[str, QueryParameter(max_length=100, description="manual, schedule, webhook, rule, run")] = "",
    parent: Annotated[str, QueryParameter(max_length=200, description="Started by this run")] = "",
    label: models.LabelQuery = None,
    since_s: Annotated[float | None, QueryParameter(ge=0, le=1e11)] = None,
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
        )
    )
    return models.RunPage(items=[models.run_out(run) for run in page.items], next_cursor=page.cursor)


@get(
    "/api/v1/runs/{run_id:str}",
    opt=may("run"),
    summary="One run",
    responses={304: ResponseSpec(None, description="As If-None-Match has it"), **refusals(404, 503)},
)
async def show_run(ctx: Ctx, run_id: models.RunIdParam, known: IfNoneMatch = None) -> Response[models.RunOut]:
    answer = _document(await _found(ctx, run_id))
    if known and answer.headers["ETag"] in known:
        return Response(None, status_code=304, headers={"ETag": answer.headers["ETag"]})  # type: ignore[arg-type]
    return answer


@get("/api/v1/runs/{run_id:str}/steps", opt=may("run"), summary="Its steps, in order", responses=refusals(404, 503))
async def run_steps(ctx: Ctx, run_id: models.RunIdParam) -> list[models.StepOut]:
    run = await _found(ctx, run_id)
    return [models.step_out(step) for step in await ctx.services.runs.steps(run.run_id)]


@post(
    "/api/v1/runs/{run_id:str}/cancel",
    opt=may("run", "cancel"),
    status_code=200,
    summary="End it and its children; cleanup steps run",
    responses=refusals(403, 404, 409, 413, 503),
)
async def cancel_run(
    ctx: Ctx,
    run_id: models.RunIdParam,
    data: JSONBody[models.ReasonIn],
    expected: IfMatch = None,
) -> Response[models.RunOut]:
    run = await _found(ctx, run_id, "cancel", expected)
    return _document(await ctx.services.runs.cancel(run.run_id, ctx.actor, reason=data.reason))


@post(
    "/api/v1/runs/{run_id:str}/pause",
    opt=may("run", "change"),
    status_code=200,
    summary="Begin no further step",
    responses=refusals(403, 404, 409, 413, 503),
)
async def pause_run(
    ctx: Ctx,
    run_id: models.RunIdParam,
    data: JSONBody[models.ReasonIn],
    expected: IfMatch = None,
) -> Response[models.RunOut]:
    run = await _found(ctx, run_id, "change", expected)
    return _document(await ctx.services.runs.pause(run.run_id, ctx.actor, reason=data.reason))


@post(
    "/api/v1/runs/{run_id:str}/resume",
    opt=may("run", "change"),
    status_code=200,
    summary="Let a paused run go on",
    responses=refusals(403, 404, 409, 503),
)
async def resume_run(ctx: Ctx, run_id: models.RunIdParam, expected: IfMatch = None) -> Response[models.RunOut]:
    run = await _found(ctx, run_id, "change", expected)
    return _document(await ctx.services.runs.resume(run.run_id, ctx.actor))


@post(
    "/api/v1/runs/{run_id:str}/rerun",
    opt=may("run", "run"),
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
    started = await ctx.services.runs.rerun(run.run_id, ctx.actor, failed_only=data.failed_only, key=key or "")
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
    expected: IfMatch = None,
) -> Response[models.RunOut]:
    run = await _found(ctx, run_id, "approve", expected)
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


@get(
    "/api/v1/runs/{run_id:str}/output/follow",
    opt=may("run"),
    summary="Its output as it comes (server-sent events)",
    responses={200: _STREAM, **refusals(404, 429, 503)},
)
async def follow_output(
    ctx: Ctx,
    run_id: models.RunIdParam,
    step: StepQuery = "",
    after: After = 0,
    last: Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=40)] = None,
) -> EventStreamResponse:
    run = await _found(ctx, run_id)
    begin = max(after, _sequence(last))
    return EventStreamResponse(RunStream(ctx, lambda: output_frames(ctx, run.run_id, step=step, after=begin)))


@get(
    "/api/v1/runs/{run_id:str}/events",
    opt=may("run"),
    summary="Its state, steps and output as they change (server-sent events)",
    responses={200: _STREAM, **refusals(404, 429, 503)},
)
async def run_events(
    ctx: Ctx,
    run_id: models.RunIdParam,
    step: StepQuery = "",
    after: After = 0,
    last: Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=40)] = None,
) -> EventStreamResponse:
    run = await _found(ctx, run_id)
    begin = max(after, _sequence(last))
    return EventStreamResponse(RunStream(ctx, lambda: whole_frames(ctx, run.run_id, step=step, after=begin)))


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
