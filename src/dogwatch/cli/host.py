"""`dogwatch host`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click
import msgspec

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import one_line, print_json, print_table
from dogwatch.core.units import format_duration


@click.group()
def host() -> None:
    """List hosts and show them as their collectors see them.

    \b
    Examples:
      dogwatch host list
      dogwatch host show web-1
    """


@host.command("list")
@list_options("/api/v1/hosts")
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List hosts: how busy each is, and its fullest disk.

    \b
    Examples:
      dogwatch host list
      dogwatch host list --search web --json
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No host matches." if wanted else "No host is watched.")
        return
    print_table(
        ["HOST", "CPU", "LOAD", "MEMORY", "FULLEST DISK", "UP"],
        [
            [
                one_line(one["name"]),
                _share(one["cpu_ratio"]),
                "-" if one["load1"] is None else f"{one['load1']:.2f}",
                _share(one["memory_used_ratio"]),
                _fullest(one["filesystems"]),
                "-" if one["uptime_s"] is None else format_duration(round(one["uptime_s"])),
            ]
            for one in items
        ],
        cut=(0, 4),
    )
    wanted.further(items)


def _share(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.0%}"


def _fullest(filesystems: Sequence[Mapping[str, Any]]) -> str:
    fullest = max(filesystems, key=lambda one: one["used_ratio"] or 0.0, default=None)
    return "-" if fullest is None else f"{_share(fullest['used_ratio'])} {one_line(fullest['mountpoint'])}"


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
