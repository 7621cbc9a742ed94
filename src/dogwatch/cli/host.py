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
    """Show hosts as their collectors see them."""


@host.command()
@click.argument("name", required=False)
@server_option
@json_option
def show(client: Client, name: str | None, as_json: bool) -> None:
    """Show a host at a glance: load, memory, disks, network, top processes, containers.

    \b
    Examples:
      dogwatch host show
      dogwatch host show web-1 --json
    """
    from dogwatch.hosts.render import render_host
    from dogwatch.hosts.view import HostView

    hosts = [client.get(f"/api/v1/hosts/{quote(os.fsencode(name), safe='')}")] if name else client.get("/api/v1/hosts")
    if as_json:
        print_json(hosts[0] if name else hosts)
        return
    width = min(100, shutil.get_terminal_size((80, 24)).columns)
    for view in hosts:
        click.echo(render_host(msgspec.convert(view, HostView), width=width))
