"""The console's pages of the fleet: hosts of the inventory, and commands over them with each host's outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.errors import DogwatchError
from dogwatch.fleet.book.values import OPEN_STATES, FleetRunRow, Kept
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.results import HostResult, gather
from dogwatch.web.api.fleet import book_of, found_run, hosts_out, matching_hosts, seen_hosts, seen_inventory, seen_runs
from dogwatch.web.context import Ctx, Segment, WebContext
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page

_HOSTS_SHOWN = 100
_RUNS_SHOWN = 15
_GROUPS_SHOWN = 60
_MESSAGES_SHOWN = 20
_LINES_SHOWN = 200
Text = Annotated[str, QueryParameter(max_length=500)]
Cursor = Annotated[str, QueryParameter(max_length=20)]
# How a state of a host looks, in the words of runs.
_LOOKS = {"succeeded": "succeeded", "running": "running", "waiting": "pending"}
_RUN_LOOKS = {"succeeded": "succeeded", "running": "running", "failed": "failed", "partly": "failed"}


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Hosts that ended the same and said the same. lines: of output, cut."""

    look: str
    word: str
    names: str
    count: int
    message: str = ""
    hint: str = ""
    lines: Sequence[tuple[str, str]] = ()
    more: int = 0


def look(state: str) -> str:
    """Return the state of a step that a host's is shown as."""
    if state in ("cancelled", "not started"):
        return "cancelled"
    return _LOOKS.get(state, "failed")


def groups_of(kept: Sequence[Kept]) -> list[Group]:
    """Return a run's hosts by what became of them, the failed first."""
    results = [one.result for one in kept if one.result is not None]
    found = [_group(one.hosts, one.sample, one.messages) for one in gather(results)]
    found.sort(key=lambda one: one.look == "succeeded")
    for state in ("running", "waiting"):
        names = [one.host for one in kept if one.state == state]
        if names:
            found.append(Group(look=look(state), word=state, names=fold(names), count=len(names)))
    return found


def _group(hosts: Sequence[str], sample: HostResult, messages: Sequence[str]) -> Group:
    lines = [
        (stream, line)
        for stream, data in (("stdout", sample.stdout), ("stderr", sample.stderr))
        for line in data.decode(errors="replace").splitlines()
    ]
    return Group(
        look=look(str(sample.state)),
        word=sample.word,
        names=fold(hosts),
        count=len(hosts),
        message="; ".join(messages[:_MESSAGES_SHOWN]) + ("; …" if len(messages) > _MESSAGES_SHOWN else ""),
        hint=sample.hint,
        lines=lines[:_LINES_SHOWN],
        more=max(0, len(lines) - _LINES_SHOWN),
    )


class RunLine(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a list. href: its name for an address."""

    row: FleetRunRow
    look: str
    href: str
    failed: int


def run_line(row: FleetRunRow) -> RunLine:
    good = ("succeeded", "running", "waiting", *map(str, OPEN_STATES))
    return RunLine(
        row=row,
        look=_RUN_LOOKS.get(row.state.value, "cancelled"),
        href=str(row.key).replace("/", "%2F"),
        failed=sum(count for state, count in row.counts.items() if state not in good),
    )


async def _values(ctx: WebContext, q: str, targets: str, cursor: str) -> dict[str, Any]:
    at = int(cursor) if cursor.isascii() and cursor.isdigit() else 0
    mistake, hosts, total, inventory = "", [], 0, None
    try:
        inventory = await seen_inventory(ctx)
        names = matching_hosts(inventory, targets, q)
        total = len(names)
        hosts = await hosts_out(ctx, inventory, names[at : at + _HOSTS_SHOWN])
    except DogwatchError as error:
        mistake = f"{error}; {error.hint}" if error.hint else str(error)
    rows = []
    if ctx.services.fleet is not None and ctx.services.fleet.book is not None:
        found, _ = await book_of(ctx).find(limit=_RUNS_SHOWN)
        rows = await seen_runs(ctx, found)
    asked = {"q": q, "targets": targets}
    following = at + _HOSTS_SHOWN
    groups = [name for name in inventory.groups if name not in ("all", "ungrouped")] if inventory is not None else []
    return {
        "q": q,
        "targets": targets,
        "hosts": [(one, look(one.last_state)) for one in hosts],
        "groups": groups[:_GROUPS_SHOWN],
        "total": total,
        "older": urlencode({**asked, "cursor": following}, errors="replace") if following < total else "",
        "newest": urlencode(asked, errors="replace") if at else None,
        "again": urlencode({**asked, "cursor": cursor}, errors="replace"),
        "mistake": mistake,
        "runs": [run_line(row) for row in rows],
    }


@get("/fleet", opt=may("fleet"), include_in_schema=False)
async def fleet_page(ctx: Ctx, q: Text = "", targets: Text = "", cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "fleet.html", await _values(ctx, q, targets, cursor), here="/fleet")


@get("/fragments/fleet", opt=may("fleet"), include_in_schema=False)
async def fleet_fragment(ctx: Ctx, q: Text = "", targets: Text = "", cursor: Cursor = "") -> Response[bytes]:
    return html_page(ctx, "fleet_now.html", await _values(ctx, q, targets, cursor))


async def _run_values(ctx: WebContext, run_id: str) -> dict[str, Any]:
    row = await found_run(ctx, run_id)
    kept = seen_hosts(ctx, await book_of(ctx).hosts(row.key))
    line = run_line(row)
    return {"line": line, "row": row, "groups": groups_of(kept), "ended": sum(one.result is not None for one in kept)}


@get("/fleet/runs/{run_id:str}", opt=may("fleet"), include_in_schema=False)
async def fleet_run_page(ctx: Ctx, run_id: Segment) -> Response[bytes]:
    return html_page(ctx, "fleet_run.html", await _run_values(ctx, run_id), here="/fleet/-")


@get("/fragments/fleet-run/{run_id:str}", opt=may("fleet"), include_in_schema=False)
async def fleet_run_fragment(ctx: Ctx, run_id: Segment) -> Response[bytes]:
    return html_page(ctx, "fleet_run_now.html", await _run_values(ctx, run_id))


async def fleet_lines(ctx: WebContext, run_id: str) -> list[RunLine]:
    """Return the fleet runs of a run's steps, for its own page."""
    fleet = ctx.services.fleet
    if fleet is None or fleet.book is None or not ctx.may("fleet"):
        return []
    rows, _ = await fleet.book.find(run_id=run_id)
    return [run_line(row) for row in await seen_runs(ctx, rows)]


FLEET = Pages(
    handlers=(fleet_page, fleet_fragment, fleet_run_page, fleet_run_fragment),
    places=(Place("Fleet", "/fleet", "fleet"),),
)
