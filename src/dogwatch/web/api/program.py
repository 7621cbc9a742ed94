"""`/api/v1`: the program itself: status, version, reloads, findings, live events."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.openapi import ResponseSpec
from litestar.params import QueryParameter

from dogwatch.config.status import ReloadPlan, ReloadRecord
from dogwatch.errors import TransientError, UsageError
from dogwatch.web import listing
from dogwatch.web.api.models import refusals
from dogwatch.web.api.paging import Listed, Page
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.events import TOPICS, EventStream, EventStreamResponse
from dogwatch.web.permissions import KNOWN, may

_WRONG_SHOWN = 50


class WrongOut(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    group: str
    status: str
    since_s: float
    reason: str
    message: str


class StatusOut(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at a glance. wrong: down and degraded targets, the newest first, at most 50."""

    version: str
    time_s: float
    ready: bool
    targets: dict[str, int]
    wrong: list[WrongOut]
    hosts: int
    findings: int
    store_trouble: str
    reload: ReloadRecord | None


class VersionOut(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    api: int = 1


@get("/api/v1/status", opt=KNOWN, summary="Everything at a glance", responses=refusals())
async def show_status(ctx: Ctx) -> StatusOut:
    services = ctx.services
    views = ctx.targets()
    history = services.reload.history()
    return StatusOut(
        version=services.version,
        time_s=services.clock.now_s(),
        ready=all(one.ok for one in services.readiness()),
        targets=listing.counts(views),
        wrong=[
            WrongOut(
                name=view.name,
                group=view.group,
                status=view.status,
                since_s=view.since_s,
                reason=view.last_reason,
                message=view.last_message,
            )
            for view in listing.troubled(views)[:_WRONG_SHOWN]
        ],
        hosts=len(services.hosts.hosts()),
        findings=len(services.findings()),
        store_trouble=services.store.trouble,
        reload=history[0] if history else None,
    )


@get("/api/v1/version", opt=KNOWN, summary="Version of the program and of this API", responses=refusals())
async def show_version(ctx: Ctx) -> VersionOut:
    return VersionOut(version=ctx.services.version)


@get("/api/v1/reloads", opt=may("program"), summary="Newest reloads, newest first", responses=refusals())
async def list_reloads(ctx: Ctx, paging: Page) -> Listed[ReloadRecord]:
    return paging.page(ctx.services.reload.history(), lambda one: str(one.number))


@get("/api/v1/findings", opt=may("program"), summary="What the self-watch found", responses=refusals())
async def list_findings(ctx: Ctx, paging: Page) -> Listed[dict[str, Any]]:
    return paging.page(ctx.services.findings(), lambda one: str(one.get("key", "")))


@post(
    "/api/v1/reload",
    opt=may("program", "change"),
    status_code=200,
    summary="Reload the configuration now",
    responses=refusals(403),
)
async def reload_now(ctx: Ctx) -> ReloadRecord:
    record = await ctx.services.reload.reload("api")
    ctx.forget_snapshot()
    return record


@get(
    "/api/v1/reload/plan",
    opt=may("program", whole=True),
    summary="What a reload would do now; nothing is done",
    responses=refusals(403, 503),
)
async def plan_reload(ctx: Ctx) -> ReloadPlan:
    return await reload_plan(ctx)


async def reload_plan(ctx: WebContext) -> ReloadPlan:
    """Raises: TransientError where the files cannot be read in time."""
    try:
        return await ctx.services.reload.plan()
    except TimeoutError as error:
        raise TransientError(f"what a reload would do is not known in time: {error}") from error


@get(
    "/api/v1/events",
    opt=KNOWN,
    summary="Live events (server-sent events)",
    responses={200: ResponseSpec(str, media_type="text/event-stream", generate_examples=False), **refusals(429)},
)
async def live_events(
    ctx: Ctx,
    topics: Annotated[str, QueryParameter(max_length=200, description=f"Comma between: {', '.join(TOPICS)}")] = "",
    target: Annotated[list[str] | None, QueryParameter(max_items=500, description="Results of these only")] = None,
    since_s: Annotated[
        float | None, QueryParameter(ge=0, le=1e11, description="Begin with each target's newest result since then")
    ] = None,
    brief: Annotated[bool, QueryParameter(description="Of samples only the host and the time")] = False,
) -> EventStreamResponse:
    wanted = frozenset(topics.split(",")) if topics else frozenset(TOPICS)
    unknown = wanted.difference(TOPICS)
    if unknown:
        raise UsageError(f"unknown topic '{min(unknown)}'", hint=f"known: {', '.join(TOPICS)}")
    return EventStreamResponse(EventStream(ctx, wanted, frozenset(target or ()), brief=brief, since_s=since_s))


PROGRAM_HANDLERS = (
    show_status,
    show_version,
    list_reloads,
    list_findings,
    reload_now,
    plan_reload,
    live_events,
)
