"""The console's pages of planned changes: what was planned, what it would change where, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.fleet.book.planned import APPLYING, DRIFT, PLAN, PLANNING, PlanHost, PlanRow, Shown
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.web.api.fleet import fleet_of
from dogwatch.web.api.fleet_plan_models import FleetDriftOut
from dogwatch.web.api.fleet_plans import (
    current,
    desk_of,
    drift_of,
    found_plan,
    seen_plan_hosts,
    seen_plans,
    waits,
)
from dogwatch.web.context import Ctx, Segment, WebContext
from dogwatch.web.contributions import Pages
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page
from dogwatch.words import Phrase

_PLANS_SHOWN = 40
_GROUPS_SHOWN = 60
_LINES_SHOWN = 400
Cursor = Annotated[str, QueryParameter(max_length=200)]
# How a state looks, in the words of runs.
_LOOKS = {
    "planning": "running",
    "applying": "running",
    "ready": "waiting",
    "applied": "succeeded",
    "rolled back": "succeeded",
    "unchanged": "succeeded",
    "same": "succeeded",
    "changes": "waiting",
    "stopped": "cancelled",
    "rejected": "cancelled",
    "not started": "cancelled",
    "refused": "refused",
    "moved": "refused",
    "locked": "refused",
}
# What a plan's hosts are called, in the words of people.
_WORDS = {
    "changes": Phrase("would be changed"),
    "same": Phrase("as they should be"),
    "problems": Phrase("cannot be planned"),
    "unread": Phrase("not read"),
}


class PlanLine(msgspec.Struct, frozen=True, kw_only=True):
    """A plan in a list."""

    row: PlanRow
    look: str
    word: str


class DiffLine(msgspec.Struct, frozen=True):
    """A line of a diff. mark: add, drop, place or ""."""

    mark: str
    text: str


class ShownChange(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    lines: Sequence[DiffLine]
    more: int


class ShownOperation(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    handler: bool
    later: str
    changes: Sequence[ShownChange]


class HostGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Hosts of which the same is told."""

    look: str
    word: str
    names: str
    count: int
    message: str = ""
    problems: Sequence[str] = ()
    operations: Sequence[ShownOperation] = ()


def plan_look(state: str) -> str:
    """Return the state of a run that a plan's or a host's is shown as."""
    return _LOOKS.get(state, "failed")


def plan_line(row: PlanRow) -> PlanLine:
    word: str = Phrase("waits for approval") if waits(row) else row.state
    look = plan_look(row.state)
    if row.state == "ready" and not row.changing and not row.hosts.get("problems") and not row.hosts.get("unread"):
        look, word = "succeeded", Phrase("nothing to do")
    elif row.state == "ready" and row.kind == DRIFT:
        look, word = "refused", Phrase("hosts wandered")
    return PlanLine(row=row, look=look, word=word)


def groups_of(hosts: Sequence[PlanHost], texts: Mapping[str, Shown]) -> list[HostGroup]:
    """Return hosts by what is told of them: what went wrong first, what stays as it is last."""
    found: dict[tuple[str, str, str, str], list[PlanHost]] = {}
    for one in hosts:
        found.setdefault((one.state, one.shown, one.result, one.message), []).append(one)
    order = {"unread": 0, "problems": 1, "changes": 2, "same": 3}
    groups = sorted(found.items(), key=lambda one: (plan_look(one[0][2]) != "failed", order.get(one[0][0], 4)))
    return [_group(state, result, message, members, texts) for (state, _, result, message), members in groups]


def _group(state: str, result: str, message: str, members: Sequence[PlanHost], texts: Mapping[str, Shown]) -> HostGroup:
    shown = texts.get(members[0].shown, Shown())
    return HostGroup(
        look=plan_look(result or state),
        word=result or _WORDS.get(state, state),
        names=fold(one.host for one in members),
        count=len(members),
        message=message,
        problems=shown.problems,
        operations=[
            ShownOperation(
                name=item.name,
                kind=item.kind,
                handler=item.handler,
                later=item.later,
                changes=[_change(step.title, step.diff) for step in item.steps],
            )
            for item in shown.items
        ],
    )


