"""The console's pages of reports: made to be read on paper, too."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.errors import UsageError
from dogwatch.web.api.reports import Month, Since, availability_of, inspection_of, period_of
from dogwatch.web.context import Ctx
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page

PERIODS = ("24h", "7d", "30d", "90d", "365d")
_SHOWN = 2000
Text = Annotated[str, QueryParameter(max_length=500)]


@get("/reports/availability", opt=may("probe"), include_in_schema=False)
async def availability_page(ctx: Ctx, since: Since = "30d", month: Month = "", q: Text = "") -> Response[bytes]:
    mistake, now_s = "", ctx.services.clock.now_s()
    try:
        since_s, until_s = period_of(since, month, now_s)
        report = await availability_of(ctx, q, since_s, until_s)
    except UsageError as error:
        mistake = f"{error}; {error.hint}" if error.hint else str(error)
        report = await availability_of(ctx, "", now_s - 30 * 86_400.0, now_s)
    values = {
        "report": report,
        "shown": report.targets[:_SHOWN],
        "since": since,
        "month": month,
        "q": q,
        "mistake": mistake,
        "periods": PERIODS,
        "csv": urlencode({"since": since, "month": month, "q": q}, errors="replace"),
    }
    return html_page(ctx, "availability.html", values, here="/reports/availability")


@get("/reports/daily", opt=may("probe"), include_in_schema=False)
async def daily_page(ctx: Ctx, since: Since = "1d") -> Response[bytes]:
    report = await inspection_of(ctx, since)
    return html_page(ctx, "daily.html", {"report": report, "since": since}, here="/reports/availability")


REPORTS = Pages(handlers=(availability_page, daily_page), places=(Place("Reports", "/reports/availability", "probe"),))
