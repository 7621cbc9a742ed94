"""`dogwatch job`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click
import msgspec

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.following import took
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.names import complete_jobs
from dogwatch.cli.output import ago, indented, one_line, print_json, print_table, status_text, until
from dogwatch.cli.runs import started
from dogwatch.errors import UsageError

_parameters = click.option(
    "-p", "--param", "given", multiple=True, metavar="KEY=VALUE", help="A parameter; lists and maps are JSON."
)
_config = click.option(
    "-c",
    "--config",
    "paths",
    multiple=True,
    metavar="PATH",
    help="File or folder; may be repeated. Default: as for `config check`.",
)


@click.group()
def job() -> None:
    """List, check, plan and run jobs.

    \b
    Examples:
      dogwatch job plan deploy -p version=v1.3
      dogwatch job run deploy -p version=v1.3 --follow
    """


def job_path(name: str) -> str:
    """Return the API path of a job; names may hold anything, slashes too."""
    return f"/api/v1/jobs/{quote(os.fsencode(name), safe='')}"


@job.command("list")
@list_options("/api/v1/jobs")
@server_option
@json_option
def list_(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List the configured jobs, and how each ran last.

    \b
    Example:
      dogwatch job list --label team=shop
    """
    items = wanted.items(client)
    if as_json:
        print_json(items)
        return
    if not items:
        click.echo("No jobs match." if wanted else "No jobs are configured. 'jobs:' in the configuration adds some.")
        return
    print_table(
        ["LAST", "JOB", "RAN", "TOOK", "NEXT", "ABOUT"],
        [
            [
                status_text(one["last_run"]["state"]) if one["last_run"] else "○ never",
                one_line(one["name"]),
                ago(one["last_run"]["created_s"]) if one["last_run"] else "-",
                took(one["last_run"]) if one["last_run"] else "-",
                until(one["next_s"]),
                one_line(one["doc"]),
            ]
            for one in items
        ],
        cut=(1, 5),
    )


@job.command()
@click.argument("name", shell_complete=complete_jobs)
@server_option
@json_option
def show(client: Client, name: str, as_json: bool) -> None:
    """Show one job: its parameters, its steps and its last runs.

    \b
    Example:
      dogwatch job show deploy
    """
    found = client.get(job_path(name))
    runs = client.get("/api/v1/runs", job=found["name"], limit=5)["items"]
    if as_json:
        print_json({"job": found, "runs": runs})
        return
    click.echo(click.style(one_line(found["name"]), bold=True))
    if found["doc"]:
        click.echo(indented(found["doc"]))
    if found["parameters"]:
        click.echo("\nParameters")
        for one in found["parameters"]:
            click.echo(indented(f"{one['name']}: {_parameter_text(one)}"))
    click.echo("\nSteps")
    for one in found["steps"]:
        after = f", after {', '.join(one['needs'])}" if one["needs"] else ""
        when = f", when {one['when']}" if one["when"] else ""
        always = ", always" if one["always"] else ""
        click.echo(indented(f"{one['name']}: {one['kind']}{after}{when}{always}"))
    if runs:
        click.echo()
        print_table(
            ["STATE", "RUN", "CREATED", "TOOK"],
            [[status_text(one["state"]), one["run_id"], ago(one["created_s"]), took(one)] for one in runs],
        )


def _parameter_text(one: Mapping[str, Any]) -> str:
    parts = [one["type"]]
    if one["required"]:
        parts.append("must be given")
    elif one["secret"]:
        parts.append("secret")
    elif one["default"] is not None:
        parts.append(f"default {msgspec.json.encode(one['default']).decode()}")
    if one["choices"]:
        parts.append(f"one of {', '.join(map(str, one['choices']))}")
    for key, word in (("min", "at least"), ("max", "at most"), ("pattern", "like")):
        if one[key] not in (None, ""):
            parts.append(f"{word} {one[key] if isinstance(one[key], str) else format(one[key], 'g')}")
    return ", ".join(parts) + (f". {one['doc']}" if one["doc"] else "")


