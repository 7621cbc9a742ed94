"""`dogwatch rule`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.incident import clock_time
from dogwatch.cli.output import one_line, print_json, print_table
from dogwatch.core.units import format_duration, parse_duration
from dogwatch.errors import ConfigError, UsageError

_config = click.option("-c", "--config", "paths", multiple=True, metavar="PATH", help="The configuration.")
_SHOWN = 50


@click.group()
def rule() -> None:
    """List rules, check them, and try them on recorded history.

    \b
    Examples:
      dogwatch rule check
      dogwatch rule backtest --since 30d -c new.yaml
    """


@rule.command("list")
@server_option
@json_option
def list_(client: Client, as_json: bool) -> None:
    """List the rules in force, and how many of their alerts are out.

    \b
    Example:
      dogwatch rule list
    """
    items = client.get("/api/v1/rules")
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No rules are configured; the thresholds of probes are always on.")
        return
    print_table(
        ["RULE", "FIRING", "SEVERITY", "FOR", "WHEN"],
        [
            [
                item["name"],
                str(item["firing"]) if item["enabled"] else "off",
                item["severity"],
                format_duration(item["for_s"]) if item["for_s"] else "",
                one_line(item["when"]),
            ]
            for item in items
        ],
        cut=(0, 4),
    )


def _read(paths: Sequence[str]) -> list[Any]:
    """Return the rules of the configuration files. Raises: ConfigError."""
    # Loading a configuration loads every feature: not for commands that only ask a daemon.
    from dogwatch.app import RULES
    from dogwatch.cli.config import find_paths
    from dogwatch.config.load import Loader
    from dogwatch.daemon.sections import SECTIONS

    environ = dict(os.environ)
    loader = Loader(find_paths(paths, environ), SECTIONS, environ=environ)
    found = loader.validate(loader.parse()).get(RULES)
    return list(found)


@rule.command()
@_config
@json_option
def check(paths: tuple[str, ...], as_json: bool) -> int:
    """Check the rules of the configuration, without a daemon.

    \b
    Examples:
      dogwatch rule check
      dogwatch rule check -c rules.yaml
    """
    try:
        rules = _read(paths)
    except ConfigError as error:
        if as_json:
            problems = [
                {"message": one.message, "path": one.path, "file": one.file, "line": one.line, "hint": one.hint}
                for one in error.problems
            ]
            print_json({"ok": False, "problems": problems})
        else:
            for problem in error.problems:
                click.echo(str(problem), err=True)
        return error.exit_code
    if as_json:
        print_json({"ok": True, "rules": [one.name for one in rules]})
    else:
        click.echo(f"ok: {len(rules)} rule{'' if len(rules) == 1 else 's'}")
    return 0


def _rehearse(client: Client, since: str, paths: Sequence[str]) -> Any:
    try:
        since_s = parse_duration(since)
    except ValueError as error:
        raise UsageError(str(error)) from None
    body: dict[str, object] = {"since_s": since_s}
    if paths:
        from dogwatch.rules.remedy.text import on_wire

        body["rules"] = [on_wire(one) for one in _read(paths)]
    return client.post("/api/v1/rules/backtest", body)


@rule.command()
@click.option("--since", default="1h", show_default=True, help="How much history is looked at.")
@_config
@server_option
@json_option
def plan(client: Client, since: str, paths: tuple[str, ...], as_json: bool) -> None:
    """Say which incidents rules would have open now. With -c those of the files, else those in force.

    \b
    Example:
      dogwatch rule plan -c new.yaml
    """
    found = _rehearse(client, since, paths)
    items = [item for item in found["incidents"] if item["ended_s"] is None]
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo(f"Nothing would be open now, after {found['signals']} signals.")
    for item in items:
        click.echo(_line(item))


@rule.command()
@click.option("--since", default="30d", show_default=True, help="How far back.")
@click.option("--against", multiple=True, metavar="PATH", help="Files with other rules, to compare with.")
@_config
@server_option
@json_option
def backtest(client: Client, since: str, against: tuple[str, ...], paths: tuple[str, ...], as_json: bool) -> None:
    """Say what rules would have done with what was recorded: incidents, notices, what was told as one.

    \b
    Examples:
      dogwatch rule backtest --since 30d
      dogwatch rule backtest --since 7d --against new.yaml
    """
    found = _rehearse(client, since, paths)
    other = _rehearse(client, since, against) if against else None
    if as_json:
        print_json(found if other is None else {"first": found, "second": other})
        return
    _show(found)
    if other is not None:
        click.echo("\nWith the other rules:")
        _show(other)
        less = len(found["notices"]) - len(other["notices"])
        click.echo(f"\n{abs(less)} notices {'fewer' if less >= 0 else 'more'} with the other rules.")


def _show(found: Mapping[str, Any]) -> None:
    click.echo(f"{found['signals']} signals from {clock_time(found['since_s'])} to {clock_time(found['until_s'])}")
    for item in found["incidents"][-_SHOWN:]:
        click.echo(f"  {_line(item)}")
    if len(found["incidents"]) > _SHOWN:
        click.echo(f"  and {len(found['incidents']) - _SHOWN} before these")
    alerts = sum(found["fired"].values())
    click.echo(
        f"{len(found['incidents'])} incidents, {len(found['notices'])} notices for {alerts} alerts; "
        f"{found['suppressed']} were told as a part of another"
    )


def _line(item: Mapping[str, Any]) -> str:
    ended = f"{format_duration(item['ended_s'] - item['began_s'])}" if item["ended_s"] else "open"
    return f"{clock_time(item['opened_s'])}  {item['severity']:8}  {ended:>8}  {one_line(item['summary'])}"
