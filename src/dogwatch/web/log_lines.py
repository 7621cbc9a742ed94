"""Records of logs as pages show them, and where else each of them leads: its trace, run, incident and host."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from dogwatch.engine.tracing import trace_of
from dogwatch.engine.values import Run, RunFilter
from dogwatch.web.api.logs import LogRecord
from dogwatch.web.context import WebContext

_LEVELS = {"error": "bad", "fatal": "bad", "critical": "bad", "warn": "warn", "warning": "warn"}
# A run's trace is made of its id, and is kept nowhere: of so many the newest it is made again.
_RUNS = 500
# As static/plain.js: colours and cursor movements of programs; a page is no terminal.
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A record as a list shows it. links: (what, address)."""

    record: LogRecord
    level: str
    tone: str
    message: str
    rest: list[tuple[str, str]]
    links: list[tuple[str, str]]


async def lines(
    ctx: WebContext, records: Sequence[LogRecord], *, trace: str = "", run: Run | None = None
) -> list[Line]:
    """Return records for a page. trace, run: what the page shows already."""
    around = _Around(ctx, trace, run, await _runs(ctx, records, run))
    return [_line(one, around) for one in records]


async def _runs(ctx: WebContext, records: Sequence[LogRecord], known: Run | None) -> dict[str, Run]:
    """Return the runs whose traces occur."""
    wanted = {one for one in (trace_in(record.fields) for record in records) if one}
    found = {trace_of(known.run_id): known} if known is not None else {}
    if wanted - set(found) and ctx.may("run"):
        page = await ctx.services.runs.find(RunFilter(limit=_RUNS))
        for one in page.items:
            if (trace := trace_of(one.run_id)) in wanted:
                found[trace] = one
    return found


def trace_in(fields: Mapping[str, Any]) -> str:
    """Return the id of a record's trace; "" for none."""
    trace = fields.get("trace_id") or fields.get("traceId")
    return trace if isinstance(trace, str) and trace.isalnum() else ""


class _Around(msgspec.Struct, frozen=True):
    ctx: WebContext
    trace: str
    run: Run | None
    runs: Mapping[str, Run]


def _line(record: LogRecord, around: _Around) -> Line:
    fields = record.fields
    level = str(fields.get("level", ""))
    rest = [(name, shown(value)) for name, value in fields.items() if name not in ("level", "message")]
    return Line(
        record=record,
        level=level,
        tone=_LEVELS.get(level.lower(), ""),
        message=_ESCAPES.sub("", str(fields.get("message", ""))),
        rest=rest,
        links=_links(record, around),
    )


def shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()


def _links(record: LogRecord, around: _Around) -> list[tuple[str, str]]:
    fields, ctx, found = record.fields, around.ctx, []
    trace = trace_in(fields)
    if trace and around.trace != trace and around.run is None:
        found.append(("trace", f"/logs?{urlencode({'trace': trace, 'period': 'all'})}"))
    run = around.runs.get(trace)
    named = run.run_id if run is not None else fields.get("run_id") or fields.get("run")
    if isinstance(named, str) and named and ctx.may("run") and (around.run is None or around.run.run_id != named):
        found.append(("run", f"/runs/{quote(named, safe='')}"))
    incident = fields.get("incident") or (run.trigger.data.get("incident") if run is not None else None)
    if isinstance(incident, int) and incident > 0 and ctx.may("incident"):
        found.append(("incident", f"/incidents/{incident}"))
    if host := _host(record, ctx):
        found.append(("host", f"/hosts/{quote(host, safe='')}"))
    return found


def _host(record: LogRecord, ctx: WebContext) -> str:
    """Return the host that a record is of, as far as there is a page of it; a file is on this machine."""
    if not ctx.may("host"):
        return ""
    hosts = [one.name for one in ctx.services.hosts.hosts()]
    said = record.fields.get("host") or record.fields.get("hostname")
    if said:
        return next((name for name in hosts if name == said), "")
    return hosts[0] if hosts and record.file.startswith("/") else ""
