"""`dogwatch schedule`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from dogwatch.cli.client import DEFAULT_SERVER, Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import ago, indented, one_line, print_json, print_table, until
from dogwatch.core.units import parse_duration
from dogwatch.errors import DogwatchError, NotFound, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from dogwatch.config.section import Section

_MARKS = {
    "active": ("●", "green"),
    "started": ("●", "green"),
    "manual": ("●", "green"),
    "paused": ("‖", "bright_black"),
    "disabled": ("‖", "bright_black"),
    "ended": ("○", "bright_black"),
    "unknown": ("○", "bright_black"),
    "behind": ("◐", "yellow"),
    "superseded": ("◐", "yellow"),
    "missed": ("◐", "yellow"),
    "refused": ("◐", "yellow"),
    "failed": ("✖", "red"),
}


def _state(state: str) -> str:
    mark, colour = _MARKS.get(state, ("?", "white"))
    return click.style(f"{mark} {state}", fg=colour)


def _path(name: str) -> str:
    return f"/api/v1/schedules/{quote(os.fsencode(name), safe='')}"


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    server = context.params.get("server") or os.environ.get("DOGWATCH_SERVER") or DEFAULT_SERVER
    try:
        items = Client(str(server), timeout_s=1.0).all("/api/v1/schedules")
        return [CompletionItem(one["name"], help=one["when"]) for one in items if one["name"].startswith(incomplete)]
    except (DogwatchError, KeyError, TypeError):
        # A message would land in the middle of the line that is being typed.
        return []


@click.group()
def schedule() -> None:
    """List, show, pause, resume and run schedules; see when they fire next.

    \b
    Examples:
      dogwatch schedule list
      dogwatch schedule next --offline
    """


@schedule.command("list")
@list_options("/api/v1/schedules")
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List the schedules: when they fired last and fire next.

    \b
    Examples:
      dogwatch schedule list --job backup
      dogwatch schedule list --label team=shop --json
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No schedules match." if wanted else "No schedules are configured.")
        return
    print_table(
        ["STATE", "SCHEDULE", "JOB", "WHEN", "NEXT", "LAST", "BECAME"],
        [
            [
                _state(item["state"]),
                item["name"],
                item["job"],
                one_line(item["when"]),
                until(item["next_s"]),
                ago(item["last"]["claimed_s"]) if item["last"] else "never",
                _became(item),
            ]
            for item in items
        ],
        cut=(1, 2, 3),
    )


def _became(item: Mapping[str, Any]) -> str:
    """Return the state of the newest run, or why there is none."""
    last = item["last"]
    if last is None:
        return "-"
    return str(item["last_run_state"] or last["state"])


@schedule.command()
@click.argument("name", shell_complete=_complete)
@server_option
@json_option
def show(client: Client, name: str, as_json: bool) -> None:
    """Show one schedule: its state, its next fires and what became of the last ones.

    \b
    Example:
      dogwatch schedule show nightly-backup
    """
    item = client.get(_path(name))
    fires = client.get(f"{_path(name)}/fires", limit=10)["items"]
    times = client.get(f"{_path(name)}/next", count=5)["times_s"]
    if as_json:
        print_json({"schedule": item, "next_s": times, "fires": fires})
        return
    click.echo(f"{_state(item['state'])}  {click.style(item['name'], bold=True)}  {one_line(item['when'])}")
    if item["reason"]:
        click.echo(indented(item["reason"]))
    click.echo(f"  starts {item['job']}; {item['fired']} started, {item['refused']} refused, {item['missed']} missed")
    for time_s in times if item["state"] != "paused" else ():
        click.echo(f"  next {_when(time_s)} ({until(time_s)})")
    if fires:
        click.echo()
        print_table(
            ["WHEN", "STATE", "FIRE", "RUN"],
            [[ago(row["claimed_s"]), _state(row["state"]), row["fire"], row["run_id"] or "-"] for row in fires],
            below=[row["reason"] for row in fires],
        )


def _when(time_s: float, zone: str | None = None) -> str:
    from zoneinfo import ZoneInfo

    shown = datetime.fromtimestamp(time_s, ZoneInfo(zone)) if zone else datetime.fromtimestamp(time_s).astimezone()
    return shown.isoformat(sep=" ", timespec="seconds")


@schedule.command("next")
@click.argument("name", required=False, default="", shell_complete=_complete)
@click.option("-n", "--count", type=click.IntRange(1, 100), default=5, show_default=True, help="How many fires.")
@click.option("--offline", is_flag=True, help="From the configuration, without a daemon.")
@click.option("-c", "--config", "paths", multiple=True, metavar="PATH", help="The configuration; implies --offline.")
@click.option("--after", metavar="TIME", default="", help="Offline: after this time, `2026-12-24T18:00`, or in `7d`.")
@server_option
@json_option
def next_(
    client: Client, name: str, count: int, offline: bool, paths: tuple[str, ...], after: str, as_json: bool
) -> None:
    """Tell when schedules fire next; of all of them, in order of time, or of one.

    With --offline it is worked out from the configuration: windows, zones, spread and jitter included.

    \b
    Examples:
      dogwatch schedule next nightly-backup -n 10
      dogwatch schedule next -c dogwatch.yaml --after 2027-03-27
    """
    if offline or paths:
        found = _offline(paths, name, count, after)
    elif after:
        raise UsageError("--after needs the configuration", hint="add --offline or -c")
    elif name:
        found = [client.get(f"{_path(name)}/next", count=count)]
    else:
        items = client.all("/api/v1/schedules")
        found = [
            {"name": item["name"], "job": item["job"], "times_s": [item["next_s"]]}
            for item in items
            if item["next_s"] is not None
        ]
    rows = sorted((time_s, one["name"], one["job"], one.get("zone")) for one in found for time_s in one["times_s"])
    if not name:
        rows = rows[:count]
    if as_json:
        print_json([{"time_s": time_s, "schedule": schedule, "job": job} for time_s, schedule, job, _zone in rows])
    elif not rows:
        click.echo("Nothing fires.")
    else:
        print_table(
            ["TIME", "IN", "SCHEDULE", "JOB"],
            [[_when(time_s, zone), until(time_s), one, job] for time_s, one, job, zone in rows],
        )


def _sections() -> Sequence[Section[Any]]:
    from dogwatch.daemon.sections import SECTIONS

    return SECTIONS


def _offline(
    paths: Sequence[str], name: str, count: int, after: str, sections: Callable[[], Sequence[Section[Any]]] = _sections
) -> list[dict[str, Any]]:
    """Return the next fires by the configuration alone."""
    from dogwatch.cli.config import find_paths
    from dogwatch.config.load import Loader
    from dogwatch.core.component import nearest
    from dogwatch.engine.schedules.decide import next_fires
    from dogwatch.engine.schedules.plan import build_plan, shared_zones

    known = sections()
    section = next((one for one in known if one.key == "schedules"), None)
    if section is None:
        raise NotFound("there are no schedules in this program")
    environ = dict(os.environ)
    specs = Loader(find_paths(paths, environ), known, environ=environ).load().get(section)
    if name and name not in [spec.name for spec in specs]:
        names = [spec.name for spec in specs]
        raise NotFound(f"there is no schedule '{name}'", hint=nearest(name, names) if names else "")
    zones = shared_zones()
    found = []
    for spec in specs:
        if (name or not spec.paused) and name in ("", spec.name):
            after_s = _after(after, zones(spec.time_zone))
            times = [fire.due_s for fire in next_fires(build_plan(spec, zones), after_s, count)]
            found.append({"name": spec.name, "job": spec.job, "zone": spec.time_zone, "times_s": times})
    return found


def _after(text: str, zone: Any) -> float:
    from dogwatch.engine.schedules.dates import moment

    if not text:
        return time.time()
    try:
        return time.time() + parse_duration(text)
    except ValueError:
        pass
    try:
        return moment(text, zone)
    except ValueError as error:
        raise UsageError(f"--after: {error}") from None


@schedule.command()
@click.argument("name", shell_complete=_complete)
@click.option("--reason", default="", help="Why; it is shown and kept in the audit trail.")
@server_option
@json_option
def pause(client: Client, name: str, reason: str, as_json: bool) -> None:
    """Let a schedule fire no more until it is resumed; this outlives restarts.

    \b
    Example:
      dogwatch schedule pause nightly-backup --reason "disk is being replaced"
    """
    _changed(client.post(f"{_path(name)}/pause", {"reason": reason}), as_json)


@schedule.command()
@click.argument("name", shell_complete=_complete)
@click.option("--from-now", is_flag=True, help="Do not wait for a clock that was set back; nothing runs twice.")
@server_option
@json_option
def resume(client: Client, name: str, from_now: bool, as_json: bool) -> None:
    """Let a schedule fire again from now on; what the pause passed over is not made up for.

    \b
    Example:
      dogwatch schedule resume nightly-backup
    """
    _changed(client.post(f"{_path(name)}/resume", {"from_now": from_now}), as_json)


@schedule.command()
@click.argument("name", shell_complete=_complete)
@click.option("--key", default="", help="With the same key, a second command starts nothing new.")
@click.option("--reason", default="", help="Why; it is kept with the run.")
@server_option
@json_option
def run(client: Client, name: str, key: str, reason: str, as_json: bool) -> None:
    """Start a schedule's job now, with its parameters, paused or not.

    \b
    Example:
      dogwatch schedule run nightly-backup
    """
    started = client.post(f"{_path(name)}/run", {"key": key, "reason": reason})
    if as_json:
        print_json(started)
    else:
        told = "started" if started["created"] else "was started before with this key:"
        click.echo(f"{told} {started['run_id']} of {started['job']}")


def _changed(item: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(item)
        return
    following = f", next {until(item['next_s'])}" if item["next_s"] is not None else ""
    click.echo(f"{_state(item['state'])}  {item['name']}{following}")
    if item["reason"]:
        click.echo(indented(item["reason"]))
