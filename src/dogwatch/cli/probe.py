"""`dogwatch probe`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from dogwatch.cli.adhoc import AdHoc, is_ad_hoc, parse
from dogwatch.cli.client import Client, json_option, server_option, target_path
from dogwatch.cli.output import ago, milliseconds, print_json, print_table, status_text
from dogwatch.core.units import format_duration, parse_duration
from dogwatch.errors import UsageError

_PHASES = ("resolve_s", "connect_s", "tls_s", "first_byte_s", "transfer_s")


class Duration(click.ParamType[float]):
    """`5s`, `500ms`; a plain number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return float(value) if str(value).replace(".", "", 1).isdigit() else parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def probe() -> None:
    """List, show, run, pause and resume probes."""


@probe.command("list")
@click.option("--group", help="Only targets of this group.")
@click.option("--status", "only", help="Only targets in this status: up, down, degraded, pending, paused.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only targets with this label.")
@server_option
@json_option
def list_(client: Client, group: str | None, only: str | None, labels: tuple[str, ...], as_json: bool) -> None:
    """List the configured probes and how they are.

    \b
    Examples:
      dogwatch probe list --status down
      dogwatch probe list --label team=shop --json
    """
    items = client.all("/api/v1/targets", group=group, status=only, label=labels)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No probes match." if group or only or labels else "No probes are configured.")
        return
    print_table(
        ["STATUS", "TARGET", "KIND", "EVERY", "LAST", "TOOK", "ADDRESS"],
        [
            [
                status_text(item["status"]),
                item["name"],
                item["kind"],
                format_duration(item["every_s"]),
                ago(item["last_time_s"]),
                milliseconds(item["last_duration_s"]),
                item["address"],
            ]
            for item in items
        ],
        widest=6,
    )


@probe.command()
@click.argument("name")
@server_option
@json_option
def show(client: Client, name: str, as_json: bool) -> None:
    """Show one probe: its state, its last results and why the last failures failed.

    \b
    Example:
      dogwatch probe show shop
    """
    target = client.get(target_path(name))
    results = client.get(f"{target_path(name)}/results", limit=10)["items"]
    failures = client.get(f"{target_path(name)}/failures", limit=3)
    if as_json:
        print_json({"target": target, "results": results, "failures": failures})
        return
    click.echo(f"{status_text(target['status'])}  {click.style(target['name'], bold=True)}  {target['address']}")
    click.echo(f"  {target['kind']} every {format_duration(target['every_s'])}, since {ago(target['since_s'])}")
    if target["last_message"]:
        click.echo(f"  {target['last_message']}")
    for failure in failures:
        click.echo(f"  failed {ago(failure['time_s'])}: {failure['message']}")
    if results:
        click.echo()
        print_table(
            ["WHEN", "RESULT", "TOOK", "REASON"],
            [
                [
                    ago(row["time_s"]),
                    "ok" if row["success"] else "failed",
                    milliseconds(row["duration_s"]),
                    row["reason"],
                ]
                for row in results
            ],
        )


@probe.command()
@click.argument("name")
@server_option
@json_option
def pause(client: Client, name: str, as_json: bool) -> None:
    """Stop probing a target until it is resumed; this outlives restarts."""
    _changed(client.post(f"{target_path(name)}/pause"), as_json)


@probe.command()
@click.argument("name")
@server_option
@json_option
def resume(client: Client, name: str, as_json: bool) -> None:
    """Probe a paused target again."""
    _changed(client.post(f"{target_path(name)}/resume"), as_json)


def _changed(target: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(target)
    else:
        click.echo(f"{status_text(target['status'])}  {target['name']}")


@probe.command()
@click.argument("targets", nargs=-1, required=True)
@click.option("--timeout", type=Duration(), default=5.0, show_default="5s", help="Bound of one attempt.")
@click.option("--expect", metavar="CEL", help="What must be true, such as 'status == 200'.")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 10_000), help="Attempts at each target.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set an option of the probe kind.")
@click.option("--forks", default=50, show_default=True, type=click.IntRange(1, 1000), help="Attempts at once.")
@server_option
@json_option
def run(
    client: Client,
    targets: tuple[str, ...],
    timeout: float,
    expect: str | None,
    count: int,
    settings: tuple[str, ...],
    forks: int,
    as_json: bool,
) -> int:
    """Probe URLs right here, or a configured target through the daemon.

    A target is a URL (https://…, wss://…), kind://address (tcp://db-1:5432, icmp://10.0.0.1, dns://8.8.8.8/example.org,
    tls://host:443, grpc://host:50051), host:port, or the name of a configured probe. Exits with 0 when all
    succeeded, 1 when all failed, 3 when some did.

    \b
    Examples:
      dogwatch probe run https://example.org/ --expect 'status == 200 && tls_days_left > 14.0'
      dogwatch probe run db-1:5432 icmp://gateway --count 5 --json
      dogwatch probe run https://10.0.0.5/ --set verify=false
    """
    from dogwatch.probes.kinds import PROBES

    ad_hoc = [parse(text, PROBES) for text in targets if is_ad_hoc(text)]
    names = [text for text in targets if not is_ad_hoc(text)]
    rows: list[dict[str, Any]] = []
    if ad_hoc:
        from dogwatch.cli.once import probe_all

        jobs = [AdHoc(job.text, job.kind, {**job.options, **_options(settings, expect)}) for job in ad_hoc] * count
        rows += asyncio.run(probe_all(jobs, timeout_s=timeout, forks=forks, progress=_progress(len(jobs), as_json)))
    for name in names * count:
        rows.append({"target": name, **client.post(f"{target_path(name)}/run")})
    if as_json:
        print_json(rows)
    else:
        _print_results(rows)
    failed = sum(not row["success"] for row in rows)
    return 0 if not failed else 1 if failed == len(rows) else 3


def _options(settings: Sequence[str], expect: str | None) -> dict[str, object]:
    options: dict[str, object] = {"expect": expect} if expect else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write it as KEY=VALUE")
        options[key] = value
    return options


def _progress(total: int, as_json: bool) -> Any:
    if as_json or total < 20 or not sys.stderr.isatty():
        return None

    def show_progress(done: int) -> None:
        end = "\n" if done == total else ""
        click.echo(f"\r{done}/{total} attempts", nl=False, err=True)
        click.echo(end, nl=False, err=True)

    return show_progress


def _print_results(rows: Sequence[Mapping[str, Any]]) -> None:
    with_phases = any(row.get("phases") for row in rows)
    headers = ["RESULT", "TARGET", "TOOK", *(["DNS", "TCP", "TLS", "WAIT", "READ"] if with_phases else []), "WHY"]
    lines = []
    for row in rows:
        mark = click.style("✔ ok", fg="green") if row["success"] else click.style("✖ failed", fg="red")
        phases = row.get("phases") or {}
        columns = [f"{phases.get(phase, 0.0) * 1000:.1f}" for phase in _PHASES] if with_phases else []
        lines.append([mark, row["target"], milliseconds(row["duration_s"]), *columns, row["message"] or row["reason"]])
    print_table(headers, lines, widest=1)
    if with_phases:
        click.echo(click.style("phases in milliseconds", dim=True))
