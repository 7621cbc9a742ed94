"""The console's pages of jobs, runs and workers, and the fragments that keep them fresh."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.engine.graph_check import needs_of
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Run, RunFilter, RunState
from dogwatch.errors import UsageError
from dogwatch.web import listing, run_view
from dogwatch.web.api import run_models
from dogwatch.web.api.jobs import find_job, last_runs, matching_jobs, next_fires
from dogwatch.web.context import Ctx, Segment, WebContext, segment
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.fleet_pages import fleet_lines
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page

_JOBS_SHOWN = 100
_RUNS_SHOWN = 50
_RUNS_OF_JOB = 20
_STEPS_SHOWN = 300
Text = Annotated[str, QueryParameter(max_length=500)]
Cursor = Annotated[str, QueryParameter(max_length=2000)]
Words = Annotated[list[str] | None, QueryParameter(name="state", max_items=20)]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The filter of the list of runs, as its address has it."""

    job: str = ""
    states: tuple[str, ...] = ()
    label: str = ""
    trigger: str = ""
    cursor: str = ""

    def __bool__(self) -> bool:
        return bool(self.job or self.states or self.label or self.trigger)

    def query(self, **changes: Any) -> str:
        """Return the query of the same list with changes."""
        one = msgspec.structs.replace(self, **changes)
        pairs = [("job", one.job), *(("state", state) for state in one.states), ("label", one.label)]
        pairs += [("trigger", one.trigger), ("cursor", one.cursor)]
        return urlencode([(key, value) for key, value in pairs if value], errors="replace")


async def _jobs_values(ctx: WebContext, q: str, cursor: str) -> dict[str, Any]:
    found = matching_jobs(ctx, q, {})
    chosen, following = listing.page(found, cursor=cursor, limit=_JOBS_SHOWN)
    last = await last_runs(ctx, chosen)
    return {
        "q": q,
        "jobs": list(zip(chosen, last, strict=True)),
        "fires": next_fires(ctx, {job.name for job in chosen}),
        "total": len(ctx.services.runs.jobs()),
        "matching": len(found),
        "cursor": cursor,
        "following": following,
        "again": urlencode({"q": q, "cursor": cursor}, errors="replace"),
    }


@get("/jobs", opt=may("job"), include_in_schema=False)
async def jobs_page(ctx: Ctx, q: Text = "", cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "jobs.html", await _jobs_values(ctx, q, cursor), here="/jobs")


@get("/fragments/jobs", opt=may("job"), include_in_schema=False)
async def jobs_fragment(ctx: Ctx, q: Text = "", cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "jobs_now.html", await _jobs_values(ctx, q, cursor))


async def _job_values(ctx: WebContext, job: JobSpec) -> dict[str, Any]:
    page = await ctx.services.runs.find(RunFilter(job=job.name, limit=_RUNS_OF_JOB))
    return {
        "job": job,
        "parameters": [run_models.parameter_out(name, one) for name, one in job.parameters.items()],
        "needs": needs_of(job),
        "runs": page.items,
        "more": bool(page.cursor),
    }


@get("/jobs/{name:str}", opt=may("job"), include_in_schema=False)
async def job_page(ctx: Ctx, name: Segment) -> Response[bytes]:
    return html_page(ctx, "job.html", await _job_values(ctx, find_job(ctx, segment(name))), here="/jobs/-")


@get("/fragments/job/{name:str}", opt=may("job"), include_in_schema=False)
async def job_fragment(ctx: Ctx, name: Segment) -> Response[bytes]:
    return html_page(ctx, "job_now.html", await _job_values(ctx, find_job(ctx, segment(name))))


