"""The console's page of logs: search, histogram, facets, and what comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.engine.tracing import trace_of
from dogwatch.errors import DogwatchError, NotFound
from dogwatch.logs.reader import Logs
from dogwatch.logs.store.query import Answer, Query
from dogwatch.web.api.logs import asked, record_out
from dogwatch.web.context import Ctx, Segment, WebContext, segment
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.log_lines import lines, shown
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page
from dogwatch.words import Phrase

PERIODS_S: Mapping[str, float] = {
    "15m": 900.0,
    "1h": 3600.0,
    "6h": 21_600.0,
    "24h": 86_400.0,
    "7d": 604_800.0,
    "all": 0,
}
_BUCKETS = 48
_SHOWN = 100
_FACETS = ("level", "source", "service")
_FACET_VALUES = 8
_RUN_LINES = 100
_BEFORE_S = 60.0
Text = Annotated[str, QueryParameter(max_length=500)]
Where = Annotated[str, QueryParameter(name="where", max_length=4000)]
Word = Annotated[str, QueryParameter(max_length=100)]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The search, as its address has it. until: end in Unix time where one looks at a stretch; "" for now."""

    where: str = ""
    text: str = ""
    period: str = "1h"
    source: str = ""
    trace: str = ""
    begin: str = ""
    until: str = ""

    def query(self, **changes: str) -> str:
        one = msgspec.structs.replace(self, **changes)
        pairs = [(name, getattr(one, name)) for name in self.__struct_fields__]
        return urlencode([(key, value) for key, value in pairs if value and (key, value) != ("period", "1h")])

    def narrowed(self, name: str, value: object) -> str:
        """Return the query of the same search with one more condition."""
        if name == "source":
            return self.query(source=str(value))
        condition = f"{name} == {msgspec.json.encode(value).decode()}"
        if condition in self.where:
            return self.query()
        return self.query(where=f"({self.where}) && {condition}" if self.where.strip() else condition)

    def span_s(self, now_s: float) -> tuple[float, float]:
        if self.begin and self.until:
            return _number(self.begin), _number(self.until)
        period_s = PERIODS_S[self.period]
        return (now_s - period_s if period_s else 0.0), 0.0


