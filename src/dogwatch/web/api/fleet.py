"""`/api/v1/fleet`: hosts of the inventory, commands over them, and what became of each host."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.params import JSONBody, PathParameter, QueryParameter

from dogwatch.access.permissions import everything
from dogwatch.core.units import parse_duration, parse_size
from dogwatch.errors import Conflict, NotFound, UsageError
from dogwatch.fleet.action import SshAction
from dogwatch.fleet.adhoc import JOB, STEP, adhoc_job
from dogwatch.fleet.book.book import FleetBook
from dogwatch.fleet.book.shelf import FileShelf
from dogwatch.fleet.book.values import FleetRunRow, Kept
from dogwatch.fleet.carrying import fetched_id
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.targets import choose
from dogwatch.web.api import run_models
from dogwatch.web.api.fleet_models import (
    FleetAgainIn,
    FleetFileOut,
    FleetHostOut,
    FleetHostPage,
    FleetPieceIn,
    FleetPieceOut,
    FleetResultOut,
    FleetResultPage,
    FleetRunIn,
    FleetRunOut,
    FleetRunPage,
)
from dogwatch.web.api.models import Limit, refusals
from dogwatch.web.api.paging import counted, numbered, opened, page_of, sealed
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.encoding import SafeResponse
from dogwatch.web.permissions import may

RunIdParam = Annotated[str, PathParameter(max_length=200, description="RUN, RUN/STEP (slash as %2F), or a beginning")]
_GOOD = ("succeeded", "running", "waiting", "cancelled", "not started")


def fleet_of(ctx: WebContext) -> FleetPart:
    """Raises: NotFound where this program has no fleet."""
    if ctx.services.fleet is None:
        raise NotFound("this Dogwatch has no fleet")
    return ctx.services.fleet


def book_of(ctx: WebContext) -> FleetBook:
    book = fleet_of(ctx).book
    if book is None:
        raise NotFound("this Dogwatch keeps no fleet runs")
    return book


def seen_hosts(ctx: WebContext, kept: Sequence[Kept]) -> list[Kept]:
    """Return those that the one who asks may see."""
    sees = ctx.rights.filter("fleet")
    return list(kept) if sees is everything else [one for one in kept if sees(one.labels)]


async def seen_inventory(ctx: WebContext) -> Inventory:
    """Return the inventory with the hosts that the one who asks may see: the others have no names, either."""
    inventory = await fleet_of(ctx).inventory()
    sees = ctx.rights.filter("fleet")
    if sees is everything:
        return inventory
    return inventory.only({name for name in inventory.hosts if sees(inventory.labels(name))})


async def seen_runs(ctx: WebContext, rows: Sequence[FleetRunRow]) -> list[FleetRunRow]:
    """Return the runs with a host that the one who asks may see, as if they were over those only."""
    if ctx.rights.filter("fleet") is everything:
        return list(rows)
    sees, labels = ctx.rights.filter("fleet"), await book_of(ctx).labels([row.key for row in rows])
    found = []
    for row in rows:
        seen = [sees(one) for one in labels.get(row.key, ())]
        if any(seen):
            found.append(row if all(seen) else await _own_part(ctx, row))
    return found


async def _own_part(ctx: WebContext, row: FleetRunRow) -> FleetRunRow:
    """Return a run that was over hosts of others, too, without them. Its reason counts and names them."""
    sees = ctx.rights.filter("fleet")
    kept = [(host, state) for host, state, labels in await book_of(ctx).states(row.key) if sees(labels)]
    targets, counts = fold(host for host, _ in kept), Counter(state for _, state in kept)
    return msgspec.structs.replace(row, targets=targets, hosts=len(kept), counts=counts, reason="")


async def found_run(ctx: WebContext, given: str) -> FleetRunRow:
    """Raises: NotFound, also for a run of which nothing may be seen."""
    book, text = book_of(ctx), segment(given)
    absent = NotFound(f"there is no fleet run '{text[:60]}'", hint="`dogwatch fleet runs` lists them")
    try:
        row = await book.show(await book.resolve(text))
    except Conflict:
        # That several begin so is told to those who may see them all.
        if ctx.rights.restricted("fleet"):
            raise absent from None
        raise
    seen = await seen_runs(ctx, [row])
    if not seen:
        raise absent
    return seen[0]


def run_out(row: FleetRunRow) -> FleetRunOut:
    return FleetRunOut(
        run=str(row.key),
        run_id=row.key.run_id,
        step=row.key.step,
        state=row.state.value,
        reason=row.reason,
        what=row.what,
        targets=row.targets,
        actor=str(row.actor),
        retry_of=row.retry_of,
        attempt=row.attempt,
        created_s=row.created_s,
        ended_s=row.ended_s,
        hosts_total=row.hosts,
        failed=sum(count for state, count in row.counts.items() if state not in _GOOD),
        counts=dict(row.counts),
    )


def result_out(one: Kept) -> FleetResultOut:
    result = one.result
    return FleetResultOut(
        host=one.host,
        place=one.place,
        state=one.state,
        attempt=one.attempt,
        batch=one.batch,
        exit_code=None if result is None else result.exit_code,
        signal="" if result is None else result.signal,
        stdout="" if result is None else result.stdout.decode(errors="replace"),
        stderr="" if result is None else result.stderr.decode(errors="replace"),
        output_cut_bytes=0 if result is None else result.cut,
        message="" if result is None else result.message,
        hint="" if result is None else result.hint,
        connect_s=0.0 if result is None else result.connect_s,
        run_s=0.0 if result is None else result.run_s,
        begun_s=one.begun_s,
        ended_s=one.ended_s,
    )


def matching_hosts(inventory: Inventory, targets: str, q: str) -> list[str]:
    """Return the hosts of an expression whose name, group or label holds the text. Raises: UsageError."""
    names = choose(targets, inventory) if targets else list(inventory.hosts)
    word = q.strip().lower()
    found = []
    for name in names:
        labels = inventory.labels(name)
        text = " ".join((name, *inventory.groups_of(name), *(f"{key}={value}" for key, value in labels.items())))
        if word in text.lower():
            found.append(name)
    return found


async def hosts_out(ctx: WebContext, inventory: Inventory, names: Sequence[str]) -> list[FleetHostOut]:
    book = fleet_of(ctx).book
    seen = await book.last_seen(names) if book is not None else {}
    nothing: tuple[float | None, str, str] = (None, "", "")
    return [
        FleetHostOut(
            host=name,
            address=str(inventory.variable(name, "ansible_host") or name),
            groups=[one for one in inventory.groups_of(name) if one not in ("all", "ungrouped")],
            labels=inventory.labels(name),
            last_seen_s=(last := seen.get(name, nothing))[0],
            last_state=last[1],
            last_run=last[2],
        )
        for name in names
    ]


@get("/api/v1/fleet/hosts", opt=may("fleet"), summary="Hosts of the inventory", responses=refusals(404, 409, 503))
async def list_hosts(
    ctx: Ctx,
    targets: Annotated[
        str, QueryParameter(max_length=2000, description="Chosen by this expression, as in web*,!web07")
    ] = "",
    q: Annotated[str, QueryParameter(max_length=500, description="Text in the name, groups or labels")] = "",
    cursor: run_models.Cursor = "",
    limit: Limit = 100,
) -> FleetHostPage:
    inventory = await seen_inventory(ctx)
    names = matching_hosts(inventory, targets, q)
    chosen, following = page_of(names, lambda name: name, cursor=cursor, limit=limit)
    return FleetHostPage(items=await hosts_out(ctx, inventory, chosen), total=len(names), next_cursor=following)


@get("/api/v1/fleet/runs", opt=may("fleet"), summary="Fleet runs, newest first", responses=refusals(404, 503))
async def list_fleet_runs(
    ctx: Ctx,
    of: Annotated[str, QueryParameter(max_length=200, description="Steps of this run")] = "",
    cursor: run_models.Cursor = "",
    limit: Limit = 50,
) -> FleetRunPage:
    rows, following = await book_of(ctx).find(limit=limit, cursor=opened("fleet-runs", cursor), run_id=of)
    items = [run_out(row) for row in await seen_runs(ctx, rows)]
    return FleetRunPage(items=items, next_cursor=sealed("fleet-runs", following))


@get(
    "/api/v1/fleet/runs/{run_id:str}",
    opt=may("fleet"),
    summary="One fleet run, with its hosts counted",
    responses=refusals(404, 409, 503),
)
async def show_fleet_run(ctx: Ctx, run_id: RunIdParam) -> FleetRunOut:
    return run_out(await found_run(ctx, run_id))


@get(
    "/api/v1/fleet/runs/{run_id:str}/hosts",
    opt=may("fleet"),
    summary="What became of its hosts, in order",
    responses=refusals(404, 409, 503),
)
async def fleet_run_hosts(
    ctx: Ctx,
    run_id: RunIdParam,
    cursor: run_models.Cursor = "",
    limit: Limit = 200,
) -> FleetResultPage:
    row = await found_run(ctx, run_id)
    after = counted("fleet-hosts", cursor)
    kept = await book_of(ctx).hosts(row.key, after=-1 if after is None else after, limit=limit)
    following = numbered("fleet-hosts", kept[-1].place if len(kept) == limit else None)
    return FleetResultPage(items=[result_out(one) for one in seen_hosts(ctx, kept)], next_cursor=following)


@post(
    "/api/v1/fleet/runs",
    opt=may("fleet", "run"),
    status_code=201,
    summary="Run a command over hosts; answers once it is on disk",
    responses=refusals(403, 404, 409, 413, 503),
)
async def start_fleet_run(ctx: Ctx, data: JSONBody[FleetRunIn]) -> Response[run_models.RunOut]:
    inventory = await seen_inventory(ctx)
    hosts = choose(data.targets, inventory)
    if data.limit:
        kept = set(choose(data.limit, inventory))
        hosts = [host for host in hosts if host in kept]
    if not hosts:
        raise NotFound("no host is chosen", hint="GET /api/v1/fleet/hosts lists what there is")
    limit = data.limit
    if ctx.rights.filter("fleet", "run") is not everything:
        require_hosts(ctx, {host: inventory.labels(host) for host in hosts})
        # What was checked is what is done, whatever the inventory says by then.
        limit = fold(hosts)
    # What all of its hosts carry, the run does: who may see these may see it.
    labels = shared_labels([inventory.labels(host) for host in hosts])
    spec, request = adhoc_job(_action(data, limit), actor=ctx.actor, reason=data.reason, labels=labels)
    started = await ctx.services.runs.start_adhoc(spec, request)
    run_id = started.run.run_id
    location = {"Location": f"/api/v1/fleet/runs/{run_id}%2F{STEP}"}
    return SafeResponse(run_models.run_out(started.run), status_code=201, headers=location)


def shared_labels(labels: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the labels that all have."""
    shared = dict(labels[0])
    for one in labels[1:]:
        shared = {name: value for name, value in shared.items() if one.get(name) == value}
    return shared


