"""`/api/v1/fleet/plans`: planned changes, what they would do on which host, who agrees, and what came of them."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta
from msgspec.structs import replace

from dogwatch.access.permissions import everything
from dogwatch.core.units import parse_duration
from dogwatch.errors import Conflict, DogwatchError, NotFound, UsageError
from dogwatch.fleet.adhoc import apply_job, plan_job
from dogwatch.fleet.book.desk import PlanDesk
from dogwatch.fleet.book.plan_rows import NewPlan
from dogwatch.fleet.book.planned import APPLYING, PLANNING, Asked, Claim, PlanHost, PlanRow, Shown, decide_claim
from dogwatch.fleet.desked import ApplyAction, hosts_for
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.targets import choose
from dogwatch.web.api import run_models
from dogwatch.web.api.fleet import fleet_of, require_hosts, seen_inventory, shared_labels
from dogwatch.web.api.fleet_plan_models import (
    FleetApplyIn,
    FleetDecisionIn,
    FleetDriftHostOut,
    FleetDriftOut,
    FleetPlanHostOut,
    FleetPlanHostPage,
    FleetPlanIn,
    FleetPlanItemOut,
    FleetPlanOut,
    FleetPlanPage,
    FleetPlanStarted,
    FleetPlanStepOut,
    PlaybookOut,
)
from dogwatch.web.api.models import Limit, refusals
from dogwatch.web.api.paging import Listed, Page, counted, numbered, opened, sealed
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.encoding import SafeResponse
from dogwatch.web.permissions import may

PlanId = Annotated[str, PathParameter(max_length=200, description="The id of a plan, or a beginning of it")]
Forks = Annotated[int, Meta(ge=1, le=2000)]
Reason = Annotated[str, Meta(max_length=2000)]


def desk_of(ctx: WebContext) -> PlanDesk:
    """Raises: NotFound where this program keeps no plans."""
    desk = fleet_of(ctx).desk
    if desk is None:
        raise NotFound("this Dogwatch keeps no plans")
    return desk


def seen_plan_hosts(ctx: WebContext, hosts: Sequence[PlanHost]) -> list[PlanHost]:
    sees = ctx.rights.filter("fleet")
    return list(hosts) if sees is everything else [one for one in hosts if sees(one.labels)]


async def seen_plans(ctx: WebContext, rows: Sequence[PlanRow]) -> list[PlanRow]:
    """Return the plans of which the one who asks may see a host, or that they asked for, with those hosts only."""
    sees = ctx.rights.filter("fleet")
    if sees is everything:
        return list(rows)
    labels = await desk_of(ctx).labels([row.plan_id for row in rows])
    found = []
    for row in rows:
        seen = [sees(one) for one in labels[row.plan_id]]
        if any(seen) or str(row.actor) == str(ctx.actor):
            found.append(row if all(seen) else await _own_part(ctx, row))
    return found


async def _own_part(ctx: WebContext, row: PlanRow) -> PlanRow:
    """Return a plan for hosts of others, too, without them. Its reason counts and names them."""
    kept = seen_plan_hosts(ctx, await desk_of(ctx).hosts(row.plan_id))
    hosts, results = Counter(one.state for one in kept), Counter(one.result for one in kept if one.result)
    targets = fold(one.host for one in kept)
    return replace(row, targets=targets, hosts=hosts, results=results, reason="")


async def current(ctx: WebContext, row: PlanRow) -> PlanRow:
    """Return a plan as it stands: where its run was ended before it could say so, the run says it."""
    run_id = {PLANNING: row.run_id, APPLYING: row.apply_run}.get(row.state, "")
    if not run_id:
        return row
    try:
        run = await ctx.services.runs.show(run_id)
    except DogwatchError:
        return row
    return replace(row, state="stopped", reason=row.reason or run.reason) if run.state.ended else row


async def found_plan(ctx: WebContext, given: str) -> PlanRow:
    """Raises: NotFound, also for a plan of which nothing may be seen."""
    desk, text = desk_of(ctx), segment(given)
    absent = NotFound(f"there is no plan '{text[:60]}'", hint="`dogwatch fleet plans` lists them")
    try:
        row = await desk.show(await desk.resolve(text))
    except Conflict:
        # That several begin so is told to those who may see them all.
        if ctx.rights.restricted("fleet"):
            raise absent from None
        raise
    seen = await seen_plans(ctx, [row])
    if not seen:
        raise absent
    return await current(ctx, seen[0])


def waits(row: PlanRow) -> bool:
    return row.approval and row.approved_by is None and row.state == "ready"


def plan_out(row: PlanRow) -> FleetPlanOut:
    return FleetPlanOut(
        plan=row.plan_id,
        kind=row.kind,
        playbook=row.playbook,
        targets=row.targets,
        state=row.state,
        reason=row.reason,
        actor=str(row.actor),
        run_id=row.run_id,
        digest=row.digest,
        approval=row.approval,
        approved_by="" if row.approved_by is None else str(row.approved_by),
        comment=row.comment,
        waits=waits(row),
        unfinished=row.unfinished,
        apply_run=row.apply_run,
        created_s=row.created_s,
        made_s=row.made_s,
        ended_s=row.ended_s,
        hosts=dict(row.hosts),
        results=dict(row.results),
    )


def host_out(one: PlanHost, texts: Mapping[str, Shown]) -> FleetPlanHostOut:
    shown = texts.get(one.shown, Shown())
    return FleetPlanHostOut(
        host=one.host,
        place=one.place,
        state=one.state,
        since_s=one.since_s,
        result=one.result,
        message=one.message,
        operations=shown.total,
        problems=list(shown.problems),
        items=[
            FleetPlanItemOut(
                name=item.name,
                kind=item.kind,
                handler=item.handler,
                later=item.later,
                steps=[FleetPlanStepOut(title=step.title, diff=step.diff) for step in item.steps],
            )
            for item in shown.items
        ],
    )


@get("/api/v1/fleet/playbooks", opt=may("fleet"), summary="Playbooks of the configuration", responses=refusals(404))
async def list_playbooks(ctx: Ctx, paging: Page) -> Listed[PlaybookOut]:
    found = fleet_of(ctx).playbooks
    return paging.page(
        (PlaybookOut(name=name, file=str(file)) for name, file in sorted(found.items())), lambda one: one.name
    )


@get("/api/v1/fleet/plans", opt=may("fleet"), summary="Plans, newest first", responses=refusals(404, 503))
async def list_plans(
    ctx: Ctx,
    kind: Annotated[
        str, QueryParameter(pattern="^(plan|drift)?$", description="Only plans, or only looks for drift: plan or drift")
    ] = "",
    playbook: Annotated[str, QueryParameter(max_length=200, description="Of this playbook")] = "",
    cursor: run_models.Cursor = "",
    limit: Limit = 50,
) -> FleetPlanPage:
    before = opened("fleet-plans", cursor)
    rows, following = await desk_of(ctx).find(limit=limit, cursor=before, kind=kind, playbook=playbook)
    seen = [await current(ctx, row) for row in await seen_plans(ctx, rows)]
    return FleetPlanPage(items=[plan_out(row) for row in seen], next_cursor=sealed("fleet-plans", following))


@get(
    "/api/v1/fleet/plans/{plan_id:str}",
    opt=may("fleet"),
    summary="One plan, with its hosts counted",
    responses=refusals(404, 409, 503),
)
async def show_plan(ctx: Ctx, plan_id: PlanId) -> FleetPlanOut:
    return plan_out(await found_plan(ctx, plan_id))


@get(
    "/api/v1/fleet/plans/{plan_id:str}/hosts",
    opt=may("fleet"),
    summary="What it would change on each host, and what became of that",
    responses=refusals(404, 409, 503),
)
async def plan_hosts(
    ctx: Ctx,
    plan_id: PlanId,
    cursor: run_models.Cursor = "",
    limit: Limit = 100,
) -> FleetPlanHostPage:
    row = await found_plan(ctx, plan_id)
    after = counted("fleet-plan-hosts", cursor)
    kept = await desk_of(ctx).hosts(row.plan_id, after=-1 if after is None else after, limit=limit)
    following = numbered("fleet-plan-hosts", kept[-1].place if len(kept) == limit else None)
    seen = seen_plan_hosts(ctx, kept)
    texts = await desk_of(ctx).texts(row.plan_id, [one.shown for one in seen])
    return FleetPlanHostPage(items=[host_out(one, texts) for one in seen], next_cursor=following)


@post(
    "/api/v1/fleet/plans",
    opt=may("fleet", "run"),
    status_code=201,
    summary="Plan a playbook: connect, read, and tell what it would change; a run does it",
    responses=refusals(403, 404, 409, 413, 422, 503),
)
async def make_plan(ctx: Ctx, data: JSONBody[FleetPlanIn]) -> Response[FleetPlanStarted]:
    fleet = fleet_of(ctx)
    inventory = await seen_inventory(ctx)
    new = _new(ctx, data)
    hosts = await asyncio.to_thread(hosts_for, fleet, new, inventory)
    if not hosts:
        raise NotFound("no host is chosen", hint="GET /api/v1/fleet/hosts lists what there is")
    if ctx.rights.filter("fleet", "run") is not everything:
        require_hosts(ctx, {host: inventory.labels(host) for host in hosts})
        # What was checked is what is done, whatever the inventory says by then.
        new = replace(new, targets=fold(hosts))
    plan_id = await desk_of(ctx).open(new, reason=data.reason)
    labels = shared_labels([inventory.labels(host) for host in hosts])
    try:
        started = await ctx.services.runs.start_adhoc(
            *plan_job(plan_id, new.playbook, actor=ctx.actor, reason=data.reason, labels=labels)
        )
    except DogwatchError as error:
        await desk_of(ctx).failed(plan_id, str(error))
        raise
    await desk_of(ctx).belongs(plan_id, started.run.run_id)
    return _started(plan_id, started.run.run_id)


def _started(plan_id: str, run_id: str) -> Response[FleetPlanStarted]:
    location = {"Location": f"/api/v1/fleet/plans/{plan_id}"}
    return SafeResponse(FleetPlanStarted(plan=plan_id, run_id=run_id), status_code=201, headers=location)


def _new(ctx: WebContext, data: FleetPlanIn) -> NewPlan:
    """Raises: UsageError."""
    from dogwatch.fleet.playbook.bundle import Bundle, checked

    if bool(data.playbook) == bool(data.files):
        raise UsageError("name a playbook, or send one along: one of both", hint="playbook, or main and files")
    bundle = None
    if data.files:
        try:
            files = {name: base64.b64decode(text, validate=True) for name, text in data.files.items()}
        except (binascii.Error, ValueError):
            raise UsageError("files: contents are base64") from None
        bundle = msgspec.msgpack.encode(checked(Bundle(main=data.main, files=files)))
    for name in data.vars:
        if not name.isidentifier():
            raise UsageError(f"'{name[:60]}' cannot be the name of a variable")
    return NewPlan(
        plan_id="",
        kind="drift" if data.drift else "plan",
        playbook=data.playbook or data.main,
        targets=data.targets,
        actor=ctx.actor,
        orders=Asked(
            vars=data.vars,
            forks=data.forks,
            read_timeout_s=_seconds(data.timeout),
            connect_timeout_s=_seconds(data.connect_timeout),
        ),
        bundle=bundle,
    )


def _seconds(text: str) -> float:
    """Raises: UsageError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


