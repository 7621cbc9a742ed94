"""`dogwatch reload`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import print_json


@click.group()
def reload() -> None:
    """Reload the configuration, see how reloads ended.

    \b
    Examples:
      dogwatch reload now
      dogwatch reload status
    """


@reload.command()
@list_options("/api/v1/reloads", limit=5, also={"limit": ("--last",)})
@server_option
@json_option
def status(client: Client, wanted: Wanted, as_json: bool) -> int:
    """Show the newest reloads, step by step. Exits with 1 while the newest one is a failure.

    \b
    Example:
      dogwatch reload status --last 1
    """
    records = wanted.items(client)
    if as_json:
        print_json(records)
    else:
        for record in records:
            _print(record)
        if not records:
            click.echo("No reload matches." if wanted else "Nothing was reloaded yet.")
    return 1 if records and records[0]["outcome"] == "failed" else 0


@reload.command()
@server_option
@json_option
def now(client: Client, as_json: bool) -> int:
    """Reload now. A bad configuration changes nothing; exits with 2 then.

    \b
    Example:
      dogwatch reload now
    """
    record = client.post("/api/v1/reload")
    if as_json:
        print_json(record)
    else:
        _print(record)
    return 2 if record["outcome"] == "failed" else 0


def _print(record: dict[str, Any]) -> None:
    colour = {"applied": "green", "failed": "red"}.get(record["outcome"], "bright_black")
    when = datetime.fromtimestamp(record["time_s"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    head = click.style(record["outcome"], fg=colour, bold=True)
    click.echo(f"#{record['number']}  {when}  by {record['trigger']:<6}  {head}")
    steps = " → ".join(f"{step['name']} {step['duration_s'] * 1000:.1f} ms" for step in record["steps"])
    if steps:
        click.echo(f"    {steps}")
    for problem in record["problems"]:
        click.echo(f"    {problem}")
    changed = record["changed"]
    if changed:
        more = f" and {len(changed) - 8} more" if len(changed) > 8 else ""
        click.echo(f"    {' '.join(changed[:8])}{more}")
