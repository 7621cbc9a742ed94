"""`/api/v1/workers`: the processes that execute runs."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import PathParameter

from dogwatch.errors import NotFound
from dogwatch.web.api import run_models as models
from dogwatch.web.api.models import refusals
from dogwatch.web.api.paging import Listed, Page
from dogwatch.web.context import Ctx, segment
from dogwatch.web.encoding import SafeResponse
from dogwatch.web.permissions import may
from dogwatch.web.tags import steady

WorkerId = Annotated[str, PathParameter(max_length=200)]
# What changes while it works.
_MOVING = ("heartbeat_s", "busy")


@get("/api/v1/workers", opt=may("worker"), summary="Workers and what they hold", responses=refusals(503))
async def list_workers(ctx: Ctx, paging: Page) -> Listed[models.WorkerOut]:
    return paging.page(map(models.worker_out, await ctx.services.runs.workers()), lambda one: one.worker_id)


@get("/api/v1/workers/{worker_id:str}", opt=may("worker"), summary="One worker", responses=refusals(404, 503))
async def show_worker(ctx: Ctx, worker_id: WorkerId) -> Response[models.WorkerOut]:
    known = segment(worker_id)
    for one in await ctx.services.runs.workers():
        if one.worker_id == known:
            shown = models.worker_out(one)
            return SafeResponse(shown, headers=steady(shown, *_MOVING))
    raise NotFound(f"there is no worker '{known}'")


def _draining(verb: str, summary: str, *, on: bool) -> HTTPRouteHandler:
    @post(
        f"/api/v1/workers/{{worker_id:str}}/{verb}",
        opt=may("worker", "change"),
        status_code=200,
        summary=summary,
        responses=refusals(403, 404, 409, 503),
    )
    async def drain(ctx: Ctx, worker_id: WorkerId) -> models.WorkerOut:
        return models.worker_out(await ctx.services.runs.drain(segment(worker_id), ctx.actor, on=on))

    return drain


WORKER_HANDLERS = (
    list_workers,
    show_worker,
    _draining("drain", "Let a worker take no new run", on=True),
    _draining("resume", "Let a drained worker take runs again", on=False),
)