@post(
    "/api/v1/fleet/plans/{plan_id:str}/decision",
    opt=may("fleet", "approve"),
    status_code=200,
    summary="Agree to a plan of somebody else, or reject it",
    responses=refusals(403, 404, 409, 413, 503),
)
async def decide_plan(ctx: Ctx, plan_id: PlanId, data: JSONBody[FleetDecisionIn]) -> FleetPlanOut:
    row = await found_plan(ctx, plan_id)
    for one in await desk_of(ctx).hosts(row.plan_id):
        ctx.require("fleet", "approve", one.labels)
    decided = await desk_of(ctx).decide(row.plan_id, ctx.actor, approve=data.approve, comment=data.comment)
    return plan_out(decided)


@post(
    "/api/v1/fleet/plans/{plan_id:str}/apply",
    opt=may("fleet", "run"),
    status_code=201,
    summary="Apply exactly this plan, finish an apply, or take one back; a run does it",
    responses=refusals(403, 404, 409, 413, 503),
)
async def apply_plan(ctx: Ctx, plan_id: PlanId, data: JSONBody[FleetApplyIn]) -> Response[FleetPlanStarted]:
    row = await found_plan(ctx, plan_id)
    # The run asks again, in the transaction that lets it begin; here it is told at once.
    decide_claim(
        await desk_of(ctx).show(row.plan_id),
        Claim(run_id="-", new_id="-", resume=data.resume, back=data.back),
        other_ended=row.state != APPLYING,
    )
    hosts = await desk_of(ctx).hosts(row.plan_id)
    if data.targets:
        chosen = set(choose(data.targets, await seen_inventory(ctx)))
        hosts = [one for one in hosts if one.host in chosen]
    if not hosts:
        raise NotFound("no host of the plan is chosen")
    require_hosts(ctx, {one.host: one.labels for one in hosts})
    action = ApplyAction(
        plan_id=row.plan_id,
        resume=data.resume,
        back=data.back,
        # What was checked is what is done: the run chooses among all hosts, not only those that are seen.
        targets=fold(one.host for one in hosts) if data.targets else "",
        forks=data.forks,
        batch=data.batch,
        max_fail=data.max_fail,
        apply_timeout=_seconds(data.timeout),
        connect_timeout=_seconds(data.connect_timeout),
    )
    labels = shared_labels([one.labels for one in hosts])
    job = apply_job(action, row.playbook, actor=ctx.actor, reason=data.reason, labels=labels)
    started = await ctx.services.runs.start_adhoc(*job)
    return _started(row.plan_id, started.run.run_id)


