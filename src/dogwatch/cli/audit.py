"""`dogwatch audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import one_line, print_json, print_table
from dogwatch.errors import DogwatchError

_OUTCOMES = ("done", "refused", "failed", "begun")


@click.group()
def audit() -> None:
    """The audit trail: search, verify, export.

    \b
    Examples:
      dogwatch audit list --since 1d
      dogwatch audit verify --heads /mnt/elsewhere/heads.jsonl
    """


def _print(items: list[dict[str, Any]]) -> None:
    from datetime import datetime

    rows = []
    for item in items:
        event = item["event"]
        actor, subject = event["actor"], event["subject"]
        when = datetime.fromtimestamp(event["time_s"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        rows.append(
            [
                str(item["number"]),
                when,
                one_line(f"{actor['kind']}:{actor['name']}"),
                actor["address"],
                event["verb"],
                one_line(f"{subject['noun']} {subject['name']}"),
                event["outcome"],
                one_line(event["reason"]),
            ]
        )
    print_table(["NO.", "WHEN", "WHO", "FROM", "DID", "ON", "OUTCOME", "WHY"], rows, cut=(5, 7))


def _show(client: Client, wanted: Wanted, as_json: bool, **more: object) -> None:
    items = wanted.items(client, **more)
    if as_json:
        print_json(items)
    elif items:
        _print(items)
        wanted.further(items)
    else:
        click.echo("No event matches.")


@audit.command("list")
@list_options("/api/v1/audit", limit=50, choices={"outcome": _OUTCOMES})
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List events, newest first.

    \b
    Examples:
      dogwatch audit list --actor user:ann --since 7d
      dogwatch audit list --outcome refused --limit 0 --json
    """
    _show(client, wanted, as_json)


@audit.command()
@click.argument("text")
@list_options("/api/v1/audit", limit=50, choices={"outcome": _OUTCOMES}, without=("text",))
@server_option
@json_option
def search(client: Client, text: str, wanted: Wanted, as_json: bool) -> None:
    """Find events with a text anywhere in them.

    \b
    Example:
      dogwatch audit search 192.0.2.7
    """
    _show(client, wanted, as_json, text=text)


@audit.command()
@click.option("--heads", "files", multiple=True, metavar="FILE", help="Heads that were exported; may be repeated.")
@server_option
@json_option
def verify(client: Client, files: tuple[str, ...], as_json: bool) -> int:
    """Follow the whole trail, and name the first event that is not as it was written. Exits with 1 then.

    Whoever owns the machine can make the trail anew, with its key: only heads that were kept elsewhere find that.

    \b
    Example:
      dogwatch audit verify --heads /mnt/elsewhere/heads.jsonl
    """
    heads = [head for file in files for head in _heads_of(file)]
    verdict = client.post("/api/v1/audit/verify", {"heads": heads})
    if as_json:
        print_json(verdict)
    elif verdict["broken"] is None:
        signed = f"; signed up to event {verdict['signed']}" if verdict["signed"] else "; nothing is signed yet"
        click.echo(f"{verdict['events']} events are as they were written{signed} ({verdict['heads']} heads)")
    else:
        click.echo(click.style(f"broken at event {verdict['broken']}: {verdict['why']}", fg="red", bold=True))
    return 0 if verdict["broken"] is None else 1


def _heads_of(file: str) -> list[dict[str, Any]]:
    import msgspec

    from dogwatch.access.heads import read_heads

    try:
        text = Path(file).read_text("utf-8")
    except OSError as error:
        raise DogwatchError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from None
    return [msgspec.to_builtins(head) for head in read_heads(text, Path(file).name)]


@audit.command()
@list_options("/api/v1/audit", choices={"outcome": _OUTCOMES}, without=("limit",))
@click.option("-o", "--output", type=click.File("wb"), help="File to write; the output else.")
@server_option
def export(client: Client, wanted: Wanted, output: Any) -> None:
    """Write events as JSON Lines, newest first.

    \b
    Example:
      dogwatch audit export --since 30d -o audit.jsonl
    """
    to = output or sys.stdout.buffer
    for line in client.lines("/api/v1/audit/export", **wanted.given):
        to.write(line)
    to.flush()


@audit.command()
@click.option("--last", default=10, show_default=True, type=click.IntRange(1, 500), help="How many to show.")
@server_option
@json_option
def heads(client: Client, last: int, as_json: bool) -> int:
    """Show the newest signed heads, the public key, and exporters that fail. Exits with 1 while one fails.

    \b
    Example:
      dogwatch audit heads
    """
    found = client.get("/api/v1/audit/heads", limit=last)
    if as_json:
        print_json(found)
    else:
        click.echo(f"public key {found['public_key']}")
        for name, why in found["behind"].items():
            click.echo(click.style(f"! export to {name} fails: {why}", fg="yellow"))
        rows = [[str(one["number"]), one["kind"], one["digest"][:16], one["signer"][:16]] for one in found["heads"]]
        if rows:
            print_table(["EVENT", "KIND", "DIGEST", "KEY"], rows)
    return 1 if found["behind"] else 0
