"""The console's pages of the program itself: how it is, its reloads, and the configuration as loaded."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.config.show import Row, masked
from dogwatch.diagnose import fds, tasks
from dogwatch.engine.schedules.section import secret_parameters
from dogwatch.web import view
from dogwatch.web.api.program import reload_plan
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page
from dogwatch.words import Phrase

_KINDS_SHOWN = 20
_CHANGES_SHOWN = 60
_RELOADS_SHOWN = 20
_ROWS_SHOWN = 200
_CHARS_SHOWN = 400
# What the parts of the program count of themselves, by the names that they register.
_GAUGES = {
    "bus_dropped": Phrase("Events dropped"),
    "live_subscribers": Phrase("Live pages and streams"),
    "probes_running": Phrase("Probes under way"),
    "probes_waiting": Phrase("Probes that wait"),
    "runs_busy": Phrase("Runs under way"),
}
# Parts that say how they are.
_PARTS = {
    "configuration": Phrase("Configuration"),
    "store": Phrase("History"),
    "database": Phrase("Database answers"),
    "engine": Phrase("Runs"),
}
Text = Annotated[str, QueryParameter(max_length=500)]
Start = Annotated[int, QueryParameter(ge=0, le=10**7)]
Every = Annotated[bool, QueryParameter()]


def _open_kinds() -> list[tuple[str, int]]:
    try:
        return fds.count_kinds().most_common()
    except OSError:  # no descriptor is left to look with: the findings say so
        return []


def _state_values(ctx: WebContext) -> dict[str, Any]:
    services = ctx.services
    open_kinds = _open_kinds()
    sample = services.sample() if services.sample is not None else None
    running = tasks.count_kinds(asyncio.all_tasks())
    return {
        "ready": [(_PARTS.get(one.name, one.name), one) for one in services.readiness()],
        "database": services.database,
        "reloads": services.reload.history()[:_RELOADS_SHOWN],
        "findings": [view.finding_text(one) for one in services.findings()],
        "open_kinds": open_kinds,
        "open_total": sum(count for _kind, count in open_kinds),
        "open_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "running": running.most_common(_KINDS_SHOWN),
        "running_total": sum(running.values()),
        "running_more": max(0, len(running) - _KINDS_SHOWN),
        "sample": sample,
        "gauges": [(_GAUGES.get(name, name.replace("_", " ")), value) for name, value in sample.gauges.items()]
        if sample is not None
        else [],
    }


@get("/settings", opt=may("program"), include_in_schema=False)
async def settings_page(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "settings.html", _state_values(ctx), here="/settings")


@get("/fragments/settings", opt=may("program"), include_in_schema=False)
async def settings_fragment(ctx: Ctx) -> Response[bytes]:
    return html_page(ctx, "settings_now.html", _state_values(ctx))


@get("/fragments/reload-plan", opt=may("program", whole=True), include_in_schema=False)
async def reload_plan_fragment(ctx: Ctx) -> Response[bytes]:
    plan = await reload_plan(ctx)
    return html_page(ctx, "reload_plan.html", {"plan": plan, "shown": plan.differences[:_CHANGES_SHOWN]})


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as a page shows it. origin: where it was written; default: nowhere."""

    path: str
    value: str
    origin: str
    default: bool


def shown(row: Row) -> Shown:
    """Return a setting in words, a long value cut."""
    value = row.value if isinstance(row.value, str) else msgspec.json.encode(row.value).decode()
    if len(value) > _CHARS_SHOWN:
        value = f"{value[:_CHARS_SHOWN]}…"
    return Shown(path=row.path, value=value, origin=row.origin, default=row.origin == "default")


def matching(rows: Sequence[Row], q: str, *, written: bool) -> list[Row]:
    """Return the settings that hold every word of q in path, value or origin. written: those that are no default."""
    words = q.lower().split()

    def matches(row: Row) -> bool:
        text = f"{row.path}\n{row.value}\n{row.origin}".lower()
        return all(word in text for word in words)

    return [row for row in rows if (not written or row.origin != "default") and matches(row)]


def secret_paths(ctx: WebContext) -> frozenset[str]:
    """Return where schedules give jobs what only the job says is secret. Of a job that is not seen: all of it."""
    schedules = ctx.services.schedules
    if schedules is None:
        return frozenset()
    jobs = {job.name: job for job in ctx.services.runs.jobs()} if ctx.may("job") else {}
    specs = [schedules.spec(name) for name in schedules.names()]
    return secret_parameters(specs, jobs)


def _sections(rows: Sequence[Row]) -> Mapping[str, int]:
    return Counter(row.path.partition(".")[0].partition("[")[0] for row in rows if row.origin != "default")


@get("/settings/configuration", opt=may("program"), include_in_schema=False)
async def configuration_page(ctx: Ctx, q: Text = "", every: Every = False, start: Start = 0) -> Response[bytes]:
    """Show the configuration in force. Thousands of probes are ten thousands of settings: beside the loop."""
    settings, secret = ctx.services.settings, secret_paths(ctx)

    def work() -> tuple[list[Row], list[Row]]:
        rows = masked(settings(), secret) if settings is not None else []
        return rows, matching(rows, q, written=not every)

    rows, found = await asyncio.to_thread(work)

    def query(at: int) -> str:
        return urlencode([("q", q), *([("every", "true")] if every else []), ("start", str(at))], errors="replace")

    values = {
        "q": q,
        "every": every,
        "rows": [shown(row) for row in found[start : start + _ROWS_SHOWN]],
        "total": len(rows),
        "matching": len(found),
        "sections": _sections(rows),
        "earlier": query(max(0, start - _ROWS_SHOWN)) if start else "",
        "later": query(start + _ROWS_SHOWN) if start + _ROWS_SHOWN < len(found) else "",
    }
    return html_page(ctx, "configuration.html", values, here="/settings/-")


SETTINGS = Pages(
    handlers=(settings_page, settings_fragment, reload_plan_fragment, configuration_page),
    places=(Place("Settings", "/settings", "program"),),
)