async def drift_of(ctx: WebContext) -> list[FleetDriftOut]:
    """Return the newest look at each playbook's hosts, as far as they may be seen."""
    desk = desk_of(ctx)
    found = []
    for row in await seen_plans(ctx, await desk.looks()):
        hosts = seen_plan_hosts(ctx, await desk.hosts(row.plan_id))
        away = [one for one in hosts if one.state in ("changes", "problems")]
        texts = await desk.texts(row.plan_id, [one.shown for one in away])
        found.append(
            FleetDriftOut(
                playbook=row.playbook,
                plan=row.plan_id,
                looked_s=row.made_s or row.created_s,
                hosts_total=len(hosts),
                unread=[one.host for one in hosts if one.state == "unread"],
                wandered=[
                    FleetDriftHostOut(
                        host=one.host,
                        since_s=one.since_s,
                        what=[item.name for item in texts.get(one.shown, Shown()).items]
                        or list(texts.get(one.shown, Shown()).problems),
                    )
                    for one in away
                ],
            )
        )
    return found


@get(
    "/api/v1/fleet/drift",
    opt=may("fleet"),
    summary="Hosts that are not as a playbook says, by the newest look at each",
    responses=refusals(404, 503),
)
async def show_drift(ctx: Ctx, paging: Page) -> Listed[FleetDriftOut]:
    return paging.page(await drift_of(ctx), lambda one: one.playbook)


FLEET_PLAN_HANDLERS = (
    list_playbooks,
    list_plans,
    show_plan,
    plan_hosts,
    make_plan,
    decide_plan,
    apply_plan,
    show_drift,
)
