"""`dogwatch report`."""

from __future__ import annotations

from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.incident import clock_time
from dogwatch.cli.output import print_json, print_table
from dogwatch.core.units import format_duration


@click.group()
def report() -> None:
    """Report availability, and what needs a person.

    \b
    Examples:
      dogwatch report availability --since 30d
      dogwatch report daily
    """


def _ratio(value: float | None) -> str:
    return "no data" if value is None else f"{int(value * 1e5) / 1e3:.3f} %"


def _row(kind: str, line: dict[str, Any]) -> list[str]:
    repair_s = line["mean_repair_s"]
    return [
        kind,
        line["name"] or ("all" if kind == "all" else "(no group)"),
        _ratio(line["ratio"]),
        str(line["outages"]),
        format_duration(line["down_s"]) if line["down_s"] else "",
        format_duration(repair_s) if repair_s else "",
        format_duration(line["maintenance_s"]) if line["maintenance_s"] else "",
    ]


@report.command()
@click.option("--since", default="30d", show_default=True, help="How far back.")
@click.option("--month", default="", metavar="YYYY-MM", help="A month instead, in UTC.")
@click.option("--filter", "q", default="", metavar="TEXT", help="Which targets: shop group:web label:team=shop.")
@click.option("--csv", "as_csv", is_flag=True, help="As CSV, times in seconds.")
@server_option
@json_option
def availability(client: Client, since: str, month: str, q: str, as_csv: bool, as_json: bool) -> None:
    """Report the availability of targets and groups; planned work counts for nobody.

    \b
    Examples:
      dogwatch report availability --since 30d
      dogwatch report availability --month 2026-10 --csv > october.csv
    """
    found = client.get("/api/v1/reports/availability", since=since, month=month, q=q)
    if as_json:
        print_json(found)
        return
    if as_csv:
        click.echo(_csv(found), nl=False)
        return
    click.echo(f"From {clock_time(found['since_s'])} until {clock_time(found['until_s'])}")
    rows = [_row("all", found["whole"])]
    rows += [_row("group", line) for line in found["groups"]]
    rows += [_row("target", line) for line in found["targets"]]
    print_table(["", "NAME", "AVAILABILITY", "OUTAGES", "DOWN", "MEAN REPAIR", "PLANNED"], rows, cut=(1,))


def _csv(found: dict[str, Any]) -> str:
    import msgspec

    from dogwatch.reports.availability import AvailabilityReport, csv_of

    return csv_of(msgspec.convert(found, AvailabilityReport))


@report.command()
@click.option("--since", default="1d", show_default=True, help="How far back.")
@click.option("--language", default="en", type=click.Choice(["en", "zh"]), show_default=True, help="Of the text.")
@server_option
@json_option
def daily(client: Client, since: str, language: str, as_json: bool) -> None:
    """Tell what was checked, what changed, and what needs a person.

    \b
    Example:
      dogwatch report daily
    """
    found = client.get("/api/v1/reports/daily", since=since, language=language)
    if as_json:
        print_json(found)
        return
    click.echo(found["text"], nl=False)
