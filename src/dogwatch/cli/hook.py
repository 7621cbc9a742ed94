"""`dogwatch hook`: endpoints of webhooks, what came in, and taking it again."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import ago, indented, one_line, print_json, print_table
from dogwatch.core.units import format_size

_COLOURS = {"accepted": "green", "ignored": "bright_black", "refused": "red"}


@click.group()
def hook() -> None:
    """Show webhooks that came in, and take them again.

    \b
    Examples:
      dogwatch hook list
      dogwatch hook deliveries --endpoint shop --state refused
      dogwatch hook replay dlv_0644b1
    """


@hook.command("list")
@list_options("/api/v1/hooks")
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List endpoints with what became of their requests.

    \b
    Example:
      dogwatch hook list
    """
    views = wanted.items(client)
    if as_json:
        print_json(views)
        return
    if not views:
        click.echo("No endpoint matches." if wanted else "No webhooks are configured.")
        return
    rows = [
        (
            view["name"] + (" (paused)" if view["paused"] else ""),
            view["job"],
            view["signature"],
            ago(view["last_s"]),
            ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in view["counts"].items()) or "-",
        )
        for view in views
    ]
    print_table(("ENDPOINT", "JOB", "SIGNATURE", "LAST", "SINCE THE START"), rows, cut=(4, 1))


@hook.command()
@click.argument("name")
@server_option
@json_option
def show(client: Client, name: str, as_json: bool) -> None:
    """Show an endpoint: its address, and why requests were turned away.

    \b
    Example:
      dogwatch hook show shop
    """
    view = client.get(f"/api/v1/hooks/{quote(name, safe='')}")
    if as_json:
        print_json(view)
        return
    click.echo(f"{click.style(view['name'], bold=True)}  {client.server}{view['path']}")
    for label, value in (
        ("job", view["job"]),
        ("signature", view["signature"]),
        ("filter", view["filter"] or "none"),
        ("parameters", ", ".join(view["parameters"]) or "none"),
        ("last delivery", ago(view["last_s"])),
    ):
        click.echo(f"  {label:<14} {one_line(value)}")
    if view["rejections"]:
        click.echo("\nTurned away, the newest last:")
        rows = [
            (ago(one["time_s"]), str(one["status"]), one["remote"], one_line(one["reason"]))
            for one in view["rejections"]
        ]
        print_table(("WHEN", "STATUS", "FROM", "WHY"), rows, cut=(3,))


@hook.command()
@list_options("/api/v1/deliveries", limit=20, also={"limit": ("--last",)})
@server_option
@json_option
def deliveries(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List deliveries, newest first. With an id, see 'dogwatch hook delivery'.

    \b
    Example:
      dogwatch hook deliveries --state refused
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No delivery matches." if wanted else "Nothing has come in yet.")
        return
    rows = [
        (
            one["delivery_id"],
            one["endpoint"],
            click.style(one["state"], fg=_COLOURS.get(one["state"])),
            ago(one["received_s"]),
            one_line(one["event"]) or "-",
            one["run_id"] or one_line(one["reason"]) or "-",
        )
        for one in items
    ]
    print_table(("DELIVERY", "ENDPOINT", "STATE", "CAME", "EVENT", "RUN OR REASON"), rows, cut=(5, 4))
    wanted.further(items)


@hook.command()
@click.argument("delivery_id", metavar="ID")
@server_option
@json_option
def delivery(client: Client, delivery_id: str, as_json: bool) -> None:
    """Show one delivery: headers and body, secrets masked. ID may be its beginning.

    \b
    Example:
      dogwatch hook delivery dlv_0644b1
    """
    detail = client.get(f"/api/v1/deliveries/{quote(delivery_id, safe='')}")
    if as_json:
        print_json(detail)
        return
    one: dict[str, Any] = detail["delivery"]
    state = click.style(one["state"], fg=_COLOURS.get(one["state"]), bold=True)
    click.echo(f"{click.style(one['delivery_id'], bold=True)}  {one['endpoint']}  {state}  {ago(one['received_s'])}")
    for label, value in (
        ("reason", one["reason"]),
        ("run", one["run_id"]),
        ("event", one["event"]),
        ("sender's id", one["source_id"]),
        ("from", one["remote"]),
        ("came again", f"{one['duplicates']} times" if one["duplicates"] else ""),
        ("replay of", one["replay_of"]),
        ("asked for by", one["actor"]),
    ):
        if value:
            click.echo(f"  {label:<13} {one_line(value)}")
    for title, pairs in (("Query", detail["query"]), ("Headers", detail["headers"])):
        if pairs:
            click.echo(f"\n{title}")
            for key, value in pairs.items():
                click.echo(indented(f"{key}: {value}"))
    cut = ", the beginning of it" if detail["truncated"] else ""
    click.echo(f"\nBody, {format_size(one['size_bytes'])}{cut}")
    if detail["withheld"]:
        click.echo(f"    not shown: {one_line(detail['withheld'])}")
        return
    for line in detail["text"].splitlines():
        click.echo(f"    {one_line(line)}")


@hook.command()
@click.argument("delivery_id", metavar="ID")
@click.option("--force", is_flag=True, help="Whatever the endpoint's filter says.")
@server_option
@json_option
def replay(client: Client, delivery_id: str, force: bool, as_json: bool) -> int:
    """Take the same payload again, by today's configuration, as a new delivery. Exits with 1 where no run began.

    \b
    Example:
      dogwatch hook replay dlv_0644b1 --force
    """
    path = f"/api/v1/deliveries/{quote(delivery_id, safe='')}/replay"
    one = client.post(f"{path}?force=true" if force else path)
    if as_json:
        print_json(one)
    else:
        told = f"run {one['run_id']}" if one["run_id"] else one_line(one["reason"])
        state = click.style(one["state"], fg=_COLOURS.get(one["state"]))
        click.echo(f"{one['delivery_id']}  {state}  {told}")
    return 0 if one["run_id"] else 1
