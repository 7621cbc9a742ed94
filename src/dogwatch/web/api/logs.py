"""`/api/v1/logs`: records of the log store, counts of them, and what comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter

from dogwatch.errors import NotFound, UsageError
from dogwatch.logs.reader import Logs, Trouble
from dogwatch.logs.store.query import Query
from dogwatch.web.api.models import refusals
from dogwatch.web.api.paging import Listed, Page
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.events import EventStreamResponse
from dogwatch.web.permissions import may
from dogwatch.web.run_streams import RunStream, frame

Condition = Annotated[
    str, QueryParameter(name="where", max_length=4000, description='CEL over the fields, level == "error"')
]
Text = Annotated[str, QueryParameter(max_length=500, description="Words that must all occur")]
Since = Annotated[float, QueryParameter(ge=0, le=1e11, description="Unix time, inclusive; 0 for open")]
Until = Annotated[float, QueryParameter(ge=0, le=1e11, description="Unix time, exclusive; 0 for open")]
Trace = Annotated[str, QueryParameter(max_length=64, description="Trace id")]
Sources = Annotated[str, QueryParameter(name="source", max_length=100, description="Only of this source")]
MAX_GROUPED = 4
_STREAM = ResponseSpec(str, media_type="text/event-stream", generate_examples=False)


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """fields: everything else, as it came."""

    id: str
    time_s: float
    source: str
    file: str
    fields: dict[str, Any]


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """The newest records, the oldest of them first. by_row: how many had to be judged one by one. segments, skipped:
    parts of the store, and how many of them were not opened.
    """

    items: list[LogRecord]
    took_s: float
    by_row: int = 0
    segments: int = 0
    skipped: int = 0
    unreadable: int = 0


class LogGroup(msgspec.Struct, frozen=True):
    values: dict[str, Any]
    count: int


class LogBucket(msgspec.Struct, frozen=True):
    begin_s: float
    count: int


class LogCounts(msgspec.Struct, frozen=True, kw_only=True):
    matched: int
    groups: list[LogGroup]
    buckets: list[LogBucket]
    took_s: float


def logs_of(ctx: WebContext) -> Logs:
    if ctx.services.logs is None:
        raise NotFound("this Dogwatch has no logs")
    return ctx.services.logs


def record_out(record: dict[str, Any]) -> LogRecord:
    rest = {name: value for name, value in record.items() if name not in ("id", "source", "file", "time_us")}
    return LogRecord(
        id=record["id"],
        time_s=record["time_us"] / 1e6,
        source=record["source"],
        file=record.get("file", ""),
        fields=rest,
    )


def asked(where: str, text: str, since: float, until: float, trace: str, source: str, **more: Any) -> Query:
    """Return the query of an address. Raises: UsageError."""
    if trace and not all(char.isalnum() or char == "-" for char in trace):
        raise UsageError("a trace id has letters and digits")
    parts = [f"({where})"] if where.strip() else []
    if trace:
        parts.append(f'(trace_id == "{trace}" || traceId == "{trace}")')
    return Query(
        condition=" && ".join(parts) if trace else where,
        text=text,
        since_us=int(since * 1e6),
        until_us=int(until * 1e6),
        sources=(source,) if source else None,
        **more,
    )


@get(
    "/api/v1/logs/troubles",
    opt=may("log"),
    summary="What keeps log sources and sinks from working now",
    responses=refusals(),
)
async def list_troubles(ctx: Ctx, paging: Page) -> Listed[Trouble]:
    found = await ctx.services.logs.troubles() if ctx.services.logs is not None else ()
    return paging.page(found, lambda one: f"{one.kind} {one.name}")


@get("/api/v1/logs", opt=may("log"), summary="Log records, the newest", responses=refusals(404, 503))
async def list_logs(
    ctx: Ctx,
    where: Condition = "",
    text: Text = "",
    since: Since = 0,
    until: Until = 0,
    trace: Trace = "",
    source: Sources = "",
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
) -> LogPage:
    answer = await logs_of(ctx).run(asked(where, text, since, until, trace, source, limit=limit))
    return LogPage(
        items=[record_out(one) for one in answer.records],
        took_s=answer.took_s,
        by_row=answer.by_row,
        segments=answer.segments,
        skipped=answer.skipped,
        unreadable=answer.unreadable,
    )


@get("/api/v1/logs/counts", opt=may("log"), summary="Log records, counted", responses=refusals(404, 503))
async def count_logs(
    ctx: Ctx,
    where: Condition = "",
    text: Text = "",
    since: Since = 0,
    until: Until = 0,
    trace: Trace = "",
    source: Sources = "",
    group: Annotated[str, QueryParameter(max_length=400, description="Fields, with commas between them")] = "",
    width: Annotated[float, QueryParameter(ge=0, le=1e8, description="Seconds of a bucket; 0 for none")] = 0,
) -> LogCounts:
    names = tuple(name.strip() for name in group.split(",") if name.strip())
    if len(names) > MAX_GROUPED:
        raise UsageError(f"records are counted by {MAX_GROUPED} fields at most")
    bucket_us = max(1, int(width * 1e6)) if width else 0
    if not names and not bucket_us:
        bucket_us = 86_400_000_000
    query = asked(where, text, since, until, trace, source, limit=0, group=names, bucket_us=bucket_us)
    answer = await logs_of(ctx).run(query)
    return LogCounts(
        matched=answer.matched,
        groups=[LogGroup(dict(zip(names, values, strict=True)), count) for values, count in answer.groups],
        buckets=[LogBucket(begin / 1e6, count) for begin, count in answer.buckets.items()] if width else [],
        took_s=answer.took_s,
    )


@get(
    "/api/v1/logs/tail",
    opt=may("log"),
    summary="Log records as they come: server-sent events `records`",
    responses={200: _STREAM, **refusals(404, 429, 503)},
)
async def tail_logs(
    ctx: Ctx, where: Condition = "", text: Text = "", trace: Trace = "", source: Sources = ""
) -> EventStreamResponse:
    query = asked(where, text, 0, 0, trace, source)
    logs = logs_of(ctx)
    # Mistakes are answered before the stream begins.
    await logs.run(msgspec.structs.replace(query, since_us=4_102_444_800_000_000, limit=1))

    async def frames() -> AsyncIterator[bytes]:
        async for records in logs.tail(query):
            if records:
                yield frame("records", [record_out(one) for one in records])

    return EventStreamResponse(RunStream(ctx, frames))


LOG_HANDLERS = (list_logs, list_troubles, count_logs, tail_logs)