async def _runs_values(ctx: WebContext, asked: Asked) -> dict[str, Any]:
    mistake, runs, following, total = "", [], "", None
    try:
        page = await ctx.services.runs.find(
            RunFilter(
                job=asked.job,
                states=run_models.parse_states(asked.states),
                labels=run_models.parse_labels(asked.label.split()),
                trigger=asked.trigger,
                limit=_RUNS_SHOWN,
                cursor=asked.cursor,
                count=not (asked.cursor or asked.label),
            )
        )
        runs, following, total = list(page.items), page.cursor, page.total
    except UsageError as error:
        mistake = f"{error}; {error.hint}" if error.hint else str(error)
    return {
        "asked": asked,
        "runs": runs,
        "total": total,
        "older": asked.query(cursor=following) if following else "",
        "newest": asked.query(cursor="") if asked.cursor else None,
        "again": asked.query(),
        "mistake": mistake,
        "job_names": sorted(job.name for job in ctx.services.runs.jobs())[:500],
        "states": ("open", *RunState),
    }


@get("/runs", opt=may("run"), include_in_schema=False)
async def runs_page(
    ctx: Ctx, states: Words = None, job: Text = "", label: Text = "", trigger: Text = "", cursor: Cursor = ""
) -> Response[bytes]:
    asked = Asked(job=job, states=tuple(filter(None, states or ())), label=label, trigger=trigger, cursor=cursor)
    return html_page(ctx, "runs.html", await _runs_values(ctx, asked), here="/runs")


@get("/fragments/runs", opt=may("run"), include_in_schema=False)
async def runs_fragment(
    ctx: Ctx, states: Words = None, job: Text = "", label: Text = "", trigger: Text = "", cursor: Cursor = ""
) -> Response[bytes]:
    asked = Asked(job=job, states=tuple(filter(None, states or ())), label=label, trigger=trigger, cursor=cursor)
    return html_page(ctx, "runs_now.html", await _runs_values(ctx, asked))


async def _run_values(ctx: WebContext, run: Run) -> dict[str, Any]:
    steps = await ctx.services.runs.steps(run.run_id)
    children = await ctx.services.runs.find(RunFilter(parent=run.run_id, limit=_RUNS_OF_JOB))
    return {
        "run": run,
        "graph": run_view.graph(steps),
        "bars": run_view.timeline(run, steps[:_STEPS_SHOWN], ctx.services.clock.now_s()),
        "steps_more": max(0, len(steps) - _STEPS_SHOWN),
        "orders": [order for order in run_view.orders(run, steps) if ctx.may("run", order.needs)],
        "children": children.items,
        "steps": steps,
        "fleet": await fleet_lines(ctx, run.run_id) if any(step.kind == "ssh" for step in steps) else [],
        "node_width": run_view.NODE_WIDTH,
        "node_height": run_view.NODE_HEIGHT,
    }


@get("/runs/{run_id:str}", opt=may("run"), include_in_schema=False)
async def run_page(ctx: Ctx, run_id: Segment) -> Response[bytes]:
    run = await ctx.services.runs.show(segment(run_id))
    return html_page(ctx, "run.html", await _run_values(ctx, run), here="/runs/-")


@get("/fragments/run/{run_id:str}", opt=may("run"), include_in_schema=False)
async def run_fragment(ctx: Ctx, run_id: Segment) -> Response[bytes]:
    run = await ctx.services.runs.show(segment(run_id))
    return html_page(ctx, "run_now.html", await _run_values(ctx, run))


@get("/workers", opt=may("worker"), include_in_schema=False)
async def workers_page(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "workers.html", {"workers": await ctx.services.runs.workers()}, here="/workers")


@get("/fragments/workers", opt=may("worker"), include_in_schema=False)
async def workers_fragment(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "workers_now.html", {"workers": await ctx.services.runs.workers()})


RUNS = Pages(
    handlers=(
        jobs_page,
        jobs_fragment,
        job_page,
        job_fragment,
        runs_page,
        runs_fragment,
        run_page,
        run_fragment,
        workers_page,
        workers_fragment,
    ),
    places=(Place("Jobs", "/jobs", "job"), Place("Runs", "/runs", "run"), Place("Workers", "/workers", "worker")),
)
