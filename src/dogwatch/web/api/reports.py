"""`/api/v1/reports`: availability, and the daily inspection, as far as the one who asks may see."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.core.units import parse_duration
from dogwatch.errors import UsageError
from dogwatch.reports.availability import AvailabilityReport, availability_report, csv_of
from dogwatch.reports.inspection import Inspection, Said, Sources, inspect, text_of
from dogwatch.reports.part import changes_in
from dogwatch.store.protocol import Availability
from dogwatch.web import listing
from dogwatch.web.api.models import refusals
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.permissions import may
from dogwatch.words import SOURCE, Language

_LONGEST_S = 400 * 86_400.0
_LONGEST_DAILY_S = 31 * 86_400.0
Since = Annotated[str, QueryParameter(max_length=20, description="How far back, as in 30d")]
# What a file in UTF-8 may begin with.
_MARK = "\ufeff"
Named = Annotated[Language | None, QueryParameter(description="Of what is text in it, for people: en or zh")]
Spoken = Annotated[Language, QueryParameter(description="Of what is text in it: en or zh")]
Month = Annotated[str, QueryParameter(max_length=7, description="A month instead, as in 2026-10, in UTC")]
Filter = Annotated[str, QueryParameter(max_length=500, description="As the overview's filter: shop group:web")]


class ItemOut(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an inspection. path: its page on the console, or ""."""

    text: str
    path: str
    severity: str


class InspectionOut(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, what changed, and what needs a person, the worst first. text: all of it to read."""

    since_s: float
    until_s: float
    person: list[ItemOut]
    checked: list[ItemOut]
    changed: list[ItemOut]
    text: str


def period_of(since: str, month: str, now_s: float, longest_s: float = _LONGEST_S) -> tuple[float, float]:
    """Return (since_s, until_s). Raises: UsageError."""
    if month:
        try:
            begin = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        except ValueError:
            raise UsageError(f"'{month}' is not a month", hint="write it as 2026-10") from None
        if begin.timestamp() >= now_s:
            raise UsageError(f"{month} is still to come")
        days = calendar.monthrange(begin.year, begin.month)[1]
        return begin.timestamp(), min(now_s, begin.timestamp() + days * 86_400.0)
    try:
        length_s = parse_duration(since)
    except ValueError as error:
        raise UsageError(f"since: {error}") from None
    if not 60.0 <= length_s <= longest_s:
        raise UsageError(f"since is at least 1m and at most {longest_s / 86_400:.0f}d")
    return now_s - length_s, now_s


async def availability_of(ctx: WebContext, q: str, since_s: float, until_s: float) -> AvailabilityReport:
    """Return the report over the targets that are seen and that the filter lets through."""
    wanted = listing.parse_filter(q)
    views = [view for view in ctx.targets() if wanted.matches(view)]
    names = [view.name for view in views]
    rows = await ctx.available(names, since_s=since_s, until_s=until_s) if names else ()
    return availability_report(rows, {view.name: view.group for view in views}, since_s=since_s, until_s=until_s)


def sources_of(ctx: WebContext) -> Sources:
    """Return what an inspection may look at for the one who asks."""
    services, rights = ctx.services, ctx.rights

    async def available(names: list[str], since_s: float, until_s: float) -> list[Availability]:
        return list(await ctx.available(names, since_s=since_s, until_s=until_s))

    incidents = services.incidents if ctx.may("incident") else None
    sees = rights.filter("incident")
    audited = services.database is not None and ctx.may("audit")
    program = ctx.may("program") and not rights.restricted("program")
    return Sources(
        clock=services.clock,
        store=services.store,
        targets=ctx.targets,
        hosts=services.hosts.hosts if ctx.may("host") else tuple,
        available=available,  # type: ignore[arg-type]
        incidents=incidents,
        sees_incident=sees,
        windows=lambda: (
            [one for one in services.maintenance.windows() if sees(one.spec.match)]
            if services.maintenance is not None and incidents is not None
            else ()
        ),
        runs=services.runs if ctx.may("run") else None,
        outbox=services.outbox if ctx.may("notification") and not rights.restricted("notification") else None,
        reloads=services.reload.history if program else tuple,
        findings=services.findings if program else tuple,
        changes=changes_in(services.database, rights.filter("audit")) if audited and services.database else None,
    )


def _item(one: Said) -> ItemOut:
    return ItemOut(text=str(one), path=one.path, severity=one.severity)


async def inspection_of(ctx: WebContext, since: str) -> Inspection:
    since_s, _until_s = period_of(since, "", ctx.services.clock.now_s(), _LONGEST_DAILY_S)
    return await inspect(sources_of(ctx), since_s=since_s)


@get(
    "/api/v1/reports/availability",
    opt=may("probe"),
    summary="Availability of each target, each group and all of it; planned work counts for nobody",
    responses=refusals(400, 503),
)
async def report_availability(ctx: Ctx, since: Since = "30d", month: Month = "", q: Filter = "") -> AvailabilityReport:
    since_s, until_s = period_of(since, month, ctx.services.clock.now_s())
    return await availability_of(ctx, q, since_s, until_s)


@get("/api/v1/reports/availability.csv", opt=may("probe"), include_in_schema=False)
async def report_availability_csv(
    ctx: Ctx, since: Since = "30d", month: Month = "", q: Filter = "", language: Named = None
) -> Response[bytes]:
    since_s, until_s = period_of(since, month, ctx.services.clock.now_s())
    text = csv_of(await availability_of(ctx, q, since_s, until_s), language or SOURCE)
    # Pages name a language, for people: spreadsheets take a file without the mark for one of old Windows.
    body = f"{_MARK if language else ''}{text}".encode("utf-8", "replace")
    headers = {"Content-Disposition": f'attachment; filename="availability-{month or "report"}.csv"'}
    return Response(body, media_type="text/csv; charset=utf-8", headers=headers)


@get(
    "/api/v1/reports/daily",
    opt=may("probe"),
    summary="The inspection: what was checked, what changed, and what needs a person",
    responses=refusals(400, 503),
)
async def report_daily(ctx: Ctx, since: Since = "1d", language: Spoken = "en") -> InspectionOut:
    """language: of `text`."""
    found = await inspection_of(ctx, since)
    return InspectionOut(
        since_s=found.since_s,
        until_s=found.until_s,
        person=[_item(one) for one in found.person],
        checked=[_item(one) for one in found.checked],
        changed=[_item(one) for one in found.changed],
        text=text_of(found, ctx.options.external_url, language),
    )


REPORT_HANDLERS = (report_availability, report_availability_csv, report_daily)
