"""The shapes that the API answers with. Times are seconds since 1970 UTC, durations seconds, ratios 0 to 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import PathParameter, QueryParameter

from dogwatch.core.values import Status, Transition
from dogwatch.errors import UsageError
from dogwatch.probes.probe import Phases, ProbeResult
from dogwatch.probes.view import TargetView
from dogwatch.store.protocol import Availability, Failure, Point, ResultRow
from dogwatch.web.context import PERIODS_S, WebContext
from dogwatch.web.problems import MEDIA_TYPE, Problem

# Without int: in JSON Schema an integer is a number, and `oneOf` both would be neither.
Plain = float | str | bool | None
Range = Literal["1h", "24h", "7d", "30d"]
_TEXT_KEPT = 500
# What makes a function a handler.
Handled = Callable[[Callable[..., Any]], HTTPRouteHandler]


def refusals(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the problem documents that a handler may answer with, for the OpenAPI description."""
    return {
        status: ResponseSpec(Problem, media_type=MEDIA_TYPE, generate_examples=False, description="Problem")
        for status in (400, 421, *statuses)
    }


NameParam = Annotated[str, PathParameter(max_length=500, description="Name; a slash in it is written %2F")]
Limit = Annotated[int, QueryParameter(ge=1, le=500, description="Rows at most")]


class TargetOut(msgspec.Struct, frozen=True, kw_only=True):
    """A target as it is now."""

    name: str
    kind: str
    address: str
    group: str
    labels: dict[str, str]
    status: str
    since_s: float
    every_s: float
    timeout_s: float
    last_time_s: float | None
    last_success: bool | None
    last_duration_s: float | None
    last_phases: Phases | None
    last_reason: str
    last_message: str
    consecutive_failures: int
    lateness_s: float
    next_s: float | None
    depends_on: list[str]
    values: dict[str, Plain]


def target_out(view: TargetView) -> TargetOut:
    return TargetOut(
        name=view.name,
        kind=view.kind,
        address=view.address,
        group=view.group,
        labels=dict(view.labels),
        status=view.status,
        since_s=view.since_s,
        every_s=view.every_s,
        timeout_s=view.timeout_s,
        last_time_s=view.last_time_s,
        last_success=view.last_success,
        last_duration_s=view.last_duration_s,
        last_phases=view.last_phases,
        last_reason=view.last_reason,
        last_message=view.last_message,
        consecutive_failures=view.consecutive_failures,
        lateness_s=view.lateness_s,
        next_s=view.next_s,
        depends_on=list(view.depends_on),
        values=plain(view.values),
    )


def plain(values: Mapping[str, Any]) -> dict[str, Plain]:
    """Return the values that are single ones; text is cut, a body or parsed JSON is left out."""
    return {
        name: value[:_TEXT_KEPT] if isinstance(value, str) else value
        for name, value in values.items()
        if isinstance(value, int | float | str | bool | None) and name != "body"
    }


class TargetPage(msgspec.Struct, frozen=True, kw_only=True):
    """total: matches on all pages. next_cursor: "" on the last."""

    items: list[TargetOut]
    total: int
    counts: dict[str, int]
    next_cursor: str = ""


class ProbeOut(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt that was asked for ended."""

    success: bool
    duration_s: float
    reason: str
    message: str
    phases: Phases | None
    values: dict[str, Plain]


def probe_out(result: ProbeResult) -> ProbeOut:
    return ProbeOut(
        success=result.success,
        duration_s=result.duration_s,
        reason=result.reason,
        message=result.message,
        phases=result.phases,
        values=plain(result.values),
    )


class ResultOut(msgspec.Struct, frozen=True, kw_only=True):
    time_s: float
    success: bool
    status: str
    duration_s: float
    phases: Phases
    reason: str


def result_out(row: ResultRow) -> ResultOut:
    return ResultOut(
        time_s=row.time_s,
        success=row.success,
        status=Status(row.status).word,
        duration_s=row.duration_s,
        phases=Phases(row.resolve_s, row.connect_s, row.tls_s, row.first_byte_s, row.transfer_s),
        reason=row.reason,
    )


class ResultPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. next_cursor: "" on the last page."""

    items: list[ResultOut]
    next_cursor: str = ""


class PointOut(msgspec.Struct, frozen=True, kw_only=True):
    """One bucket. Durations over its successful results, null where it has none; percentiles within 6 %."""

    time_s: float
    count: int
    failures: int
    mean_s: float | None
    min_s: float | None
    max_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    phases: Phases | None
    status: str


def point_out(point: Point) -> PointOut:
    half, most, nearly_all = point.quantiles_s or (None, None, None)
    return PointOut(
        time_s=point.time_s,
        count=point.count,
        failures=point.failures,
        mean_s=point.mean_s,
        min_s=point.min_s,
        max_s=point.max_s,
        p50_s=half,
        p95_s=most,
        p99_s=nearly_all,
        phases=Phases(*point.phases_s) if point.phases_s is not None else None,
        status=Status(point.status).word,
    )


class HistoryOut(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    since_s: float
    until_s: float
    points: list[PointOut]


class HeaderOut(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    value: str


class FailureOut(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt failed, and what the target said."""

    time_s: float
    reason: str
    message: str
    headers: list[HeaderOut]
    body: str
    truncated: bool


def failure_out(failure: Failure) -> FailureOut:
    return FailureOut(
        time_s=failure.time_s,
        reason=failure.reason,
        message=failure.message,
        headers=[HeaderOut(name=name, value=value) for name, value in failure.headers],
        body=failure.body,
        truncated=failure.truncated,
    )


class TransitionOut(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    time_s: float
    before: str
    after: str
    reason: str


class TransitionList(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. total: matches on all pages, 10000 for 10,000 or more; null behind the first page, and for words.
    next_cursor: "" on the last.
    """

    items: list[TransitionOut]
    total: int | None = None
    next_cursor: str = ""


def transition_out(transition: Transition) -> TransitionOut:
    return TransitionOut(
        target=transition.target,
        time_s=transition.time_s,
        before=transition.before.word,
        after=transition.after.word,
        reason=transition.reason,
    )


class AvailabilityOut(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    periods: dict[str, Availability]


class SeriesOut(msgspec.Struct, frozen=True, kw_only=True):
    """One series; times_s and values have the same length."""

    series: str
    times_s: list[float]
    values: list[float | None]


class HostSeriesOut(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    since_s: float
    until_s: float
    series: list[SeriesOut]


def span(ctx: WebContext, name: Range | None, since_s: float | None, until_s: float | None) -> tuple[float, float]:
    """Return the time asked for: a named range until now, or from since_s to until_s (now).

    Raises: UsageError where it is empty.
    """
    now_s = ctx.services.clock.now_s()
    until = now_s if until_s is None else until_s
    since = until - PERIODS_S[name or "24h"] if since_s is None else since_s
    if not since < until:
        raise UsageError("since_s is not before until_s")
    return since, until
