"""`/api/v1/jobs`: what can be run, what a run would do, and its start."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated

from litestar import Response, get, post
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, QueryParameter

from dogwatch.core.component import nearest
from dogwatch.engine.action import Change
from dogwatch.engine.plan import JobPlan
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Run, RunFilter, StartRun
from dogwatch.errors import NotFound
from dogwatch.web import listing
from dogwatch.web.api import run_models as models
from dogwatch.web.api.models import Limit, NameParam, refusals
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.encoding import SafeResponse
from dogwatch.web.permissions import may
from dogwatch.words import SOURCE, Words, words

# What the step `map` would do: what each item does, for how many.
_MAPPED = re.compile(r"(.*), for (\d+ items|each item of a list), (\d+) at the same time", re.DOTALL)
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(name="Idempotency-Key", max_length=200, description="A second start with it starts nothing new"),
]


def find_job(ctx: WebContext, name: str) -> JobSpec:
    """Raises: NotFound naming the nearest job."""
    jobs = ctx.services.runs.jobs()
    for job in jobs:
        if job.name == name:
            return job
    known = nearest(name, [job.name for job in jobs]) if jobs else "the configuration has no jobs"
    raise NotFound(f"no job is called '{name}'", hint=known)


def matching_jobs(ctx: WebContext, q: str, labels: dict[str, str]) -> list[JobSpec]:
    """Return the jobs whose name, words or labels hold every word of q and that have all the labels, by name."""
    words = q.lower().split()
    return [
        job
        for job in sorted(ctx.services.runs.jobs(), key=lambda one: one.name)
        if all(job.labels.get(key) == value for key, value in labels.items())
        and all(word in f"{job.name}\n{job.doc}\n{' '.join(job.labels.values())}".lower() for word in words)
    ]


async def last_runs(ctx: WebContext, jobs: Sequence[JobSpec]) -> list[Run | None]:
    """Return the newest run of each job."""
    pages = await asyncio.gather(*(ctx.services.runs.find(RunFilter(job=job.name, limit=1)) for job in jobs))
    return [page.items[0] if page.items else None for page in pages]


def next_fires(ctx: WebContext, names: Collection[str]) -> dict[str, float]:
    """Return when each of these jobs is started by a schedule next; those that are by none are left out."""
    schedules = ctx.services.schedules
    found: dict[str, float] = {}
    if schedules is None:
        return found
    sees = ctx.rights.filter("schedule")
    for name in schedules.names():
        job = schedules.job(name)
        if job in names and sees(schedules.subject(name).labels):
            coming = schedules.upcoming(name, 1)
            if coming:
                found[job] = min(coming[0], found.get(job, coming[0]))
    return found


@get("/api/v1/jobs", opt=may("job"), summary="Jobs, by name", responses=refusals(503))
async def list_jobs(
    ctx: Ctx,
    q: Annotated[str, QueryParameter(max_length=500, description="Words that it must hold")] = "",
    label: models.LabelQuery = None,
    cursor: models.Cursor = "",
    limit: Limit = 100,
) -> models.JobPage:
    found = matching_jobs(ctx, q, models.parse_labels(label or ()))
    chosen, following = listing.page(found, cursor=cursor, limit=limit)
    last = await last_runs(ctx, chosen)
    fires = next_fires(ctx, {job.name for job in chosen})
    return models.JobPage(
        items=[models.job_out(job, run, fires.get(job.name)) for job, run in zip(chosen, last, strict=True)],
        total=len(found),
        next_cursor=following,
    )


@get("/api/v1/jobs/{name:str}", opt=may("job"), summary="One job", responses=refusals(404, 503))
async def show_job(ctx: Ctx, name: NameParam) -> models.JobOut:
    job = find_job(ctx, segment(name))
    return models.job_out(job, (await last_runs(ctx, [job]))[0], next_fires(ctx, {job.name}).get(job.name))


def plan_out(plan: JobPlan, spoken: Words | None = None) -> models.PlanOut:
    """Return a plan as it is shown; what it says of its steps in the reader's language."""
    return models.PlanOut(
        job=plan.job,
        parameters=dict(plan.parameters),
        steps=list(_planned(plan, "", 0, spoken or words(SOURCE))),
        concurrency=plan.concurrency,
        locks=list(plan.locks),
        problems=list(plan.problems),
    )


def _summary(kind: str, summary: str, spoken: Words) -> str:
    """Return what a step does. A command is no sentence, and only its verb is ours."""
    if kind == "map" and (match := _MAPPED.fullmatch(summary)):
        inner = _summary("exec", match[1], spoken)
        return spoken.say("{0}, for {1}, {2} at the same time", inner, spoken.tell(match[2]), match[3])
    verb, _, command = summary.partition(" ")
    return spoken.say("run {0}", command) if kind in ("exec", "map") and verb == "run" else spoken.tell(summary)


def _planned(plan: JobPlan, before: str, level: int, spoken: Words) -> Iterator[models.PlannedStepOut]:
    tell = spoken.tell
    for step in plan.steps:
        change = step.change or Change(summary="")
        items = [f"{at}: {_summary(step.kind, one.summary, spoken)}" for at, one in enumerate(step.items)]
        more = [tell(f"and {step.more} more")] if step.more else []
        yield models.PlannedStepOut(
            name=before + step.name,
            kind=step.kind,
            needs=[before + need for need in step.needs],
            level=level + step.level,
            runs=step.runs,
            why=tell(step.why),
            always=step.always,
            summary=_summary(step.kind, change.summary, spoken),
            details=[*map(tell, change.details), *items, *more],
            undo=change.undo,
            destructive=change.destructive,
            unknown=step.unknown,
            problem=tell(step.problem),
        )
        if step.calls is not None:
            yield from _planned(step.calls, f"{before}{step.name} › ", level + step.level, spoken)


@post(
    "/api/v1/jobs/{name:str}/plan",
    opt=may("job"),
    status_code=200,
    summary="What a run would do; does nothing",
    responses=refusals(403, 404, 413),
)
async def plan_job(ctx: Ctx, name: NameParam, data: JSONBody[models.PlanIn]) -> models.PlanOut:
    job = find_job(ctx, segment(name))
    wanted = StartRun(job=job.name, parameters=data.parameters, actor=ctx.actor)
    return plan_out(ctx.services.plan(wanted), ctx.words)


@post(
    "/api/v1/jobs/{name:str}/runs",
    opt=may("job", "run", keyed=True),
    status_code=201,
    summary="Start a run; answers once it is on disk",
    responses={
        200: ResponseSpec(models.RunOut, generate_examples=False, description="The key was known: its run"),
        **refusals(403, 404, 409, 413, 503),
    },
)
async def start_job(
    ctx: Ctx,
    name: NameParam,
    data: JSONBody[models.StartIn],
    key: IdempotencyKey = None,
) -> Response[models.RunOut]:
    job = find_job(ctx, segment(name))
    ctx.require("job", "run", job.labels)
    # The run carries its own, too: nobody puts one under the eyes of others, or out of those of its own team.
    ctx.require("job", "run", {**job.labels, **data.labels})
    started = await ctx.services.runs.start(
        StartRun(
            job=job.name,
            parameters=data.parameters,
            actor=ctx.actor,
            key=key or "",
            due_s=data.due_s,
            priority=data.priority,
            reason=data.reason,
            labels=data.labels,
        )
    )
    return SafeResponse(
        models.run_out(started.run),
        status_code=201 if started.created else 200,
        headers={"Location": f"/api/v1/runs/{started.run.run_id}"},
    )


JOB_HANDLERS = (list_jobs, show_job, plan_job, start_job)
