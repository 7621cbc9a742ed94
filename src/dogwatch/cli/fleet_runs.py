"""`dogwatch fleet runs`: what went over the fleet, from this machine or from a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import ago, one_line, print_json, print_table

if TYPE_CHECKING:
    from dogwatch.fleet.book.values import FleetRunRow, Kept
    from dogwatch.fleet.results import HostResult

_COLOURS = {"succeeded": "green", "running": "blue", "stopped": "yellow", "cancelled": "yellow", "partly": "yellow"}


@click.command()
@click.argument("run_id", required=False, metavar="[RUN]")
@list_options("/api/v1/fleet/runs", limit=30)
@click.option("--diff", is_flag=True, help="Show how other hosts' output differs from that of most.")
@click.option("--server", metavar="URL", help="Those of this daemon, not of this machine.")
@click.option("--context", metavar="NAME", help="Those of the daemon of this context.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(run_id: str | None, wanted: Wanted, diff: bool, server: str | None, context: str | None, as_json: bool) -> int:
    """List what was run over the fleet, or show one run with all of its hosts.

    \b
    Examples:
      dogwatch fleet runs
      dogwatch fleet runs 0199f3 --diff
    """
    if server or context:
        from dogwatch.cli.fleet_remote import list_remote, show_remote

        if run_id is None:
            return list_remote(server, context, wanted, as_json=as_json)
        return show_remote(server, context, run_id, diff=diff, as_json=as_json)
    if run_id is None:
        return _list(wanted, as_json)
    return _show(run_id, diff=diff, as_json=as_json)


def _list(wanted: Wanted, as_json: bool) -> int:
    from dogwatch.errors import NotFound
    from dogwatch.fleet.book.own import is_held, own_book

    async def look() -> list[dict[str, Any]]:
        from dogwatch.cli.fleet_carry import data_folder

        async with own_book(data_folder(), make=False) as book:
            found, _ = await book.find(limit=wanted.limit or 1_000_000, run_id=wanted.given.get("of", ""))
            return [plain_run(row, alive=is_held(book.folder, row.key)) for row in found]

    try:
        found = asyncio.run(look())
    except NotFound:
        found = []
    return tell_runs(found, as_json=as_json)


def tell_runs(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> int:
    if as_json:
        print_json(found)
        return 0
    if not found:
        click.echo("Nothing was run over the fleet yet.")
        return 0
    print_table(
        ("STATE", "RUN", "WHEN", "HOSTS", "FAILED", "WHAT"),
        [
            (
                click.style(_word(one), fg=_COLOURS.get(_word(one), "red")),
                one["run"],
                ago(one["created_s"]),
                str(one["hosts_total"]),
                str(one["failed"]),
                one_line(one["what"]),
            )
            for one in found
        ],
        cut=(5,),
    )
    return 0


def _word(one: Mapping[str, Any]) -> str:
    return "lost" if one["state"] == "running" and not one["alive"] else str(one["state"])


def plain_run(row: FleetRunRow, *, alive: bool) -> dict[str, Any]:
    good = ("succeeded", "running", "waiting", "cancelled", "not started")
    return {
        "run": str(row.key),
        "state": row.state.value,
        "alive": alive,
        "reason": row.reason,
        "what": row.what,
        "targets": row.targets,
        "actor": str(row.actor),
        "retry_of": row.retry_of,
        "attempt": row.attempt,
        "created_s": row.created_s,
        "ended_s": row.ended_s,
        "hosts_total": row.hosts,
        "failed": sum(count for state, count in row.counts.items() if state not in good),
        "counts": dict(row.counts),
    }


def _show(given: str, *, diff: bool, as_json: bool) -> int:
    from dogwatch.cli.fleet_carry import data_folder
    from dogwatch.fleet.book.own import is_held, own_book

    async def look() -> tuple[FleetRunRow, list[Kept], bool]:
        async with own_book(data_folder(), make=False) as book:
            row = await book.show(await book.resolve(given))
            return row, await book.hosts(row.key), is_held(book.folder, row.key)

    row, kept, alive = asyncio.run(look())
    return tell_run(plain_run(row, alive=alive), kept, diff=diff, as_json=as_json)


def tell_run(run: Mapping[str, Any], kept: Sequence[Kept], *, diff: bool, as_json: bool) -> int:
    """Print a run with its hosts, and return the exit code of how it stands."""
    from dogwatch.cli.fleet_output import plain_result, show_results
    from dogwatch.fleet.inventory.ranges import fold
    from dogwatch.fleet.results import exit_code

    results: list[HostResult] = [one.result for one in kept if one.result is not None]
    if as_json:
        hosts = [
            {
                **(plain_result(one.result) if one.result is not None else {"host": one.host, "state": one.state}),
                "attempt": one.attempt,
                "begun_s": one.begun_s,
                "ended_s": one.ended_s,
            }
            for one in kept
        ]
        print_json({**run, "hosts": hosts})
    else:
        state = click.style(_word(run), fg=_COLOURS.get(_word(run), "red"))
        click.echo(f"{state}  {run['run']}  {ago(run['created_s'])}, by {one_line(run['actor'])}")
        click.echo(f"  ran   {one_line(run['what'])}")
        click.echo(f"  on    {one_line(run['targets'])}: {run['hosts_total']} hosts")
        if run["retry_of"]:
            click.echo(f"  again what failed in {run['retry_of']}")
        click.echo()
        show_results(results, diff=diff)
        for state, told in (("running", "were running"), ("waiting", "did not have their turn")):
            names = [one.host for one in kept if one.state == state]
            if names:
                click.echo(f"{len(names)} {told}: {fold(names)}")
        if run["reason"]:
            click.echo(click.style(f"stopped: {one_line(run['reason'])}", fg="yellow"))
    return exit_code(results) if len(results) == len(kept) else 1
