"""`/api/v1/schedules`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get, post
from litestar.params import JSONBody, QueryParameter

from dogwatch.core.component import nearest
from dogwatch.engine.schedules.records import FireRow
from dogwatch.engine.schedules.service import Schedules, ScheduleView
from dogwatch.errors import NotFound, UsageError
from dogwatch.web.api.models import Limit, NameParam, refusals
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.permissions import may

_TEXT = 500


class FireOut(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a fire: started, refused, failed, missed or manual; reason says why it has no run."""

    fire: str
    fire_s: float
    claimed_s: float
    state: str
    run_id: str
    reason: str


class ScheduleOut(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it is now. state: active, paused, disabled, behind, superseded, ended or unknown."""

    name: str
    job: str
    doc: str
    when: str
    time_zone: str
    labels: dict[str, str]
    state: str
    reason: str
    next_s: float | None
    last: FireOut | None
    last_run_state: str
    fired: int
    missed: int
    refused: int


class SchedulePage(msgspec.Struct, frozen=True, kw_only=True):
    """total: matches on all pages. next_cursor: "" on the last."""

    items: list[ScheduleOut]
    total: int
    next_cursor: str = ""


class FirePage(msgspec.Struct, frozen=True, kw_only=True):
    """next_cursor: "" on the last page."""

    items: list[FireOut]
    next_cursor: str = ""


class UpcomingOut(msgspec.Struct, frozen=True, kw_only=True):
    """When a schedule would fire next, were it not paused."""

    name: str
    job: str
    times_s: list[float]


class PauseIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why it is paused."""

    reason: Annotated[str, msgspec.Meta(max_length=_TEXT)] = ""


class ResumeIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """from_now: do not wait for a clock that was set back."""

    from_now: bool = False


class RunIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """key: with the same one, a second request starts nothing new."""

    key: Annotated[str, msgspec.Meta(max_length=200)] = ""
    reason: Annotated[str, msgspec.Meta(max_length=_TEXT)] = ""


class ScheduleRunOut(msgspec.Struct, frozen=True, kw_only=True):
    """created: false where the key was known."""

    run_id: str
    job: str
    state: str
    created: bool


def schedules_of(ctx: WebContext) -> Schedules:
    if ctx.services.schedules is None:
        raise NotFound("there are no schedules in this program")
    return ctx.services.schedules


def seen_schedules(ctx: WebContext) -> list[str]:
    """Return the names of those that the one who asks may see, in configuration order."""
    schedules, sees = schedules_of(ctx), ctx.rights.filter("schedule")
    return [name for name in schedules.names() if sees(schedules.subject(name).labels)]


def find_schedule(ctx: WebContext, name: str, verb: str = "read") -> tuple[Schedules, str]:
    """Return the schedules, and the name that is meant. What may not be seen does not exist.

    verb: what is to be done to it.
    Raises: NotFound naming the nearest, NotAllowed.
    """
    schedules, name = schedules_of(ctx), segment(name)
    if name not in schedules.names() or not ctx.rights.filter("schedule")(schedules.subject(name).labels):
        names = seen_schedules(ctx)
        raise NotFound(f"there is no schedule '{name}'", hint=nearest(name, names) if names else "")
    ctx.require("schedule", verb, schedules.subject(name).labels)
    return schedules, name


def _fire_out(row: FireRow) -> FireOut:
    return FireOut(
        fire=row.fire,
        fire_s=row.fire_s,
        claimed_s=row.claimed_s,
        state=row.state,
        run_id=row.run_id,
        reason=row.reason,
    )


def _out(view: ScheduleView) -> ScheduleOut:
    return ScheduleOut(
        name=view.name,
        job=view.job,
        doc=view.doc,
        when=view.when,
        time_zone=view.time_zone,
        labels=dict(view.labels),
        state=view.state,
        reason=view.reason,
        next_s=view.next_s,
        last=_fire_out(view.last) if view.last is not None else None,
        last_run_state=view.last_run_state,
        fired=view.fired,
        missed=view.missed,
        refused=view.refused,
    )


def _place(cursor: str, names: list[str]) -> int:
    """Return where the page after a name begins."""
    if not cursor:
        return 0
    if cursor not in names:
        raise UsageError(f"'{cursor[:50]}' is no cursor of this list", hint="begin without one")
    return names.index(cursor) + 1


@get(
    "/api/v1/schedules", opt=may("schedule"), summary="Schedules, in configuration order", responses=refusals(404, 503)
)
async def list_schedules(
    ctx: Ctx,
    job: Annotated[str, QueryParameter(max_length=200, description="Of this job")] = "",
    label: Annotated[list[str] | None, QueryParameter(max_items=20, description="`team=shop`; all must match")] = None,
    cursor: Annotated[str, QueryParameter(max_length=500)] = "",
    limit: Limit = 100,
) -> SchedulePage:
    schedules = schedules_of(ctx)
    pairs = [text.partition("=")[::2] for text in label or ()]
    names = [
        name
        for name in seen_schedules(ctx)
        if (not job or schedules.job(name) == job)
        and all(schedules.subject(name).labels.get(key) == value for key, value in pairs)
    ]
    place = _place(cursor, names)
    chosen = names[place : place + limit]
    views = await schedules.list(chosen)
    more = place + limit < len(names)
    return SchedulePage(items=[_out(view) for view in views], total=len(names), next_cursor=chosen[-1] if more else "")


@get("/api/v1/schedules/{name:str}", opt=may("schedule"), summary="One schedule", responses=refusals(404, 503))
async def show_schedule(ctx: Ctx, name: NameParam) -> ScheduleOut:
    schedules, known = find_schedule(ctx, name)
    return _out(await schedules.show(known))


@get(
    "/api/v1/schedules/{name:str}/next", opt=may("schedule"), summary="When it fires next", responses=refusals(404, 503)
)
async def schedule_next(
    ctx: Ctx, name: NameParam, count: Annotated[int, QueryParameter(ge=1, le=100)] = 10
) -> UpcomingOut:
    schedules, known = find_schedule(ctx, name)
    times = schedules.upcoming(known, count)
    return UpcomingOut(name=known, job=schedules.job(known), times_s=list(times))


@get(
    "/api/v1/schedules/{name:str}/fires",
    opt=may("schedule"),
    summary="What became of its fires, newest first",
    responses=refusals(404, 503),
)
async def schedule_fires(
    ctx: Ctx,
    name: NameParam,
    cursor: Annotated[str, QueryParameter(max_length=500)] = "",
    limit: Limit = 50,
) -> FirePage:
    schedules, known = find_schedule(ctx, name)
    page = await schedules.fires(known, limit=limit, cursor=cursor)
    return FirePage(items=[_fire_out(row) for row in page.items], next_cursor=page.cursor)


@post(
    "/api/v1/schedules/{name:str}/pause",
    opt=may("schedule", "change"),
    status_code=200,
    summary="Pause",
    responses=refusals(403, 404, 413, 503),
)
async def pause_schedule(ctx: Ctx, name: NameParam, data: JSONBody[PauseIn | None] = None) -> ScheduleOut:
    reason = data.reason if data is not None else ""
    schedules, known = find_schedule(ctx, name, "change")
    return _out(await schedules.pause(known, ctx.actor, reason=reason))


@post(
    "/api/v1/schedules/{name:str}/resume",
    opt=may("schedule", "change"),
    status_code=200,
    summary="Resume",
    responses=refusals(403, 404, 413, 503),
)
async def resume_schedule(ctx: Ctx, name: NameParam, data: JSONBody[ResumeIn | None] = None) -> ScheduleOut:
    from_now = data is not None and data.from_now
    schedules, known = find_schedule(ctx, name, "change")
    return _out(await schedules.resume(known, ctx.actor, from_now=from_now))


@post(
    "/api/v1/schedules/{name:str}/run",
    opt=may("schedule", "run"),
    status_code=200,
    summary="Start its job now",
    responses=refusals(403, 404, 409, 413, 503),
)
async def run_schedule(ctx: Ctx, name: NameParam, data: JSONBody[RunIn | None] = None) -> ScheduleRunOut:
    wanted = data or RunIn()
    schedules, known = find_schedule(ctx, name, "run")
    started = await schedules.run(known, ctx.actor, key=wanted.key, reason=wanted.reason)
    run = started.run
    return ScheduleRunOut(run_id=run.run_id, job=run.job, state=run.state, created=started.created)


SCHEDULE_HANDLERS = (
    list_schedules,
    show_schedule,
    schedule_next,
    schedule_fires,
    pause_schedule,
    resume_schedule,
    run_schedule,
)
