"""The console's page of logs: search, histogram, facets, and what comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.errors import DogwatchError, NotFound
from dogwatch.logs.reader import Logs
from dogwatch.logs.store.query import Answer
from dogwatch.web.api.logs import LogRecord, asked, record_out
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.contributions import Pages, Place
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
_LEVELS = {"error": "bad", "fatal": "bad", "critical": "bad", "warn": "warn", "warning": "warn"}
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


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A record as the list shows it. links: (what, address)."""

    record: LogRecord
    level: str
    tone: str
    message: str
    rest: list[tuple[str, str]]
    links: list[tuple[str, str]]


def _line(ctx: WebContext, record: LogRecord, asked_for: Asked) -> Line:
    fields = record.fields
    level = str(fields.get("level", ""))
    rest = [(name, _shown(value)) for name, value in fields.items() if name not in ("level", "message")]
    return Line(
        record=record,
        level=level,
        tone=_LEVELS.get(level.lower(), ""),
        message=str(fields.get("message", "")),
        rest=rest,
        links=_links(ctx, fields, asked_for),
    )


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()


def _links(ctx: WebContext, fields: Mapping[str, Any], asked_for: Asked) -> list[tuple[str, str]]:
    """Return where else to look: the trace, the run, the incident, the host."""
    found = []
    trace = fields.get("trace_id") or fields.get("traceId")
    if isinstance(trace, str) and trace.isalnum() and asked_for.trace != trace:
        found.append(("trace", f"/logs?{urlencode({'trace': trace, 'period': 'all'})}"))
    run = fields.get("run_id") or fields.get("run")
    if isinstance(run, str) and run and ctx.may("run"):
        found.append(("run", f"/runs/{quote(run, safe='')}"))
    incident = fields.get("incident")
    if isinstance(incident, int) and incident > 0 and ctx.may("incident"):
        found.append(("incident", f"/incidents/{incident}"))
    host = fields.get("host") or fields.get("hostname")
    if isinstance(host, str) and ctx.may("host") and any(one.name == host for one in ctx.services.hosts.hosts()):
        found.append(("host", f"/hosts/{quote(host, safe='')}"))
    return found


async def _values(ctx: WebContext, asked_for: Asked) -> dict[str, Any]:
    values: dict[str, Any] = {
        "asked": asked_for,
        "again": asked_for.query(),
        "periods": list(PERIODS_S),
        "sources": [],
        "lines": [],
        "bars": [],
        "facets": [],
        "answer": None,
        "matched": 0,
        "mistake": "",
        "absent": False,
    }
    logs = ctx.services.logs
    if logs is None:
        return {**values, "absent": True}
    try:
        values["sources"] = sorted(await logs.sources())
        await _fill(ctx, logs, asked_for, values)
    except NotFound:
        values["absent"] = True
    except DogwatchError as error:
        position = getattr(error, "position", -1)
        at = Phrase("at character {0}", position + 1) if position >= 0 else ""
        values["mistake"], values["mistake_at"] = str(error), at
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
    values["lines"] = [_line(ctx, record_out(one), asked_for) for one in reversed(answer.records)]
    first_s = begin_s or (answer.records[0]["time_us"] / 1e6 if answer.records else now_s - 3600)
    width_us = max(1000, int(((until_s or now_s) - first_s) * 1e6 / _BUCKETS))
    counts = await run(limit=0, bucket_us=width_us)
    values["matched"] = counts.matched
    values["most"] = max(counts.buckets.values(), default=0)
    values["bars"] = _bars(counts.buckets, width_us, asked_for)
    for name in _FACETS:
        found = await run(limit=0, group=(name,))
        rows = [(value[0], count) for value, count in found.groups if value[0] is not None][:_FACET_VALUES]
        if len(rows) > 1 or (rows and name != "source"):
            values["facets"].append((name, [(_shown(value), n, asked_for.narrowed(name, value)) for value, n in rows]))


def _bars(buckets: Mapping[int, int], width_us: int, asked_for: Asked) -> Sequence[Bar]:
    if not buckets:
        return []
    begin, last, most = min(buckets), max(buckets), max(buckets.values())
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


LOGS = Pages(handlers=(logs_page,), places=(Place("Logs", "/logs", "log"),))
