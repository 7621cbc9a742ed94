"""Builds the ASGI application: handlers, error answers, OpenAPI, and the guard around them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
from litestar import Litestar, Request, Response, Router, get
from litestar.di import Provide
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from dogwatch.access.conditions import Overtaken
from dogwatch.access.identity import Identity, anonymous
from dogwatch.app import Services
from dogwatch.errors import DogwatchError, UsageError
from dogwatch.web import problems
from dogwatch.web.access_pages import ACCESS
from dogwatch.web.ack import ACK_HANDLERS
from dogwatch.web.api import HANDLERS
from dogwatch.web.api.access import audit_filter
from dogwatch.web.api.paging import paging
from dogwatch.web.assets import load_assets
from dogwatch.web.badges import BADGE_HANDLERS
from dogwatch.web.compare_pages import COMPARE
from dogwatch.web.context import Ctx, Segment, WebContext, segment
from dogwatch.web.contributions import Pages
from dogwatch.web.encoding import SafeResponse
from dogwatch.web.exposition import EXPOSITION_HANDLERS
from dogwatch.web.fleet_pages import FLEET
from dogwatch.web.fleet_plan_pages import FLEET_PLANS
from dogwatch.web.guard import Guard, Receive, Scope, Send
from dogwatch.web.hook_pages import HOOKS
from dogwatch.web.hooks import HOOK_HANDLERS
from dogwatch.web.incident_pages import INCIDENTS
from dogwatch.web.log_pages import LOGS
from dogwatch.web.login import LOGIN_HANDLERS
from dogwatch.web.maintenance_pages import MAINTENANCE
from dogwatch.web.meter import Meter
from dogwatch.web.options import WebOptions
from dogwatch.web.orders import ordered
from dogwatch.web.pages import OVERVIEW, problem_page
from dogwatch.web.palette import PALETTE
from dogwatch.web.permissions import IDENTITY, PUBLIC, REFUSALS, Gate, declared
from dogwatch.web.pings import PING_HANDLERS
from dogwatch.web.report_pages import REPORTS
from dogwatch.web.run_pages import RUNS
from dogwatch.web.schedule_pages import SCHEDULES
from dogwatch.web.settings_pages import SETTINGS
from dogwatch.web.status_pages import STATUS
from dogwatch.web.view import page_templates
from dogwatch.words import COOKIE, choose, words

log = logging.getLogger(__name__)
# Every feature that has pages, in the order of the navigation.
PAGES: tuple[Pages, ...] = (
    OVERVIEW,
    COMPARE,
    INCIDENTS,
    MAINTENANCE,
    REPORTS,
    FLEET,
    FLEET_PLANS,
    RUNS,
    SCHEDULES,
    HOOKS,
    LOGS,
    ACCESS,
    SETTINGS,
    PALETTE,
    STATUS,
)
# What programs ask for is never answered with a page, even in a browser.
_PROGRAMS = ("/api/", "/ping/", "/hooks/", "/badge", "/group-badge", "/metrics", "/probe", "/static/")


class ReadRequest(Request[Any, Any, Any]):
    """A request whose body may be no text at all: that is the caller's mistake, and Litestar takes it for ours."""

    async def json(self) -> Any:
        try:
            return await super().json()
        except UnicodeDecodeError:
            raise UsageError("the body is not UTF-8", hint="send JSON as UTF-8") from None


class WebApplication:
    """The ASGI application. `context` is for server.py: it ends the live streams when the server stops."""

    def __init__(self, guarded: Guard, context: WebContext, described: Callable[[], dict[str, Any]]) -> None:
        self._guarded = guarded
        self._described = described
        self.context = context

    def description(self) -> dict[str, Any]:
        """Return the OpenAPI description of the API, as JSON has it."""
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self._described()))
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._guarded(scope, receive, send)


