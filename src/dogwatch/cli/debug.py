"""`dogwatch debug`: what the running daemon does, over its admin socket."""

from __future__ import annotations

from typing import Any

import click

from dogwatch.cli.client import ask_admin, json_option
from dogwatch.cli.output import print_json


@click.group()
@click.option("--socket", metavar="PATH", help="The daemon's admin socket.  [default: in its data folder]")
@click.pass_context
def debug(context: click.Context, socket: str | None) -> None:
    """Look inside the running daemon, over its admin socket.

    \b
    Examples:
      dogwatch debug tasks
      dogwatch debug --socket /var/lib/dogwatch/admin.sock fds
    """
    context.obj = socket


def _show(socket: str | None, operation: str, as_json: bool, **arguments: Any) -> None:
    answer = ask_admin(operation, path=socket, timeout_s=30.0 + float(arguments.get("seconds", 0)), **arguments)
    if as_json:
        print_json(answer["data"])
    else:
        click.echo(answer["text"])


@debug.command()
@json_option
@click.pass_obj
def tasks(socket: str | None, as_json: bool) -> None:
    """Show every task and what it awaits.

    \b
    Example:
      dogwatch debug tasks
    """
    _show(socket, "tasks", as_json)


@debug.command()
@json_option
@click.pass_obj
def fds(socket: str | None, as_json: bool) -> None:
    """Show every descriptor and who holds it.

    \b
    Example:
      dogwatch debug fds
    """
    _show(socket, "fds", as_json)


@debug.command()
@json_option
@click.pass_obj
def threads(socket: str | None, as_json: bool) -> None:
    """Show every thread and where it is.

    \b
    Example:
      dogwatch debug threads
    """
    _show(socket, "threads", as_json)


@debug.command()
@json_option
@click.pass_obj
def version(socket: str | None, as_json: bool) -> None:
    """Show the daemon's version, and whether its attempts run compiled.

    \b
    Example:
      dogwatch debug version
    """
    _show(socket, "version", as_json)


@debug.command()
@json_option
@click.pass_obj
def heap(socket: str | None, as_json: bool) -> None:
    """Show which types of objects there are most of.

    \b
    Example:
      dogwatch debug heap
    """
    _show(socket, "heap", as_json)


@debug.command()
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 60.0), help="How long.")
@json_option
@click.pass_obj
def profile(socket: str | None, as_json: bool, seconds: float) -> None:
    """Sample where the time goes.

    \b
    Example:
      dogwatch debug profile --seconds 10
    """
    _show(socket, "profile", as_json, seconds=seconds)