def _change(title: str, diff: str) -> ShownChange:
    lines = diff.splitlines()
    marks = {"+": "add", "-": "drop", "@": "place"}
    shown = [DiffLine(marks.get(line[:1], ""), line) for line in lines[:_LINES_SHOWN]]
    return ShownChange(title=title, lines=shown, more=max(0, len(lines) - _LINES_SHOWN))


class DriftLine(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a playbook's hosts. since_s: of those that have been another for longest."""

    one: FleetDriftOut
    well: int
    names: str
    unread: str
    since_s: float | None


def drift_line(one: FleetDriftOut) -> DriftLine:
    away = [host.host for host in one.wandered]
    return DriftLine(
        one=one,
        well=one.hosts_total - len(away) - len(one.unread),
        names=fold(away),
        unread=fold(one.unread),
        since_s=min((host.since_s for host in one.wandered if host.since_s is not None), default=None),
    )


async def _plans_values(ctx: WebContext, cursor: str) -> dict[str, Any]:
    rows, following = await desk_of(ctx).find(limit=_PLANS_SHOWN, cursor=cursor)
    seen = [await current(ctx, row) for row in await seen_plans(ctx, rows)]
    return {
        "plans": [plan_line(row) for row in seen],
        "drift": [drift_line(one) for one in await drift_of(ctx)],
        "cursor": cursor,
        "older": following,
    }


@get("/fleet/plans", opt=may("fleet"), include_in_schema=False)
async def plans_page(ctx: Ctx, cursor: Cursor = "") -> Response[bytes]:
    values = await _plans_values(ctx, cursor)
    values["playbooks"] = sorted(fleet_of(ctx).playbooks)
    return html_page(ctx, "fleet_plans.html", values, here="/fleet/-")


@get("/fragments/fleet-plans", opt=may("fleet"), include_in_schema=False)
async def plans_fragment(ctx: Ctx, cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "fleet_plans_now.html", await _plans_values(ctx, cursor))


async def _plan_values(ctx: WebContext, plan_id: str) -> dict[str, Any]:
    row = await found_plan(ctx, plan_id)
    hosts = seen_plan_hosts(ctx, await desk_of(ctx).hosts(row.plan_id))
    groups = groups_of(hosts, await desk_of(ctx).texts(row.plan_id, [one.shown for one in hosts]))
    return {
        "row": row,
        "line": plan_line(row),
        "groups": groups[:_GROUPS_SHOWN],
        "groups_more": len(groups) - _GROUPS_SHOWN,
        "total": len(hosts),
        "open": row.state in (PLANNING, APPLYING),
        "done": sum(bool(one.result) for one in hosts),
        "asks": waits(row),
        "mine": str(row.actor) == str(ctx.actor),
        "appliable": row.kind == PLAN and row.state == "ready" and bool(row.changing) and not waits(row),
        "resumable": row.kind == PLAN and bool(row.apply_id) and row.unfinished and row.state != APPLYING,
        "returnable": row.kind == PLAN and bool(row.apply_id) and row.state not in (APPLYING, "rolled back"),
    }


@get("/fleet/plans/{plan_id:str}", opt=may("fleet"), include_in_schema=False)
async def plan_page(ctx: Ctx, plan_id: Segment) -> Response[bytes]:
    return html_page(ctx, "fleet_plan.html", await _plan_values(ctx, plan_id), here="/fleet/-")


@get("/fragments/fleet-plan/{plan_id:str}", opt=may("fleet"), include_in_schema=False)
async def plan_fragment(ctx: Ctx, plan_id: Segment) -> Response[bytes]:
    return html_page(ctx, "fleet_plan_now.html", await _plan_values(ctx, plan_id))


FLEET_PLANS = Pages(handlers=(plans_page, plans_fragment, plan_page, plan_fragment))
