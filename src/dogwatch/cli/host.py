"""`dogwatch host`."""

from __future__ import annotations

import os
import shutil
from urllib.parse import quote

import click
import msgspec

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.output import print_json


@click.group()
def host() -> None:
    """Show hosts as their collectors see them.

    \b
    Example:
      dogwatch host show
    """


@host.command()
@click.argument("name", required=False)
@click.option(
    "--processes",
    default=10,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="How many of the top processes to show.",
)
@server_option
@json_option
def show(client: Client, name: str | None, processes: int, as_json: bool) -> None:
    """Show a host at a glance: load, memory, disks, network, top processes, containers.

    \b
    Examples:
      dogwatch host show
      dogwatch host show web-1 --json
    """
    from dogwatch.hosts.render import render_host
    from dogwatch.hosts.view import HostView

    hosts = [client.get(f"/api/v1/hosts/{quote(os.fsencode(name), safe='')}")] if name else client.all("/api/v1/hosts")
    if as_json:
        print_json(hosts[0] if name else hosts)
        return
    if not hosts:
        click.echo("No host is watched.")
    width = min(100, shutil.get_terminal_size((80, 24)).columns)
    for view in hosts:
        shown = msgspec.convert(view, HostView)
        shown = msgspec.structs.replace(shown, processes=shown.processes[:processes])
        click.echo(render_host(shown, width=width))
