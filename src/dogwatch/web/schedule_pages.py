"""The console's pages of schedules: the list, one schedule, and what starting its job would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.engine.parameters import shown_parameters
from dogwatch.engine.schedules.service import Schedules, ScheduleView
from dogwatch.engine.values import Json, StartRun, Trigger
from dogwatch.errors import DogwatchError, UsageError
from dogwatch.web import listing
from dogwatch.web.api.jobs import plan_out
from dogwatch.web.api.run_models import PlanOut
from dogwatch.web.api.schedules import find_schedule, seen_schedules
from dogwatch.web.context import Ctx, Segment, WebContext
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page

_SHOWN = 100
_FIRES_SHOWN = 50
_NEXT_SHOWN = 10
Text = Annotated[str, QueryParameter(max_length=500)]
Cursor = Annotated[str, QueryParameter(max_length=2000)]


class _Named(msgspec.Struct, frozen=True):
    """What listing.page asks for."""

    name: str


def _matching(schedules: Schedules, names: Sequence[str], q: str) -> list[_Named]:
    """Return those whose name, job, words or labels hold every word of q."""
    words = q.lower().split()

    def text(name: str) -> str:
        spec = schedules.spec(name)
        return "\n".join((name, spec.job, spec.doc, *(f"{key}={value}" for key, value in spec.labels.items()))).lower()

    return [_Named(name) for name in names if all(word in text(name) for word in words)]


def _orders(ctx: WebContext, schedules: Schedules, view: ScheduleView) -> dict[str, bool]:
    """Return which buttons there are: what the one who asks may do, and what makes a difference."""
    labels = schedules.subject(view.name).labels
    changes = ctx.rights.filter("schedule", "change")(labels)
    return {
        "run": ctx.rights.filter("schedule", "run")(labels),
        "pause": changes and view.state not in ("paused", "disabled", "ended"),
        "resume": changes and view.state == "paused",
        "resume_now": changes and view.state == "behind",
    }


async def _list_values(ctx: WebContext, q: str, cursor: str) -> dict[str, Any]:
    schedules = ctx.services.schedules
    names = seen_schedules(ctx) if schedules is not None else []
    found = _matching(schedules, names, q) if schedules is not None else []
    chosen, following = listing.page(found, cursor=cursor, limit=_SHOWN)
    rows: list[tuple[ScheduleView, dict[str, bool]]] = []
    if schedules is not None:
        views = await schedules.list([one.name for one in chosen])
        rows = [(view, _orders(ctx, schedules, view)) for view in views]
    return {
        "q": q,
        "rows": rows,
        "total": len(names),
        "matching": len(found),
        "cursor": cursor,
        "following": following,
        "again": urlencode({"q": q, "cursor": cursor}, errors="replace"),
    }


@get("/schedules", opt=may("schedule"), include_in_schema=False)
async def schedules_page(ctx: Ctx, q: Text = "", cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "schedules.html", await _list_values(ctx, q, cursor), here="/schedules")


@get("/fragments/schedules", opt=may("schedule"), include_in_schema=False)
async def schedules_fragment(ctx: Ctx, q: Text = "", cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "schedules_now.html", await _list_values(ctx, q, cursor))


def _parameters(ctx: WebContext, schedules: Schedules, name: str) -> Mapping[str, Json]:
    """Return what its runs are given, secrets masked; nothing to whoever may not see the job that says what is one."""
    spec = schedules.spec(name)
    jobs = {job.name: job for job in ctx.services.runs.jobs()} if ctx.may("job") else {}
    return shown_parameters(jobs[spec.job], spec.parameters) if spec.job in jobs else {}


async def _schedule_values(ctx: WebContext, name: str, cursor: str) -> dict[str, Any]:
    schedules, known = find_schedule(ctx, name)
    view = await schedules.show(known)
    mistake, fires, following = "", [], ""
    try:
        page = await schedules.fires(known, limit=_FIRES_SHOWN, cursor=cursor)
        fires, following = list(page.items), page.cursor
    except UsageError as error:
        mistake = str(error)
    return {
        "one": view,
        "parameters": _parameters(ctx, schedules, known),
        "orders": _orders(ctx, schedules, view),
        "coming": list(schedules.upcoming(known, _NEXT_SHOWN)),
        "fires": fires,
        "older": urlencode({"cursor": following}) if following else "",
        "cursor": cursor,
        "again": urlencode({"cursor": cursor}, errors="replace"),
        "mistake": mistake,
    }


@get("/schedules/{name:str}", opt=may("schedule"), include_in_schema=False)
async def schedule_page(ctx: Ctx, name: Segment, cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "schedule.html", await _schedule_values(ctx, name, cursor), here="/schedules/-")


@get("/fragments/schedule/{name:str}", opt=may("schedule"), include_in_schema=False)
async def schedule_fragment(ctx: Ctx, name: Segment, cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "schedule_now.html", await _schedule_values(ctx, name, cursor))


def _plan(ctx: WebContext, schedules: Schedules, name: str) -> tuple[PlanOut | None, str]:
    """Return what a start would do now, or why that cannot be said. Who may not see the job is not told its steps."""
    if not ctx.may("job"):
        return None, ""
    spec = schedules.spec(name)
    trigger = Trigger(kind="schedule", name=name, data={"manual": True})
    wanted = StartRun(job=spec.job, parameters=spec.parameters, actor=ctx.actor, trigger=trigger)
    try:
        return plan_out(ctx.services.plan(wanted), ctx.words), ""
    except DogwatchError as error:
        return None, str(error)


@get("/fragments/schedule-plan/{name:str}", opt=may("schedule"), include_in_schema=False)
async def schedule_plan_fragment(ctx: Ctx, name: Segment) -> Response[bytes]:
    schedules, known = find_schedule(ctx, name)
    plan, why = _plan(ctx, schedules, known)
    return html_page(ctx, "schedule_plan.html", {"plan": plan, "why": why})


SCHEDULES = Pages(
    handlers=(schedules_page, schedules_fragment, schedule_page, schedule_fragment, schedule_plan_fragment),
    places=(Place("Schedules", "/schedules", "schedule"),),
)
