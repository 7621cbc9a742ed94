"""`dogwatch incident`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import ago, indented, one_line, print_json, print_table
from dogwatch.core.units import format_duration
from dogwatch.errors import UsageError

_MARKS = {
    "open": ("✖", "red"),
    "acknowledged": ("◐", "yellow"),
    "merged": ("○", "bright_black"),
    "resolved": ("●", "green"),
}
_number = click.argument("number", type=click.IntRange(1, 2**53))


def _state(item: Mapping[str, Any]) -> str:
    mark, colour = _MARKS.get(item["state"], ("?", "white"))
    return click.style(f"{mark} {item['state']}", fg=colour)


def clock_time(time_s: float) -> str:
    """Return a time as this machine's wall shows it."""
    return datetime.fromtimestamp(time_s).astimezone().isoformat(sep=" ", timespec="seconds")


@click.group()
def incident() -> None:
    """List incidents, acknowledge, silence, comment and resolve them.

    \b
    Examples:
      dogwatch incident list
      dogwatch incident ack 42 --text "on it"
    """


@incident.command("list")
@click.option("--all", "every", is_flag=True, help="Also those that are over.")
@list_options("/api/v1/incidents", limit=100)
@server_option
@json_option
def list_(client: Client, every: bool, wanted: Wanted, as_json: bool) -> None:
    """List incidents, the newest first: those that are not over, unless --all or --state says more.

    \b
    Examples:
      dogwatch incident list --severity error
      dogwatch incident list --all --search team=shop --json
    """
    items = wanted.items(client, state="" if every else "active")
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No incident matches." if wanted else "No incidents." if every else "No incident is open.")
        return
    print_table(
        ["#", "STATE", "SEVERITY", "CAUSE", "EXPLAINS", "SINCE", "WHAT"],
        [
            [
                str(item["number"]),
                _state(item),
                item["severity"],
                item["root"],
                str(item["explains"] or ""),
                ago(item["began_s"]),
                one_line(item["summary"]) + (f" ({one_line(item['muted'])})" if item["muted"] else ""),
            ]
            for item in items
        ],
        cut=(3, 6),
    )
    wanted.further(items)


@incident.command()
@_number
@server_option
@json_option
def show(client: Client, number: int, as_json: bool) -> None:
    """Show an incident: its cause, what it explains in order, and what happened.

    \b
    Example:
      dogwatch incident show 42
    """
    found = client.get(f"/api/v1/incidents/{number}")
    if as_json:
        print_json(found)
        return
    item = found["incident"]
    click.echo(f"#{item['number']} {_state(item)} {item['severity']}: {one_line(item['summary'])}")
    if item["reason"]:
        click.echo(indented(item["reason"]))
    ended_s = item["ended_s"] or time.time()
    click.echo(f"  since {clock_time(item['began_s'])}, for {format_duration(max(0.0, ended_s - item['began_s']))}")
    if item["acked_by"]:
        click.echo(f"  acknowledged by {item['acked_by']}")
    if item["muted"]:
        click.echo(f"  nobody is told: {one_line(item['muted'])}")
    if item["into"]:
        click.echo(f"  its cause is #{item['into']}")
    if found["explains"]:
        click.echo("\nHolds, the first first:")
        for alert in found["explains"]:
            click.echo(f"  {clock_time(alert['since_s'])}  {alert['target']}: {one_line(alert['summary'])}")
    click.echo("\nWhat happened:")
    for note in found["timeline"]:
        who = f" by {note['actor']}" if note["actor"] else ""
        text = f": {one_line(note['text'])}" if note["text"] else ""
        click.echo(f"  {clock_time(note['time_s'])}  {note['kind']}{who}{text}")


def _order(client: Client, number: int, verb: str, text: str, as_json: bool) -> None:
    item = client.post(f"/api/v1/incidents/{number}/{verb}", {"text": text})
    if as_json:
        print_json(item)
        return
    click.echo(f"#{item['number']} {_state(item)}: {one_line(item['summary'])}")


