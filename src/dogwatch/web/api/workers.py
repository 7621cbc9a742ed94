"""`/api/v1/workers`: the processes that execute runs."""

from __future__ import annotations

from typing import Annotated

from litestar import get, post
from litestar.params import PathParameter

from dogwatch.web.api import run_models as models
from dogwatch.web.api.models import refusals
from dogwatch.web.context import Ctx, segment
from dogwatch.web.permissions import may


@get("/api/v1/workers", opt=may("worker"), summary="Workers and what they hold", responses=refusals(503))
async def list_workers(ctx: Ctx) -> list[models.WorkerOut]:
    return [models.worker_out(one) for one in await ctx.services.runs.workers()]


@post(
    "/api/v1/workers/{worker_id:str}/drain",
    opt=may("worker", "change"),
    status_code=200,
    summary="Let a worker take no new run",
    responses=refusals(403, 404, 409, 503),
)
async def drain_worker(ctx: Ctx, worker_id: Annotated[str, PathParameter(max_length=200)]) -> models.WorkerOut:
    return models.worker_out(await ctx.services.runs.drain(segment(worker_id), ctx.actor))


@post(
    "/api/v1/workers/{worker_id:str}/resume",
    opt=may("worker", "change"),
    status_code=200,
    summary="Let a drained worker take runs again",
    responses=refusals(403, 404, 409, 503),
)
async def resume_worker(ctx: Ctx, worker_id: Annotated[str, PathParameter(max_length=200)]) -> models.WorkerOut:
    return models.worker_out(await ctx.services.runs.drain(segment(worker_id), ctx.actor, on=False))


WORKER_HANDLERS = (list_workers, drain_worker, resume_worker)
