"""`/api/v1/backtests`: what rules would have done with what was recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

import msgspec
from litestar import delete, get, post
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream

from dogwatch.errors import NotFound, UsageError
from dogwatch.rules.backtest import Found, Outage, Rehearsal
from dogwatch.rules.backtest_desk import Backtest, Backtests, Wanted
from dogwatch.rules.part import LONGEST_BACKTEST_S
from dogwatch.rules.spec import RuleSpec, check_rules
from dogwatch.web.api.incidents import IncidentOut, incident_out, incidents_of
from dogwatch.web.api.models import refusals
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.permissions import may

# Of a backtest so many of each are answered, the newest.
_SHOWN = 1000
_SHOWN_LINES = 50
_Id = Annotated[str, PathParameter(max_length=100)]
_Since = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_BACKTEST_S)]


class BacktestIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """since_s: how far back. rules: in place of those in force; durations in seconds."""

    since_s: _Since
    rules: list[RuleSpec] | None = None


class BacktestStart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """since_s: how far back. incident: its number; the time around it instead. rules: in place of those in force.
    against: rules to compare with. outages: that must be found.
    """

    since_s: _Since = 30 * 86_400.0
    incident: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    rules: list[RuleSpec] | None = None
    against: list[RuleSpec] | None = None
    outages: Annotated[list[Outage], msgspec.Meta(max_length=1000)] = []


class ToldOut(msgspec.Struct, frozen=True, kw_only=True):
    """A notice that would have gone out. lines: one, or several that go together."""

    time_s: float
    to: list[str]
    lines: list[str]


class LostOut(msgspec.Struct, frozen=True, kw_only=True):
    """Results of which only means over so long were left: shorter peaks and single failures in them are not seen."""

    width_s: int
    results: int


class WouldOut(msgspec.Struct, frozen=True, kw_only=True):
    """An action that would have been started, within its budget."""

    time_s: float
    number: int
    target: str
    says: str
    mode: str
    undo: bool
    left: str


class BacktestOut(msgspec.Struct, frozen=True, kw_only=True):
    """What would have happened. suppressed: alerts told of only as a part of another's incident. total_incidents,
    total_notices: of which the newest are listed. opened: how many incidents were opened in all. actions: what would
    have been done, each taken to end well at once. held, planned: how often something was held back, or only planned.
    """

    since_s: float
    until_s: float
    signals: int
    incidents: list[IncidentOut]
    notices: list[ToldOut]
    total_incidents: int
    total_notices: int
    fired: dict[str, int]
    suppressed: int
    actions: list[WouldOut]
    total_actions: int
    held: int
    planned: int
    lost: list[LostOut]
    busy_s: float


class FoundOut(msgspec.Struct, frozen=True, kw_only=True):
    """An outage that somebody wrote down. number: of the incident that found it, 0 where it was missed. after_s: how
    long that took. told_after_s: until somebody was told.
    """

    name: str
    since_s: float
    number: int
    after_s: float | None
    told_after_s: float | None


class DifferenceOut(msgspec.Struct, frozen=True, kw_only=True):
    """Between two sets of rules. missed: incidents that only the first opened; new: that only the second did. later_s:
    by incident of the first, how much later the second opened it. notices: how many more of them.
    """

    missed: list[IncidentOut]
    new: list[IncidentOut]
    later_s: dict[str, float]
    notices: int


class BacktestState(msgspec.Struct, frozen=True, kw_only=True):
    """state: running, done, failed or stopped. share: how much of the time was gone through."""

    backtest_id: str
    state: Literal["running", "done", "failed", "stopped"]
    share: float
    signals: int
    error: str
    first: BacktestOut | None = None
    second: BacktestOut | None = None
    difference: DifferenceOut | None = None
    outages: list[FoundOut] = []
    outages_second: list[FoundOut] = []


def _backtests(ctx: WebContext) -> Backtests:
    if ctx.services.backtests is None:
        raise NotFound("there are no backtests in this program")
    return ctx.services.backtests


def _checked(specs: Sequence[RuleSpec] | None) -> None:
    """Raises: UsageError."""
    if specs is not None and (faults := list(check_rules(specs))):
        fault = faults[0]
        raise UsageError(f"rules.{'.'.join(map(str, fault.path))}: {fault.message}", hint=fault.hint)


def _out(found: Rehearsal) -> BacktestOut:
    return BacktestOut(
        since_s=found.since_s,
        until_s=found.until_s,
        signals=found.signals,
        incidents=[incident_out(one) for one in found.incidents[-_SHOWN:]],
        notices=[
            ToldOut(
                time_s=one.time_s,
                to=list(one.notice.to),
                lines=[part.text for part in one.notice.parts[:_SHOWN_LINES]],
            )
            for one in found.notices[-_SHOWN:]
        ],
        total_incidents=len(found.incidents) + found.dropped.get("incidents", 0),
        total_notices=len(found.notices) + found.dropped.get("notices", 0),
        fired=found.fired,
        suppressed=found.suppressed,
        actions=[
            WouldOut(
                time_s=one.time_s,
                number=one.number,
                target=one.group,
                says=one.says,
                mode=one.mode,
                undo=one.undo,
                left=one.left,
            )
            for one in found.starts[-_SHOWN:]
        ],
        total_actions=len(found.starts) + found.dropped.get("starts", 0),
        held=found.held,
        planned=found.planned,
        lost=[LostOut(width_s=width, results=count) for width, count in found.lost.items()],
        busy_s=found.busy_s,
    )


def _found_out(found: Sequence[Found]) -> list[FoundOut]:
    return [
        FoundOut(
            name=one.outage.name,
            since_s=one.outage.since_s,
            number=one.number,
            after_s=one.after_s,
            told_after_s=one.told_after_s,
        )
        for one in found
    ]


def state_out(one: Backtest) -> BacktestState:
    difference = one.difference
    return BacktestState(
        backtest_id=one.backtest_id,
        state=one.state,  # type: ignore[arg-type]
        share=one.progress.share,
        signals=one.progress.signals,
        error=one.error,
        first=_out(one.first) if one.first is not None and one.state == "done" else None,
        second=_out(one.second) if one.second is not None else None,
        difference=DifferenceOut(
            missed=[incident_out(incident) for incident in difference.only_first[-_SHOWN:]],
            new=[incident_out(incident) for incident in difference.only_second[-_SHOWN:]],
            later_s=difference.later_s,
            notices=difference.notices,
        )
        if difference is not None
        else None,
        outages=_found_out(one.found),
        outages_second=_found_out(one.found_second),
    )


@post(
    "/api/v1/rules/backtest",
    opt=may("rule", "run", whole=True),
    status_code=200,
    summary="What rules would have done with what was recorded, answered when it is done",
    responses=refusals(403, 404, 409, 413, 503),
)
async def backtest_rules(ctx: Ctx, data: JSONBody[BacktestIn]) -> BacktestOut:
    _checked(data.rules)
    return _out(await incidents_of(ctx).rehearse(since_s=data.since_s, specs=data.rules))


@post(
    "/api/v1/backtests",
    opt=may("rule", "run", whole=True),
    status_code=202,
    summary="Begin a backtest; it goes on in the background",
    responses=refusals(403, 404, 409, 413, 503),
)
async def start_backtest(ctx: Ctx, data: JSONBody[BacktestStart]) -> BacktestState:
    _checked(data.rules)
    _checked(data.against)
    if data.incident:
        await incidents_of(ctx).show(data.incident)
    wanted = Wanted(
        since_s=data.since_s, incident=data.incident, rules=data.rules, against=data.against, outages=data.outages
    )
    return state_out(_backtests(ctx).start(wanted))


@get(
    "/api/v1/backtests/{backtest_id:str}",
    opt=may("rule", whole=True),
    summary="How far a backtest is, and what came out",
    responses=refusals(403, 404, 503),
)
async def show_backtest(ctx: Ctx, backtest_id: _Id) -> BacktestState:
    return state_out(_backtests(ctx).show(backtest_id))


@delete(
    "/api/v1/backtests/{backtest_id:str}",
    opt=may("rule", "run", whole=True),
    status_code=204,
    summary="Stop a backtest",
    responses=refusals(403, 404, 503),
)
async def stop_backtest(ctx: Ctx, backtest_id: _Id) -> None:
    _backtests(ctx).stop(backtest_id)


@get(
    "/api/v1/signals",
    opt=may("rule", whole=True),
    summary="What was recorded, as a file of signals",
    responses={
        200: ResponseSpec(bytes, media_type="application/octet-stream", generate_examples=False),
        **refusals(403, 404, 503),
    },
)
async def export_signals(
    ctx: Ctx,
    since_s: Annotated[float, QueryParameter(ge=0, le=1e11, description="From, seconds since 1970")],
    until_s: Annotated[float, QueryParameter(ge=0, le=1e11, description="To, seconds since 1970")],
) -> Stream:
    if until_s <= since_s or until_s - since_s > LONGEST_BACKTEST_S:
        raise UsageError("the time must be more than nothing and at most 90d")
    found = incidents_of(ctx).record(since_s=since_s, until_s=until_s)
    # Before the answer begins: what keeps it from being read can still be said.
    first = await anext(found, b"")

    async def parts() -> AsyncIterator[bytes]:
        yield first
        async for part in found:
            yield part

    return Stream(parts(), media_type="application/octet-stream")


BACKTEST_HANDLERS = (export_signals, backtest_rules, start_backtest, show_backtest, stop_backtest)
