"""`dogwatch maintenance`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.incident import clock_time
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import one_line, print_json, print_table
from dogwatch.errors import UsageError


@click.group()
def maintenance() -> None:
    """Plan windows of maintenance and freezes, list them, and end them early.

    While one is on, no incident opens for what it is over, nobody is told, frozen
    schedules do not fire, and the time counts against nobody's availability.

    \b
    Examples:
      dogwatch maintenance add "switch to db-2" --target 'db-*' --for 2h
      dogwatch maintenance list
    """


@maintenance.command("list")
@click.option("--all", "every", is_flag=True, help="Also those that are over.")
@list_options("/api/v1/maintenance")
@server_option
@json_option
def list_(client: Client, every: bool, wanted: Wanted, as_json: bool) -> None:
    """List windows: what is on, and what comes next; --all or --state says more.

    \b
    Example:
      dogwatch maintenance list --all
    """
    items = wanted.items(client, state=() if every else ("on", "next"))
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No window matches." if wanted else "No maintenance is on or planned.")
        return
    print_table(
        ["ID", "STATE", "NAME", "OVER", "WHEN", "BY"],
        [
            [
                item["window_id"],
                item["state"],
                one_line(item["name"]),
                one_line(_over(item)),
                _when(item),
                item["by"] or "configuration",
            ]
            for item in items
        ],
        cut=(2, 3),
    )


def _over(item: Mapping[str, Any]) -> str:
    parts = [*item["targets"], *(f"{key}={value}" for key, value in item["match"].items())]
    parts += [f"rule {name}" for name in item["rules"]]
    schedules = [f"schedule {name}" for name in item["schedules"]]
    deployments = [f"deployment {name}" for name in item["deployments"]]
    return ", ".join([*deployments, *parts, *schedules]) or "everything"


def _when(item: Mapping[str, Any]) -> str:
    if item["state"] == "on":
        return f"until {clock_time(item['end_s'])}" if item["end_s"] else "without end"
    if item["state"] == "next":
        return f"from {clock_time(item['begin_s'])}"
    return f"ended by {item['ended_by']}" if item["ended_by"] else "over"


def _labels(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"'{pair}' is no label", hint="write --label team=shop")
        found[name] = value
    return found


@maintenance.command()
@click.argument("name")
@click.option("--target", "targets", multiple=True, metavar="NAME", help="Of a probe or host, with * and ?.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="That targets carry.")
@click.option("--rule", "rules", multiple=True, metavar="NAME", help="Only alerts of these rules, with * and ?.")
@click.option("--schedule", "schedules", multiple=True, metavar="NAME", help="Freeze these schedules, with * and ?.")
@click.option(
    "--deployment", "deployments", multiple=True, metavar="JOB", help="Hold deployments by these jobs, with * and ?."
)
@click.option("--for", "duration", default="", metavar="TIME", help="How long: 2h from now on, or after each --cron.")
@click.option("--from", "from_", default="", metavar="WHEN", help="2026-12-24T22:00, or 22:00 for every day.")
@click.option("--to", default="", metavar="WHEN", help="Its end, written alike.")
@click.option("--cron", default="", metavar="CRON", help="When it begins, again and again; with --for.")
@click.option("--time-zone", default="UTC", show_default=True, help="Of all these.")
@click.option("--reason", default="", help="Why.")
@server_option
@json_option
def add(client: Client, name: str, labels: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Plan a window: --for 2h, --from and --to, or --cron with --for.

    Without --target, --label and --rule it is over everything; with --schedule
    alone, over these schedules only. With --deployment, runs of jobs that are
    marked as deployments wait until it ends, and --label chooses among these.

    \b
    Examples:
      dogwatch maintenance add "switch to db-2" --target 'db-*' --for 2h
      dogwatch maintenance add freeze --schedule '*' \\
        --from 2026-12-24T12:00 --to 2027-01-02T08:00 --time-zone Europe/Berlin
      dogwatch maintenance add "sale" --deployment '*' --label team=shop --for 8h
      dogwatch maintenance add dumps --label tier=db --cron '0 3 * * SUN' --for 1h
    """
    if not (options["duration"] or options["from_"] or options["to"] or options["cron"]):
        raise UsageError("nothing says when it is", hint="give --for 2h, or --from and --to, or --cron with --for")
    body = {
        "name": name,
        "match": _labels(labels),
        "targets": list(options["targets"]),
        "rules": list(options["rules"]),
        "schedules": list(options["schedules"]),
        "deployments": list(options["deployments"]),
        "duration": options["duration"],
        "from": options["from_"],
        "to": options["to"],
        "cron": options["cron"],
        "time_zone": options["time_zone"],
        "reason": options["reason"],
    }
    item = client.post("/api/v1/maintenance", body)
    if as_json:
        print_json(item)
        return
    click.echo(f"{item['window_id']}: {one_line(item['name'])}, over {one_line(_over(item))}, {_when(item)}")


@maintenance.command()
@click.argument("window_id")
@click.option("--reason", default="", help="Why it ends early.")
@server_option
@json_option
def end(client: Client, window_id: str, reason: str, as_json: bool) -> None:
    """End a window now; what it covered until then stays planned.

    \b
    Example:
      dogwatch maintenance end mw_0123456789ab --reason "done early"
    """
    from urllib.parse import quote

    item = client.post(f"/api/v1/maintenance/{quote(window_id, safe='')}/end", {"reason": reason})
    if as_json:
        print_json(item)
        return
    click.echo(f"{item['window_id']}: ended")
