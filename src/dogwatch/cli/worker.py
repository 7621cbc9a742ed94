"""`dogwatch worker`."""

from __future__ import annotations

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.names import complete_workers
from dogwatch.cli.output import ago, one_line, print_json, print_table, status_text


@click.group()
def worker() -> None:
    """List and drain workers; run one on this machine.

    \b
    Examples:
      dogwatch worker list
      dogwatch worker run --labels zone=a --slots 8
    """


@worker.command("list")
@server_option
@json_option
def list_(client: Client, as_json: bool) -> None:
    """List the processes that execute runs.

    \b
    Example:
      dogwatch worker list
    """
    items = client.get("/api/v1/workers")
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No worker is registered.")
        return
    print_table(
        ["STATE", "WORKER", "HOST", "BUSY", "HEARTBEAT", "LABELS"],
        [
            [
                status_text(one["state"]),
                one_line(one["worker_id"]),
                one_line(one["host"]),
                f"{one['busy']}/{one['slots']}",
                ago(one["heartbeat_s"]),
                one_line(", ".join(f"{key}={value}" for key, value in one["labels"].items())),
            ]
            for one in items
        ],
        cut=(1, 5),
    )


@worker.command()
@click.argument("worker_id", shell_complete=complete_workers)
@server_option
@json_option
def drain(client: Client, worker_id: str, as_json: bool) -> None:
    """Let a worker take no new run; those that it has end by themselves.

    \b
    Example:
      dogwatch worker drain build-2-4711
    """
    from urllib.parse import quote

    found = client.post(f"/api/v1/workers/{quote(worker_id, safe='')}/drain")
    if as_json:
        print_json(found)
    else:
        click.echo(f"{status_text(found['state'])}  {one_line(found['worker_id'])}: {found['busy']} runs left")