def _number(text: str) -> float:
    try:
        return min(1e11, max(0.0, float(text)))
    except ValueError:
        return 0.0


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the histogram; x, width, height in percent."""

    x: float
    width: float
    height: float
    begin_s: float
    count: int
    query: str


async def _values(ctx: WebContext, asked_for: Asked) -> dict[str, Any]:
    values: dict[str, Any] = {
        "asked": asked_for,
        "again": asked_for.query(),
        "periods": list(PERIODS_S),
        "sources": [],
        "troubles": [],
        "lines": [],
        "bars": [],
        "facets": [],
        "answer": None,
        "matched": 0,
        "mistake": "",
        "mistake_parts": (),
        "absent": False,
    }
    logs = ctx.services.logs
    if logs is None:
        return {**values, "absent": True}
    try:
        values["troubles"] = await logs.troubles()
        values["sources"] = sorted(await logs.sources())
        await _fill(ctx, logs, asked_for, values)
    except NotFound:
        values["absent"] = True
    except DogwatchError as error:
        position = getattr(error, "position", -1)
        at = Phrase("at character {0}", position + 1) if position >= 0 else ""
        values["mistake"], values["mistake_at"] = str(error), at
        if 0 <= position <= len(asked_for.where):
            text = asked_for.where
            values["mistake_parts"] = (text[:position], text[position : position + 1] or " ", text[position + 1 :])
        values["mistake_hint"] = error.hint
    return values


async def _fill(ctx: WebContext, logs: Logs, asked_for: Asked, values: dict[str, Any]) -> None:
    now_s = ctx.services.clock.now_s()
    begin_s, until_s = asked_for.span_s(now_s)

    async def run(**more: Any) -> Answer:
        words = (asked_for.where, asked_for.text, begin_s, until_s, asked_for.trace, asked_for.source)
        return await logs.run(asked(*words, **more))

    answer = await run(limit=_SHOWN)
    values["answer"] = answer
    records = [record_out(one) for one in reversed(answer.records)]
    values["lines"] = await lines(ctx, records, trace=asked_for.trace)
    first_s = begin_s or (answer.records[0]["time_us"] / 1e6 if answer.records else now_s - 3600)
    width_us = max(1000, int(((until_s or now_s) - first_s) * 1e6 / _BUCKETS))
    counts = await run(limit=0, bucket_us=width_us)
    values["matched"] = counts.matched
    values["most"] = max(counts.buckets.values(), default=0)
    values["bars"] = _bars(counts.buckets, width_us, asked_for, int(begin_s * 1e6), int((until_s or now_s) * 1e6))
    values["axis"] = (begin_s or first_s, until_s or now_s)
    for name in _FACETS:
        found = await run(limit=0, group=(name,))
        rows = [(value[0], count) for value, count in found.groups if count and value[0] is not None][:_FACET_VALUES]
        if len(rows) > 1 or (rows and name != "source"):
            values["facets"].append((name, [(shown(value), n, asked_for.narrowed(name, value)) for value, n in rows]))


def _bars(buckets: Mapping[int, int], width_us: int, asked_for: Asked, begin_us: int, until_us: int) -> Sequence[Bar]:
    """Return the columns of the time that was asked for; begin_us: 0 for the first record's."""
    if not buckets:
        return []
    begin, last, most = min(buckets), max(buckets), max(buckets.values())
    if begin_us:
        # Silence at either end is something to see, too.
        begin, last = min(begin, begin_us // width_us * width_us), max(last, (until_us - 1) // width_us * width_us)
    columns = max(1, (last - begin) // width_us + 1)
    return [
        Bar(
            x=100 * ((at - begin) // width_us) / columns,
            width=max(0.3, 100 / columns - 0.3),
            height=max(2.0, 100 * count / most),
            begin_s=at / 1e6,
            count=count,
            query=asked_for.query(begin=f"{at / 1e6:.3f}", until=f"{(at + width_us) / 1e6:.3f}"),
        )
        for at, count in buckets.items()
    ]


def _asked(where: str, text: str, period: str, source: str, trace: str, begin: str, until: str) -> Asked:
    period = period if period in PERIODS_S else "1h"
    return Asked(where=where, text=text, period=period, source=source, trace=trace, begin=begin, until=until)


@get("/logs", opt=may("log"), include_in_schema=False)
async def logs_page(
    ctx: Ctx,
    where: Where = "",
    text: Text = "",
    period: Word = "1h",
    source: Word = "",
    trace: Word = "",
    begin: Word = "",
    until: Word = "",
) -> Response[bytes]:
    found = await _values(ctx, _asked(where, text, period, source, trace, begin, until))
    return html_page(ctx, "logs.html", found, here="/logs")


@get("/fragments/run/{run_id:str}/logs", opt=may("log"), include_in_schema=False)
async def run_logs_fragment(ctx: Ctx, run_id: Segment) -> Response[bytes]:
    """Show what was said under a run's trace, the newest hundred; nothing where no logs are kept."""
    run = await ctx.services.runs.show(segment(run_id))
    values = {"run": run, "trace": trace_of(run.run_id), "lines": [], "absent": False, "mistake": ""}
    try:
        if ctx.services.logs is None:
            raise NotFound("this Dogwatch has no logs")
        own, trace = msgspec.json.encode(run.run_id).decode(), values["trace"]
        found = await ctx.services.logs.run(
            Query(
                condition=f'trace_id == "{trace}" || traceId == "{trace}" || run_id == {own}',
                since_us=int((run.created_s - _BEFORE_S) * 1e6),
                limit=_RUN_LINES,
            )
        )
        values["lines"] = await lines(ctx, [record_out(one) for one in found.records], run=run)
    except NotFound:
        values["absent"] = True
    except DogwatchError as error:
        values["mistake"] = str(error)
    return html_page(ctx, "run_logs.html", values)


LOGS = Pages(handlers=(logs_page, run_logs_fragment), places=(Place("Logs", "/logs", "log"),))