def parse_parameters(given: Sequence[str], types: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of `-p key=value`, each as the job's type wants it; what does not fit stays text, and
    the daemon says what is wrong with it.

    Raises: UsageError.
    """
    # Imported here: help and completion of the command do without the engine.
    from dogwatch.engine.parameters import read_text

    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"-p {text}: write it as KEY=VALUE", hint="such as -p version=v1.3")
        if key in found:
            raise UsageError(f"-p {key} is given twice")
        found[key] = read_text(types.get(key, "string"), value)
    return found


@job.command()
@click.argument("name", shell_complete=complete_jobs)
@_parameters
@click.option("--wait", "waits", is_flag=True, help="Wait until the run has ended; its outcome is the exit code.")
@click.option("--follow", "live", is_flag=True, help="Show steps and output until the run has ended.")
@click.option("--key", default="", help="With the same key, only one run is started, however often this is called.")
@click.option("--reason", default="", help="Why; kept in the run and in the audit trail.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label for this run.")
@click.option("--priority", type=click.IntRange(-1_000_000, 1_000_000), help="Higher goes first.")
@server_option
@json_option
def run(
    client: Client,
    name: str,
    given: tuple[str, ...],
    waits: bool,
    live: bool,
    key: str,
    reason: str,
    labels: tuple[str, ...],
    priority: int | None,
    as_json: bool,
) -> int:
    """Start a run. Prints its id once it is on disk, and does not wait unless asked to.

    With --wait or --follow exits with 0 (succeeded), 1 (failed or cancelled) or
    3 (succeeded, but steps that may fail did). Ctrl-C ends the looking, not the run.

    \b
    Examples:
      dogwatch job run backup
      dogwatch job run deploy -p version=v1.3 -p replicas=4 --follow
      dogwatch job run deploy -p version=v1.3 --key release-1.3 --wait --json
    """
    found = client.get(job_path(name))
    types = {one["name"]: one["type"] for one in found["parameters"]}
    body: dict[str, Any] = {
        "parameters": parse_parameters(given, types),
        "reason": reason,
        "labels": _labels(labels),
        "priority": priority,
    }
    new = client.post(f"{job_path(name)}/runs", body, key=key)
    return started(client, new, waits=waits, live=live, as_json=as_json)


def _labels(labels: Sequence[str]) -> dict[str, str]:
    pairs = [label.partition("=") for label in labels]
    for key, equals, _value in pairs:
        if not equals or not key:
            raise UsageError(f"--label {key}: write it as KEY=VALUE", hint="such as --label team=shop")
    return {key: value for key, _equals, value in pairs}


@job.command()
@_config
@json_option
def check(paths: tuple[str, ...], as_json: bool) -> int:
    """Check the jobs in the configuration files, without a daemon. Tells every mistake at once.

    \b
    Example:
      dogwatch job check -c jobs/
    """
    from dogwatch.cli.jobs_offline import check_jobs

    return check_jobs(paths, as_json=as_json)


@job.command()
@click.argument("name")
@_parameters
@_config
@json_option
def plan(name: str, given: tuple[str, ...], paths: tuple[str, ...], as_json: bool) -> None:
    """Print what a run would do, every template filled in, and do nothing. Needs no daemon.

    \b
    Examples:
      dogwatch job plan deploy -p version=v1.3
      dogwatch job plan deploy -p version=v1.3 -c jobs/ --json
    """
    from dogwatch.cli.jobs_offline import plan_job

    found = plan_job(name, lambda types: parse_parameters(given, types), paths)
    if as_json:
        print_json(found)
        return
    print_plan(found)


def print_plan(found: Mapping[str, Any]) -> None:
    """Print a plan for people."""
    click.echo(click.style(f"A run of {one_line(found['job'])} would:", bold=True))
    for number, step in enumerate(found["steps"], 1):
        _print_step(number, step)
    if found["parameters"]:
        click.echo("\nParameters")
        for name, value in found["parameters"].items():
            click.echo(indented(f"{name} = {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"))
    if found["concurrency"]:
        click.echo(f"\nOne at a time: {one_line(found['concurrency'])}")
    if found["locks"]:
        click.echo(f"\nLocks: {one_line(', '.join(found['locks']))}")
    if any(step["destructive"] for step in found["steps"]):
        click.echo("\n! ends or removes something")
    for problem in found["problems"]:
        click.echo(f"\n{click.style('would fail', fg='red')}: {one_line(problem)}")


def _print_step(number: int, step: Mapping[str, Any]) -> None:
    after = f" (after {', '.join(step['needs'])})" if step["needs"] else ""
    mark = click.style(" !", fg="red") if step["destructive"] else ""
    summary = step["summary"] if step["runs"] is not False else "not: its condition is false"
    click.echo(indented(f"{number}. {step['name']}{after}: {summary}") + mark)
    lines = list(step["details"])
    if step["why"]:
        lines.append(step["why"])
    if step["always"]:
        lines.append("whatever became of the steps before it")
    if step["undo"]:
        lines.append(f"to undo: {step['undo']}")
    for line in lines:
        click.echo(indented(f"     {line}"))
