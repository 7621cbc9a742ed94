"""`dogwatch notify`: destinations, what was sent to them, what was not, and sending it again."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import ago, one_line, print_json, print_table

_COLOURS = {"delivered": "green", "dead": "red", "sending": "yellow"}
_LOOK_S = 0.3


@click.group()
def notify() -> None:
    """Show destinations and messages, test them, send again.

    \b
    Examples:
      dogwatch notify test ops
      dogwatch notify outbox --state dead
      dogwatch notify redeliver --all ops
    """


@notify.command("list")
@list_options("/api/v1/notify")
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> int:
    """List destinations. Exits with 1 while one of them is not reached.

    \b
    Example:
      dogwatch notify list
    """
    views = wanted.items(client)
    if as_json:
        print_json(views)
    elif not views:
        click.echo("No destination matches." if wanted else "No destinations are configured.")
    else:
        rows = [
            (
                view["name"] if view["known"] else f"{view['name']} (not configured)",
                view["kind"] or "-",
                one_line(view["address"]) or "-",
                str(view["queued"] + view["sending"]),
                str(view["delivered"]),
                click.style(str(view["dead"]), fg="red" if view["dead"] else None),
            )
            for view in views
        ]
        below = [
            f"not reached for {ago(view['trouble_since_s']).removesuffix(' ago')}: {view['trouble']}"
            if view["trouble"]
            else ""
            for view in views
        ]
        heads = ("DESTINATION", "CHANNEL", "ADDRESS", "WAITING", "DELIVERED", "DEAD")
        print_table(heads, rows, cut=(2, 0), below=below)
    return 1 if any(view["trouble"] for view in views) else 0


@notify.command()
@click.argument("name")
@click.option("--wait", "wait_s", default=30.0, show_default=True, help="Seconds to wait until it is delivered.")
@server_option
@json_option
def test(client: Client, name: str, wait_s: float, as_json: bool) -> int:
    """Send a test message and say what became of it. Exits with 1 where it did not arrive.

    \b
    Example:
      dogwatch notify test ops
    """
    queued = client.post(f"/api/v1/notify/{quote(name, safe='')}/test")
    path = f"/api/v1/outbox/{queued['message_id']}"
    until_s = time.monotonic() + wait_s
    row: dict[str, Any] = client.get(path)
    # A failed attempt is an answer, too: a person at a terminal does not want to wait for all of them.
    while row["state"] in ("queued", "sending") and not row["reason"] and time.monotonic() < until_s:
        time.sleep(_LOOK_S)
        row = client.get(path)
    if as_json:
        print_json(row)
    else:
        _print_row(row)
    return 0 if row["state"] == "delivered" else 1


@notify.command()
@click.argument("name")
@click.option("--title", default="", help="Of the message; without title and text an example is shown.")
@click.option("--text", default="", help="Of the message.")
@click.option("--type", "kind", default="incident.opened", show_default=True, help="Of the message.")
@click.option(
    "--severity",
    type=click.Choice(["info", "warning", "error", "critical"]),
    default="critical",
    show_default=True,
    help="Of the message.",
)
@server_option
@json_option
def preview(client: Client, name: str, title: str, text: str, kind: str, severity: str, as_json: bool) -> None:
    """Show what a destination would be sent, with its templates filled in. Nothing is sent.

    \b
    Examples:
      dogwatch notify preview ops
      dogwatch notify preview ops --title "disk full" --severity warning --json
    """
    body = {"type": kind, "title": title, "text": text, "severity": severity}
    found = client.post(f"/api/v1/notify/{quote(name, safe='')}/preview", body)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['kind']} to {one_line(found['address'])}")
    click.echo(click.style(one_line(found["title"]), bold=True))
    _print_lines(found["text"])
    click.echo("as it is sent:")
    content = found["content"]
    shown = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
    _print_lines(shown)


@notify.command()
@list_options("/api/v1/outbox", limit=20, also={"limit": ("--last",), "destination": ("--to",)})
@server_option
@json_option
def outbox(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List messages, newest first.

    \b
    Example:
      dogwatch notify outbox --state dead --to ops
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No message matches." if wanted else "Nothing was sent yet.")
        return
    rows = [
        (
            one["message_id"],
            one["destination"],
            click.style(one["state"], fg=_COLOURS.get(one["state"])),
            ago(one["created_s"]),
            str(one["attempts"]),
            one_line(one["message"]["title"] or one["message"]["type"]),
        )
        for one in items
    ]
    below = [one["reason"] if one["state"] != "delivered" else "" for one in items]
    print_table(("MESSAGE", "TO", "STATE", "MADE", "TRIES", "TITLE"), rows, cut=(5,), below=below)
    wanted.further(items)


@notify.command()
@click.argument("message_id", metavar="[ID]", required=False)
@click.option("--all", "destination", metavar="DESTINATION", help="All dead letters of a destination.")
@server_option
@json_option
def redeliver(client: Client, message_id: str | None, destination: str | None, as_json: bool) -> None:
    """Send an ended message again, under the same id, so that receivers know it again.

    \b
    Examples:
      dogwatch notify redeliver msg_0644b1
      dogwatch notify redeliver --all ops
    """
    if (message_id is None) == (destination is None):
        raise click.UsageError("name a message, or --all and a destination")
    if destination is not None:
        answer = client.post(f"/api/v1/notify/{quote(destination, safe='')}/redeliver")
        if as_json:
            print_json(answer)
        else:
            click.echo(f"{answer['messages']} messages go again.")
        return
    row = client.post(f"/api/v1/outbox/{quote(str(message_id), safe='')}/redeliver")
    if as_json:
        print_json(row)
    else:
        _print_row(row)


@notify.command()
def secret() -> None:
    """Print a new secret for a signed webhook. Nothing is kept.

    \b
    Example:
      dogwatch notify secret > /run/secrets/webhook
    """
    from dogwatch.notify.standard import new_secret

    click.echo(new_secret())


def _print_lines(text: str) -> None:
    for line in text.splitlines():
        # What a terminal would obey is not let through; how far it is indented is.
        bare = line.lstrip(" ")
        click.echo(f"  {' ' * (len(line) - len(bare))}{one_line(bare)}")


def _print_row(row: dict[str, Any]) -> None:
    state = click.style(row["state"], fg=_COLOURS.get(row["state"]), bold=True)
    told = f": {one_line(row['reason'])}" if row["reason"] else ""
    click.echo(f"{row['message_id']}  {row['destination']}  {state}, tried {row['attempts']} times{told}")
