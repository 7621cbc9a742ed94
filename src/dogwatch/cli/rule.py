"""`dogwatch rule`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from dogwatch.cli.backtest import line, read_rules, seconds
from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import one_line, print_json, print_table
from dogwatch.core.units import format_duration
from dogwatch.errors import ConfigError

_config = click.option("-c", "--config", "paths", multiple=True, metavar="PATH", help="The configuration.")


@click.group()
def rule() -> None:
    """List rules, check them, and say what they would have open now.

    \b
    Examples:
      dogwatch rule check
      dogwatch rule plan -c new.yaml
    """


@rule.command("list")
@list_options("/api/v1/rules")
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List the rules in force, and how many of their alerts are out.

    \b
    Example:
      dogwatch rule list --search disk
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        none = "No rules are configured; the thresholds of probes are always on."
        click.echo("No rule matches." if wanted else none)
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
        rules = read_rules(paths)
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
    body: dict[str, object] = {"since_s": seconds(since)}
    if paths:
        from dogwatch.rules.remedy.text import on_wire

        body["rules"] = [on_wire(one) for one in read_rules(paths)]
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
        click.echo(line(item))
