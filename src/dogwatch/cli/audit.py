"""`dogwatch audit`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.output import one_line, print_json, print_table
from dogwatch.core.units import parse_duration
from dogwatch.errors import DogwatchError, UsageError


@click.group()
def audit() -> None:
    """The audit trail: search, verify, export.

    \b
    Examples:
      dogwatch audit list --since 1d
      dogwatch audit verify --heads /mnt/elsewhere/heads.jsonl
    """


def _since(text: str | None) -> float | None:
    try:
        return None if text is None else time.time() - parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


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


def _show(client: Client, as_json: bool, limit: int, **wanted: object) -> None:
    items = client.get("/api/v1/audit", limit=min(limit, 500), **wanted)["items"]
    if as_json:
        print_json(items)
    elif items:
        _print(items)
    else:
        click.echo("No event matches.")


@audit.command("list")
@click.option("--actor", help="Who: user:ann, or the beginning, user:.")
@click.option("--verb", help="What was done: pause, create, login…")
@click.option("--noun", help="On what kind of thing: probe, user, token…")
@click.option("--name", help="On which one.")
@click.option("--outcome", type=click.Choice(["done", "refused", "failed", "begun"]), help="How it ended.")
@click.option("--since", metavar="TIME", help="Not older than this: 1h, 7d.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 500), help="Events at most.")
@server_option
@json_option
def list_(
    client: Client,
    actor: str | None,
    verb: str | None,
    noun: str | None,
    name: str | None,
    outcome: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List events, newest first.

    \b
    Examples:
      dogwatch audit list --actor user:ann --since 7d
      dogwatch audit list --outcome refused
    """
    wanted = {"actor": actor, "verb": verb, "noun": noun, "name": name, "outcome": outcome, "since_s": _since(since)}
    _show(client, as_json, limit, **wanted)


@audit.command()
@click.argument("text")
@click.option("--since", metavar="TIME", help="Not older than this: 1h, 7d.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 500), help="Events at most.")
@server_option
@json_option
def search(client: Client, text: str, since: str | None, limit: int, as_json: bool) -> None:
    """Find events with a text anywhere in them.

    \b
    Example:
      dogwatch audit search 192.0.2.7
    """
    _show(client, as_json, limit, text=text, since_s=_since(since))


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
@click.option("--since", metavar="TIME", help="Not older than this: 30d.")
@click.option("-o", "--output", type=click.File("wb"), help="File to write; the output else.")
@server_option
def export(client: Client, since: str | None, output: Any) -> None:
    """Write events as JSON Lines, newest first.

    \b
    Example:
      dogwatch audit export --since 30d -o audit.jsonl
    """
    to = output or sys.stdout.buffer
    for line in client.lines("/api/v1/audit/export", since_s=_since(since)):
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
