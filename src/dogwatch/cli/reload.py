"""`dogwatch reload`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import one_line, print_json

_DIFFERS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}


@click.group()
def reload() -> None:
    """Reload the configuration, see what that would change, and how reloads ended.

    \b
    Examples:
      dogwatch reload plan
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
@click.option("--exit-code", is_flag=True, help="Exit with 4 where something would change.")
@server_option
@json_option
def plan(client: Client, exit_code: bool, as_json: bool) -> int:
    """Say what a reload would change, section by section; nothing is done. Exits with 2 where it would fail.

    \b
    Examples:
      dogwatch reload plan
      dogwatch reload plan --exit-code --json
    """
    return _planned(client, exit_code=exit_code, as_json=as_json)


@reload.command()
@click.option("--plan", "plan_only", is_flag=True, help="Only say what would change, as 'reload plan'.")
@server_option
@json_option
def now(client: Client, plan_only: bool, as_json: bool) -> int:
    """Reload now. A bad configuration changes nothing; exits with 2 then.

    \b
    Examples:
      dogwatch reload now --plan
      dogwatch reload now
    """
    if plan_only:
        return _planned(client, exit_code=False, as_json=as_json)
    record = client.post("/api/v1/reload")
    if as_json:
        print_json(record)
    else:
        _print(record)
    return 2 if record["outcome"] == "failed" else 0


def _planned(client: Client, *, exit_code: bool, as_json: bool) -> int:
    found = client.get("/api/v1/reload/plan")
    if as_json:
        print_json(found)
    else:
        _print_plan(found)
    return 2 if found["outcome"] == "fails" else 4 if exit_code and found["total"] else 0


def _print_plan(plan: dict[str, Any]) -> None:
    if plan["outcome"] == "unchanged":
        click.echo("Nothing would change: the files say what is in force.")
        return
    if plan["problems"]:
        click.echo(click.style("It would fail, and everything stays as it is:", fg="red", bold=True))
        for problem in plan["problems"]:
            click.echo(f"  {problem}")
        if plan["restart"]:
            click.echo(f"Needs a restart: {len(plan['restart'])} of these.")
        click.echo("What would differ once that is mended:" if plan["total"] else "Nothing else would differ.")
    for section, counts in plan["counts"].items():
        told = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        click.echo(f"{click.style(section, bold=True)}: {told}")
        for one in plan["differences"]:
            if one["section"] == section:
                mark, colour = _DIFFERS[one["what"]]
                keys = f" ({one_line(', '.join(one['keys']))})" if one["keys"] else ""
                click.echo(f"  {click.style(mark, fg=colour)} {one_line(one['name']) or section}{keys}")
    if plan["total"] > len(plan["differences"]):
        click.echo(f"… and {plan['total'] - len(plan['differences'])} more")


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