@incident.command()
@_number
@click.option("--text", default="", help="What you are doing about it.")
@click.option("--undo", is_flag=True, help="Take it back: reminders and escalation go on.")
@server_option
@json_option
def ack(client: Client, number: int, text: str, undo: bool, as_json: bool) -> None:
    """Acknowledge: no more reminders, nobody else is told.

    \b
    Example:
      dogwatch incident ack 42 --text "on it"
    """
    _order(client, number, "unack" if undo else "ack", text, as_json)


@incident.command()
@_number
@click.argument("text")
@server_option
@json_option
def comment(client: Client, number: int, text: str, as_json: bool) -> None:
    """Say something in the timeline of an incident.

    \b
    Example:
      dogwatch incident comment 42 "the disk is full"
    """
    _order(client, number, "comment", text, as_json)


@incident.command()
@_number
@click.option("--text", default="", help="Why; whoever is told reads it.")
@server_option
@json_option
def escalate(client: Client, number: int, text: str, as_json: bool) -> None:
    """Tell the next step of the escalation now, instead of when its time comes.

    \b
    Example:
      dogwatch incident escalate 42 --text "I cannot reach the switch"
    """
    _order(client, number, "escalate", text, as_json)


@incident.command()
@_number
@click.option("--text", default="", help="Why.")
@server_option
@json_option
def resolve(client: Client, number: int, text: str, as_json: bool) -> None:
    """Close an incident by hand; what is wrong opens another only after it ended once.

    \b
    Example:
      dogwatch incident resolve 42 --text "taken out of service"
    """
    _order(client, number, "resolve", text, as_json)


@incident.command()
@click.argument("number", type=click.IntRange(1, 2**53), required=False)
@click.option("--for", "duration", default="1h", show_default=True, help="How long, as in 2h.")
@click.option("--rule", default="", help="All incidents of a rule.")
@click.option("--target", "targets", multiple=True, help="All whose cause has this name; * and ? stand for others.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="All that carry this label.")
@click.option("--reason", default="", help="Why.")
@server_option
@json_option
def silence(
    client: Client,
    number: int | None,
    duration: str,
    rule: str,
    targets: tuple[str, ...],
    labels: tuple[str, ...],
    reason: str,
    as_json: bool,
) -> None:
    """Tell nobody for a time, of one incident or of all that the options choose.

    \b
    Examples:
      dogwatch incident silence 42 --for 2h --reason "known"
      dogwatch incident silence --label team=shop --for 30m
    """
    if any("=" not in label for label in labels):
        raise UsageError("a label is written KEY=VALUE")
    body = {
        "duration": duration,
        "number": number or 0,
        "rule": rule,
        "targets": list(targets),
        "match": dict(label.split("=", 1) for label in labels),
        "reason": reason,
    }
    found = client.post("/api/v1/silences", body)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['silence_id']}: silent until {clock_time(found['until_s'])}")


@incident.command()
@list_options("/api/v1/silences")
@server_option
@json_option
def silences(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List the silences that are on.

    \b
    Example:
      dogwatch incident silences --search ann
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No silence matches." if wanted else "Nothing is silenced.")
        return
    print_table(
        ["SILENCE", "UNTIL", "WHAT", "BY", "REASON"],
        [
            [
                item["silence_id"],
                clock_time(item["until_s"]),
                one_line(_what(item)),
                item["by"],
                one_line(item["reason"]),
            ]
            for item in items
        ],
        cut=(2, 4),
    )


def _what(item: Mapping[str, Any]) -> str:
    parts = [f"#{item['number']}"] if item["number"] else []
    parts += [item["rule"]] if item["rule"] else []
    return " ".join([*parts, *item["targets"], *(f"{key}={value}" for key, value in item["match"].items())])


@incident.command()
@click.argument("silence_id")
@server_option
def unsilence(client: Client, silence_id: str) -> None:
    """End a silence.

    \b
    Example:
      dogwatch incident unsilence sil_0123456789ab
    """
    client.delete(f"/api/v1/silences/{silence_id}")
    click.echo(f"{silence_id}: ended")