def create_web(services: Services, options: WebOptions | None = None, meter: Meter | None = None) -> WebApplication:
    """Return the application over a running program's services. Reads the static files.

    meter: counts its requests; given, it counts on over a change of options.
    """
    options = options or WebOptions()
    assets = load_assets()
    meter = meter or Meter()
    places = [place for pages in PAGES for place in pages.places]
    if services.reports is not None:
        services.reports.base_url = options.external_url
    context = WebContext(services, options, assets, page_templates(assets), meter, places)
    if services.links is not None:
        services.links.base_url = options.external_url.rstrip("/")

    gate = Gate(services.access)

    def seen(request: Request[Any, Any, Any]) -> WebContext:
        identity: Identity = request.scope[IDENTITY]  # type: ignore[literal-required]
        ctx = context.seen_by(identity)
        ctx.asked = request
        request.scope[REFUSALS] = ctx.refusals  # type: ignore[literal-required]
        return ctx

    inner = Litestar(
        route_handlers=[
            *ordered(HANDLERS, services.database, gate),
            *EXPOSITION_HANDLERS,
            *PING_HANDLERS,
            *HOOK_HANDLERS,
            *ACK_HANDLERS,
            *BADGE_HANDLERS,
            *(handler for pages in PAGES for handler in pages.handlers),
            *LOGIN_HANDLERS,
            static_file,
        ],
        dependencies={
            "ctx": Provide(seen, sync_to_thread=False),
            "paging": Provide(paging, sync_to_thread=False),
            "events": Provide(audit_filter, sync_to_thread=False),
        },
        # Not one of Litestar's guards, for each of which it copies the handler, each time.
        before_request=gate.before,
        exception_handlers={Exception: partial(_failed, context)},
        openapi_config=OpenAPIConfig(
            title=f"{options.title} API",
            version="1",
            description="What Dogwatch watches, as it is and as it was. Times are seconds since 1970 UTC.",
            path="/api/v1",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            openapi_router=Router("/api/v1", route_handlers=[], opt=PUBLIC, include_in_schema=False),
        ),
        request_class=ReadRequest,
        response_class=SafeResponse,
        logging_config=None,
        debug=False,
        request_max_body_size=None,  # the guard's, and heartbeats cut theirs
    )
    declared(inner, gate)
    guarded = Guard(inner, options, meter, services.access, styles=assets.sheet_digest)  # type: ignore[arg-type]
    return WebApplication(guarded, context, lambda: inner.openapi_schema.to_schema())  # noqa: PLW0108 made when asked for


@get("/static/{version:str}/{name:path}", opt=PUBLIC, include_in_schema=False)
async def static_file(ctx: Ctx, request: Request[Any, Any, Any], version: Segment, name: Segment) -> Response[bytes]:
    asset = ctx.assets.find(segment(str(name)).lstrip("/"))
    if asset is None:
        raise NotFoundException("no such file")
    # A page of an older program may still ask for its version: it gets ours, but must not keep it as its own.
    current = version == ctx.assets.version
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if current else "no-cache"}
    body = asset.content
    if asset.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body = asset.packed
        headers["Content-Encoding"] = "gzip"
    headers["Vary"] = "Accept-Encoding"
    return Response(body, media_type=asset.media_type, headers=headers)


def _problem_of(error: Exception) -> tuple[problems.Problem, dict[str, str]]:
    """Return what is said of an error, and further headers."""
    if isinstance(error, problems.WebRefusal):
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        return problems.problem(error.status, str(error), hint=error.hint), headers
    if isinstance(error, Overtaken):
        return problems.problem(412, str(error), hint=error.hint), {}
    if isinstance(error, DogwatchError):
        return problems.from_error(error), problems.retry_after(error)
    if isinstance(error, ValidationException):
        extra = error.extra if isinstance(error.extra, list) else []
        told = [f"{one.get('key', '')}: {one.get('message', '')}" for one in extra if isinstance(one, dict)]
        return problems.problem(400, "; ".join(told) or error.detail), {}
    if isinstance(error, MethodNotAllowedException):
        return problems.problem(405, "this address does not take that method"), dict(error.headers or {})
    if isinstance(error, NotFoundException):
        return problems.problem(404, "there is nothing at this address"), {}
    if isinstance(error, HTTPException):
        return problems.problem(error.status_code, error.detail), {}
    return problems.problem(500, "an error of Dogwatch's own; the log says more"), {}


def _failed(ctx: WebContext, request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    problem, headers = _problem_of(error)
    if isinstance(error, problems.WebRefusal):
        ctx.meter.refused(problem.status)
    if problem.status >= 500 and not isinstance(error, DogwatchError):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(_PROGRAMS)
    if page and problem.status == 401:
        where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        setup = ctx.services.access is not None and not ctx.services.access.has_users
        target = "/setup" if setup else f"/login?next={quote(where, safe='')}"
        return Response(b"", status_code=303, headers={"Location": target})
    if page:
        identity: Identity | None = request.scope.get(IDENTITY)  # type: ignore[assignment]
        ctx = ctx.seen_by(identity if identity is not None else anonymous())
        ctx.asked = request
        return problem_page(ctx, problem, headers)
    spoken = words(choose(request.cookies.get(COOKIE, ""), request.headers.get("accept-language", "")))
    problem = problems.in_words(problem, spoken)
    headers = {**headers, "Content-Language": spoken.tag}
    return SafeResponse(problem, status_code=problem.status, media_type=problems.MEDIA_TYPE, headers=headers)