def require_hosts(ctx: WebContext, hosts: Mapping[str, Mapping[str, str]]) -> None:
    """Raises: NotAllowed where a command may not be run on one of them."""
    for labels in hosts.values():
        ctx.require("fleet", "run", labels)


def _action(data: FleetRunIn, limit: str) -> SshAction:
    """Raises: UsageError."""
    try:
        return SshAction(
            run=data.command,
            script=data.script,
            copy_file=data.copy,
            target=data.to,
            mode=data.mode,
            fetch=data.fetch,
            args=tuple(data.args),
            targets=data.targets,
            limit=limit,
            env=data.env,
            user=data.user,
            sudo=data.sudo,
            sudo_user=data.sudo_user,
            forks=data.forks,
            host_timeout=parse_duration(data.timeout),
            connect_timeout=parse_duration(data.connect_timeout),
            deadline=parse_duration(data.deadline) if data.deadline else None,
            batch=data.batch,
            max_fail=data.max_fail,
            output_limit=parse_size(data.output_limit),
            accept_new_host_keys=data.accept_new_host_keys,
            strict=True,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


@post(
    "/api/v1/fleet/runs/{run_id:str}/again",
    opt=may("fleet", "run"),
    status_code=201,
    summary="Run it again where it failed, or go on with what had no turn, as a new run",
    responses=refusals(403, 404, 409, 413, 503),
)
async def again_fleet_run(ctx: Ctx, run_id: RunIdParam, data: JSONBody[FleetAgainIn]) -> Response[run_models.RunOut]:
    row = await found_run(ctx, run_id)
    kept = await book_of(ctx).hosts(row.key)
    require_hosts(ctx, {one.host: one.labels for one in kept})
    run = await ctx.services.runs.show(row.key.run_id)
    ctx.require("run", "run", run.labels)
    started = await ctx.services.runs.rerun(run.run_id, ctx.actor, failed_only=run.job != JOB, again=data.what)
    location = {"Location": f"/api/v1/fleet/runs/{started.run.run_id}%2F{row.key.step}"}
    return SafeResponse(run_models.run_out(started.run), status_code=201, headers=location)


def _shelf(ctx: WebContext) -> FileShelf:
    shelf = fleet_of(ctx).shelf
    if shelf is None:
        raise NotFound("this Dogwatch keeps no files")
    return shelf


@post(
    "/api/v1/fleet/files",
    opt=may("fleet", "run"),
    status_code=201,
    summary="Send a file in pieces, to be copied to hosts; it is kept for a day",
    responses=refusals(403, 404, 409, 413, 503),
)
async def send_piece(ctx: Ctx, data: JSONBody[FleetPieceIn]) -> FleetFileOut:
    try:
        piece = base64.b64decode(data.data, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("data is not base64") from None
    return FleetFileOut(file=await _shelf(ctx).put(data.file, data.place, piece))


@get(
    "/api/v1/fleet/runs/{run_id:str}/files/{host:str}",
    opt=may("fleet", "run"),
    summary="What a run fetched from a host, in pieces",
    responses=refusals(404, 409, 503),
)
async def fetched_piece(
    ctx: Ctx,
    run_id: RunIdParam,
    host: Annotated[str, PathParameter(max_length=300, description="A host of the run")],
    place: Annotated[int, QueryParameter(ge=0, le=10_000, description="Which piece, from 0")] = 0,
) -> FleetPieceOut:
    row = await found_run(ctx, run_id)
    name = segment(host)
    kept = [one for one in seen_hosts(ctx, await book_of(ctx).hosts(row.key)) if one.host == name]
    if not kept:
        raise NotFound(f"{name[:100]} is no host of fleet run {row.key}")
    ctx.require("fleet", "run", kept[0].labels)
    data, more = await _shelf(ctx).piece(fetched_id(str(row.key), name), place)
    return FleetPieceOut(data=base64.b64encode(data).decode(), more=more)


FLEET_HANDLERS = (
    send_piece,
    fetched_piece,
    list_hosts,
    list_fleet_runs,
    show_fleet_run,
    fleet_run_hosts,
    start_fleet_run,
    again_fleet_run,
)
