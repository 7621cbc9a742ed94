"""`dogwatch worker`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.logging import log_options
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
@list_options("/api/v1/workers")
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List the processes that execute runs.

    \b
    Example:
      dogwatch worker list --search draining
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No worker matches." if wanted else "No worker is registered.")
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
    found = _told(client, worker_id, "drain")
    if as_json:
        print_json(found)
    else:
        click.echo(f"{status_text(found['state'])}  {one_line(found['worker_id'])}: {found['busy']} runs left")


@worker.command()
@click.argument("worker_id", shell_complete=complete_workers)
@server_option
@json_option
def resume(client: Client, worker_id: str, as_json: bool) -> None:
    """Let a drained worker take runs again.

    \b
    Example:
      dogwatch worker resume build-2-4711
    """
    found = _told(client, worker_id, "resume")
    if as_json:
        print_json(found)
    else:
        click.echo(f"{status_text(found['state'])}  {one_line(found['worker_id'])}")


def _told(client: Client, worker_id: str, verb: str) -> Any:
    return client.post(f"/api/v1/workers/{quote(worker_id, safe='')}/{verb}")


@worker.command()
@click.option("-c", "--config", "paths", multiple=True, metavar="PATH", help="File or folder; may be repeated.")
@click.option("--labels", multiple=True, metavar="KEY=VALUE", help="Labels that jobs may ask for; may be repeated.")
@click.option("--slots", type=click.IntRange(1, 1000), help="Runs at the same time. Default: engine.slots.")
@click.option("--data", metavar="FOLDER", help="Where the lock of running programs lives.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting: --set engine.ttl=10s.")
@log_options
def run(
    paths: tuple[str, ...],
    labels: tuple[str, ...],
    slots: int | None,
    data: str | None,
    settings: tuple[str, ...],
    log_level: str,
    log_format: str,
) -> int:
    """Carry out runs on this machine, from the PostgreSQL that database.url names.

    Any number of machines may. SIGTERM and Ctrl-C let running steps end within
    engine.grace and give the rest back; SIGHUP reloads the configuration.

    \b
    Examples:
      dogwatch worker run -c /etc/dogwatch --labels zone=a --slots 8
      DOGWATCH_DATABASE__URL=postgresql://watch@db-1/watch dogwatch worker run
    """
    from dogwatch.cli.worker_run import start

    return start(paths, labels, slots, data, settings, log_level=log_level, log_format=log_format)
