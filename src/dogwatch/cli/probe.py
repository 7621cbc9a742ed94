"""`dogwatch probe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option, target_path
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.names import complete_names
from dogwatch.cli.output import ago, indented, milliseconds, one_line, print_json, print_table, status_text
from dogwatch.cli.run import run
from dogwatch.core.units import format_duration

_STATUSES = ("up", "degraded", "down", "pending", "paused", "maintenance")


@click.group()
def probe() -> None:
    """List, show, run, pause and resume probes.

    \b
    Examples:
      dogwatch probe list
      dogwatch probe run https://example.org/
    """


@probe.command("list")
@list_options("/api/v1/targets", choices={"status": _STATUSES})
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List the configured probes and how they are.

    \b
    Examples:
      dogwatch probe list --status down --status degraded
      dogwatch probe list --label team=shop --search checkout --json
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No probes match." if wanted else "No probes are configured.")
        return
    print_table(
        ["STATUS", "TARGET", "KIND", "EVERY", "LAST", "TOOK", "ADDRESS"],
        [
            [
                status_text(item["status"]),
                item["name"],
                item["kind"],
                format_duration(item["every_s"]),
                ago(item["last_time_s"]),
                milliseconds(item["last_duration_s"]),
                one_line(item["address"]),
            ]
            for item in items
        ],
        cut=(1, 6),
    )
    wanted.further(items)


@probe.command()
@click.argument("name", shell_complete=complete_names)
@server_option
@json_option
def show(client: Client, name: str, as_json: bool) -> None:
    """Show one probe: its state, its last results and why the last failures failed.

    \b
    Example:
      dogwatch probe show shop
    """
    target = client.get(target_path(name))
    results = client.get(f"{target_path(name)}/results", limit=10)["items"]
    failures = client.get(f"{target_path(name)}/failures", limit=3)["items"]
    if as_json:
        print_json({"target": target, "results": results, "failures": failures})
        return
    click.echo(f"{status_text(target['status'])}  {click.style(target['name'], bold=True)}  {target['address']}")
    click.echo(f"  {target['kind']} every {format_duration(target['every_s'])}, since {ago(target['since_s'])}")
    if target["last_message"]:
        click.echo(indented(target["last_message"]))
    for failure in failures:
        click.echo(indented(f"failed {ago(failure['time_s'])}: {failure['message']}"))
    if results:
        click.echo()
        print_table(
            ["WHEN", "RESULT", "TOOK", "REASON"],
            [
                [
                    ago(row["time_s"]),
                    "ok" if row["success"] else "failed",
                    milliseconds(row["duration_s"]),
                    row["reason"],
                ]
                for row in results
            ],
        )


@probe.command()
@list_options("/api/v1/transitions", limit=50, choices={"status": _STATUSES}, complete={"target": complete_names})
@server_option
@json_option
def transitions(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List changes of status, newest first.

    \b
    Examples:
      dogwatch probe transitions --since 1d --status down
      dogwatch probe transitions --target shop --limit 0 --json
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No change matches." if wanted else "No status has changed yet.")
        return
    print_table(
        ["WHEN", "TARGET", "FROM", "TO", "WHY"],
        [
            [
                ago(one["time_s"]),
                one["target"],
                one["before"],
                status_text(one["after"]),
                one_line(one["reason"]),
            ]
            for one in items
        ],
        cut=(1, 4),
    )
    wanted.further(items)


@probe.command()
@click.argument("name", shell_complete=complete_names)
@server_option
@json_option
def pause(client: Client, name: str, as_json: bool) -> None:
    """Stop probing a target until it is resumed; this outlives restarts.

    \b
    Example:
      dogwatch probe pause shop
    """
    _changed(client.post(f"{target_path(name)}/pause"), as_json)


@probe.command()
@click.argument("name", shell_complete=complete_names)
@server_option
@json_option
def resume(client: Client, name: str, as_json: bool) -> None:
    """Probe a paused target again.

    \b
    Example:
      dogwatch probe resume shop
    """
    _changed(client.post(f"{target_path(name)}/resume"), as_json)


def _changed(target: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(target)
    else:
        click.echo(f"{status_text(target['status'])}  {target['name']}")


probe.add_command(run)
