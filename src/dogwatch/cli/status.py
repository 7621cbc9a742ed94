"""`dogwatch status`."""

from __future__ import annotations

from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.output import ago, milliseconds, one_line, print_json, print_table, status_text

_ORDER = ("down", "degraded", "pending", "maintenance", "paused", "up")


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Show targets that are up, too.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when a target is down.")
@server_option
@json_option
def status(client: Client, show_all: bool, exit_code: bool, as_json: bool) -> int:
    """Show what is wrong now, first.

    \b
    Examples:
      dogwatch status
      dogwatch status --exit-code && deploy
    """
    summary = client.get("/api/v1/status")
    targets = client.all("/api/v1/targets")
    if as_json:
        print_json({"summary": summary, "targets": targets})
    else:
        _print(summary, targets, show_all=show_all)
    return 1 if exit_code and any(target["status"] == "down" for target in targets) else 0


def _troubles(summary: dict[str, Any]) -> list[str]:
    """Return what is wrong with Dogwatch itself."""
    troubles = [summary["store_trouble"]] if summary["store_trouble"] else []
    reload = summary["reload"]
    if reload is not None and reload["outcome"] == "failed":
        troubles.append("the newest configuration has mistakes, the one before is in force: see dogwatch reload status")
    if summary["findings"]:
        troubles.append(f"{summary['findings']} finding(s) of the self-watch: see /api/v1/findings")
    return troubles


def _print(summary: dict[str, Any], targets: list[dict[str, Any]], *, show_all: bool) -> None:
    counts = {word: sum(target["status"] == word for target in targets) for word in _ORDER}
    troubles = _troubles(summary)
    shown = [target for target in targets if show_all or target["status"] not in ("up", "paused")]
    line = "  ".join(f"{status_text(word)} {count}" for word, count in counts.items() if count) or "no targets"
    click.echo(line if shown or troubles or not targets else f"{line}  nothing is wrong")
    for trouble in troubles:
        click.echo(click.style(f"! {trouble}", fg="yellow"))
    if not shown:
        if not targets:
            click.echo("Nothing is watched yet; add an entry below 'probes:' in the configuration.")
        return
    shown.sort(key=lambda target: (_ORDER.index(target["status"]), target["name"]))
    click.echo()
    print_table(
        ["STATUS", "TARGET", "SINCE", "TOOK", "WHY"],
        [
            [
                status_text(target["status"]),
                target["name"],
                ago(target["since_s"]),
                milliseconds(target["last_duration_s"]),
                one_line(target["last_message"] or target["last_reason"]),
            ]
            for target in shown
        ],
        cut=(1, 4),
    )
