"""`dogwatch run`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.following import (
    Lines,
    PlainScreen,
    Quiet,
    exit_code,
    follow,
    going_on,
    pieces,
    run_path,
    screen,
    step_text,
    took,
)
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.names import complete_jobs, complete_runs
from dogwatch.cli.output import ago, indented, one_line, print_json, print_table, status_text, waits_text
from dogwatch.errors import UsageError

_STATES = ("open", "scheduled", "queued", "running", "paused", "succeeded", "failed", "cancelled")


@click.group()
def run() -> None:
    """List, follow, cancel, approve and rerun runs of jobs.

    A run is named by its id, or by a beginning of it that only one run has.

    \b
    Examples:
      dogwatch run list --state open
      dogwatch run logs -f 0199f3
      dogwatch run rerun --failed 0199f3
    """


@run.command("list")
@list_options("/api/v1/runs", limit=30, choices={"state": _STATES}, complete={"job": complete_jobs})
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List runs, newest first.

    \b
    Examples:
      dogwatch run list --job deploy --state failed --since 7d
      dogwatch run list --state open --label team=shop --json
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No runs match." if wanted else "Nothing has run yet.")
        return
    print_table(
        ["STATE", "RUN", "JOB", "CREATED", "TOOK", "WHY"],
        [
            [
                status_text(one["state"]),
                one["run_id"],
                one_line(one["job"]),
                ago(one["created_s"]),
                took(one),
                one_line(_why(one)),
            ]
            for one in items
        ],
        cut=(2, 5),
    )
    wanted.further(items)


def _why(one: Mapping[str, Any]) -> str:
    if one["waiting_for"] and not one["ended"]:
        return waits_text(one["waiting_for"])
    return str(one["reason"]) or _trigger(one)


def _trigger(one: Mapping[str, Any]) -> str:
    if one["trigger"]["kind"] == "manual":
        return f"by {one['actor']['name']}"
    return f"{one['trigger']['kind']} {one['trigger']['name']}".strip()


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@server_option
@json_option
def show(client: Client, run_id: str, as_json: bool) -> None:
    """Show one run: its state, parameters and steps.

    \b
    Example:
      dogwatch run show 0199f3
    """
    found = client.get(run_path(run_id))
    steps = client.all(f"{run_path(found['run_id'])}/steps")
    from dogwatch.cli.fleet_remote import hosts_of_run, print_hosts

    fleet = hosts_of_run(client, found["run_id"]) if any(step["kind"] == "ssh" for step in steps) else []
    if as_json:
        print_json({"run": found, "steps": steps, **({"fleet": fleet} if fleet else {})})
        return
    print_run(found, steps)
    print_hosts(client, fleet)


def print_run(found: Mapping[str, Any], steps: list[Any]) -> None:
    """Print a run and its steps for people."""
    click.echo(f"{status_text(found['state'])}  {click.style(one_line(found['job']), bold=True)}  {found['run_id']}")
    facts = [f"created {ago(found['created_s'])} ({_trigger(found)})", f"took {took(found)}"]
    if found["worker"] and not found["ended"]:
        facts.append(f"on {one_line(found['worker'])}")
    click.echo(f"  {', '.join(facts)}")
    if found["reason"]:
        click.echo(indented(found["reason"]))
    if found["waiting_for"] and not found["ended"]:
        click.echo(indented(waits_text(found["waiting_for"])))
    for name, value in found["parameters"].items():
        click.echo(indented(f"{name} = {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"))
    click.echo()
    for step in steps:
        click.echo(_cut(f"  {step_text(step)}"))


def _cut(text: str) -> str:
    from dogwatch.cli.output import width

    room = width()
    plain = click.unstyle(text)
    return text if room is None or len(plain) <= room else f"{plain[: room - 1]}…"


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@click.option("-f", "--follow", "live", is_flag=True, help="Go on until the run has ended.")
@click.option("--step", default="", help="Only output of this step.")
@click.option("--grep", default="", metavar="TEXT", help="Only lines that hold this text, in either case.")
@server_option
@json_option
def logs(client: Client, run_id: str, live: bool, step: str, grep: str, as_json: bool) -> int:
    """Print a run's output. With --json, each piece is one object on a line.

    \b
    Examples:
      dogwatch run logs 0199f3 --step build --grep error
      dogwatch run logs -f 0199f3
    """
    found = client.get(run_path(run_id))
    wanted = grep.lower()
    if as_json:
        source = _live_pieces(client, found["run_id"], step) if live else pieces(client, found["run_id"], step)
        for piece in source:
            if wanted in piece["text"].lower():
                click.echo(msgspec.json.encode(piece))
        return 0
    plain = PlainScreen(steps=live, keep=lambda line: wanted in line.lower(), bare=bool(step))
    if not live:
        lines = Lines(plain.line)
        for piece in pieces(client, found["run_id"], step):
            lines.add(piece)
        lines.flush()
        return 0
    try:
        ended = follow(client, found["run_id"], screen() if not (grep or step) else plain, step=step)
    except KeyboardInterrupt:
        going_on(found["run_id"])
        return 130
    return _ended(client, ended, as_json=False)


def _live_pieces(client: Client, run_id: str, step: str) -> Any:
    for name, data in client.stream(f"{run_path(run_id)}/output/follow", step=step or None):
        if name == "output":
            yield data


def _ended(client: Client, found: Mapping[str, Any], *, as_json: bool) -> int:
    """Tell how a run ended, and return the exit code."""
    steps = client.all(f"{run_path(found['run_id'])}/steps")
    if as_json:
        print_json({"run": found, "steps": steps})
    else:
        reason = f": {one_line(found['reason'])}" if found["reason"] else ""
        text = f"{status_text(found['state'])}  {one_line(found['job'])}  {found['run_id']}  {took(found)}{reason}"
        click.echo(text, err=not sys.stdout.isatty())
    return exit_code(found, steps)


def watch(client: Client, run_id: str, *, show_output: bool, as_json: bool) -> int:
    """Wait for a run, shown or not, and return the exit code of its outcome. Ctrl-C leaves it going."""
    try:
        ended = follow(client, run_id, screen() if show_output and not as_json else Quiet())
    except KeyboardInterrupt:
        going_on(run_id)
        return 130
    return _ended(client, ended, as_json=as_json)


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@server_option
@json_option
def wait(client: Client, run_id: str, as_json: bool) -> int:
    """Wait until a run has ended. Exits with 0, 1 (failed, cancelled) or 3 (some steps failed).

    \b
    Example:
      dogwatch run wait 0199f3 && echo done
    """
    return watch(client, client.get(run_path(run_id))["run_id"], show_output=False, as_json=as_json)


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--reason", default="", help="Why; kept in the run and in the audit trail.")
@server_option
@json_option
def cancel(client: Client, run_id: str, reason: str, as_json: bool) -> None:
    """End a run and the runs it started; its cleanup steps run.

    \b
    Example:
      dogwatch run cancel 0199f3 --reason 'wrong version'
    """
    _changed(client.post(f"{run_path(run_id)}/cancel", {"reason": reason}), "asked to end", as_json)


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--reason", default="", help="Why; kept in the audit trail.")
@server_option
@json_option
def pause(client: Client, run_id: str, reason: str, as_json: bool) -> None:
    """Begin no further step; those that run end by themselves.

    \b
    Example:
      dogwatch run pause 0199f3
    """
    _changed(client.post(f"{run_path(run_id)}/pause", {"reason": reason}), "paused", as_json)


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@server_option
@json_option
def resume(client: Client, run_id: str, as_json: bool) -> None:
    """Let a paused run go on.

    \b
    Example:
      dogwatch run resume 0199f3
    """
    _changed(client.post(f"{run_path(run_id)}/resume"), "goes on", as_json)


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--failed", is_flag=True, help="Only what failed or was not reached; the rest keeps its outputs.")
@click.option("--key", default="", help="With the same key, only one new run is started.")
@click.option("--wait", "waits", is_flag=True, help="Wait until the new run has ended.")
@click.option("--follow", "live", is_flag=True, help="Show the new run until it has ended.")
@server_option
@json_option
def rerun(client: Client, run_id: str, failed: bool, key: str, waits: bool, live: bool, as_json: bool) -> int:
    """Start a run again with the same parameters, whole or from what failed.

    \b
    Examples:
      dogwatch run rerun 0199f3
      dogwatch run rerun --failed --follow 0199f3
    """
    new = client.post(f"{run_path(run_id)}/rerun", {"failed_only": failed}, key=key)
    return started(client, new, waits=waits, live=live, as_json=as_json)


def started(client: Client, new: Mapping[str, Any], *, waits: bool, live: bool, as_json: bool) -> int:
    """Tell of a run that was just started, and wait for it if that was asked for."""
    if waits or live:
        if not as_json:
            click.echo(f"started {new['run_id']}", err=True)
        return watch(client, new["run_id"], show_output=live, as_json=as_json)
    if as_json:
        print_json(new)
    else:
        click.echo(new["run_id"])
        click.echo(f"follow it: dogwatch run logs -f {new['run_id']}", err=True)
    return 0


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--step", default="", help="Which step; not needed where only one waits.")
@click.option("--comment", default="", help="Kept with the decision.")
@server_option
@json_option
def approve(client: Client, run_id: str, step: str, comment: str, as_json: bool) -> None:
    """Approve a step that waits for it.

    \b
    Example:
      dogwatch run approve 0199f3 --comment 'checked with ada'
    """
    body = {"approve": True, "step": step, "comment": comment}
    _changed(client.post(f"{run_path(run_id)}/decide", body), "approved", as_json)


@run.command()
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--step", default="", help="Which step; not needed where only one waits.")
@click.option("--comment", default="", help="Why; kept with the decision.")
@server_option
@json_option
def reject(client: Client, run_id: str, step: str, comment: str, as_json: bool) -> None:
    """Reject a step that waits for approval: it fails.

    \b
    Example:
      dogwatch run reject 0199f3 --comment 'freeze until monday'
    """
    if not comment and sys.stdin.isatty():
        raise UsageError("a rejection says why", hint="--comment 'freeze until monday'")
    body = {"approve": False, "step": step, "comment": comment}
    _changed(client.post(f"{run_path(run_id)}/decide", body), "rejected", as_json)


def _changed(found: Mapping[str, Any], done: str, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(f"{status_text(found['state'])}  {one_line(found['job'])}  {found['run_id']}: {done}")
