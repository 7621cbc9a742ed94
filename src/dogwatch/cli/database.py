"""`dogwatch database`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dogwatch.cli.client import json_option
from dogwatch.cli.durations import Duration
from dogwatch.cli.output import print_json
from dogwatch.errors import UsageError


@click.group()
def database() -> None:
    """Move the state to another database.

    \b
    Example:
      dogwatch database move --to postgresql://watch@db-1/watch
    """


@database.command()
@click.option(
    "--to",
    "url",
    envvar="DOGWATCH_MOVE_TO",
    required=True,
    metavar="URL",
    help="An empty PostgreSQL database. $DOGWATCH_MOVE_TO keeps its password out of the list of processes.",
)
@click.option("--data", metavar="FOLDER", help="The data folder whose state.db is moved.")
@click.option("--drain", is_flag=True, help="Let the daemon finish the runs that it has, and stop it.")
@click.option("--wait", type=Duration(), default="10m", show_default=True, help="How long --drain waits for runs.")
@json_option
def move(url: str, data: str | None, drain: bool, wait: float, as_json: bool) -> None:
    """Copy all state from the file to PostgreSQL: runs, schedules, deliveries,
    accounts and the audit trail. Nobody may write meanwhile: stop the daemon first,
    or let --drain do it. Runs that wait (approval, time) are moved and go on there.

    All of it arrives, compared row by row, or nothing does. The file stays as it
    was. Afterwards name the database in the configuration, as database.url.

    \b
    Examples:
      dogwatch database move --to postgresql://watch@db-1/watch --drain
      DOGWATCH_MOVE_TO=$(cat url) dogwatch database move --data /srv/dogwatch
    """
    import asyncio

    from dogwatch.cli.database_move import come_to_rest, move_state
    from dogwatch.daemon.paths import admin_socket, default_data_dir
    from dogwatch.store.state import STATE_FILE

    folder = Path(data) if data else default_data_dir(os.environ)
    if not url.startswith(("postgresql://", "postgres://")):
        raise UsageError("--to is not the address of a PostgreSQL database", hint="postgresql://user@host/database")
    if drain:
        come_to_rest(
            folder / STATE_FILE, os.environ.get("DOGWATCH_SOCKET") or str(admin_socket(folder)), wait, quiet=as_json
        )
    moved = asyncio.run(move_state(folder / STATE_FILE, url, quiet=as_json))
    if as_json:
        print_json(moved)
        return
    rows = sum(moved.rows.values())
    click.echo(f"moved {rows} rows of {len(moved.rows)} tables, compared row by row; the audit trail is whole")
    if moved.replaced:
        click.echo(f"{moved.replaced} characters that PostgreSQL cannot hold (NUL) were replaced")
    click.echo(f"{folder / STATE_FILE} is as it was. Now set in the configuration:\n  database: {{url: …}}")
