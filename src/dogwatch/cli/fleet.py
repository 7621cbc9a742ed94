"""`dogwatch fleet`: the inventory, and commands on many hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dogwatch.cli.fleet_carry import Deed, go_on, on_hosts
from dogwatch.cli.fleet_common import (
    chosen_hosts,
    config_option,
    elsewhere,
    inventory_of,
    inventory_option,
    json_option,
    reaching,
    read_sources,
)
from dogwatch.cli.fleet_files import copy, fetch
from dogwatch.cli.fleet_inspect import inspect
from dogwatch.cli.fleet_plans import apply_, drift, facts, plan_, plans
from dogwatch.cli.fleet_runs import runs
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.output import one_line, print_json, print_table
from dogwatch.errors import Problem, UsageError

if TYPE_CHECKING:
    from dogwatch.fleet.inventory.inventory import Inventory

_MASK = "(hidden)"


@click.group()
def fleet() -> None:
    """List hosts, and run commands on many of them.

    \b
    Targets: web01, web[01-20], @group, label=value, web*, all; `,` joins,
    `&` keeps what both have, `!` takes away: 'web[01-20],!web07'.

    \b
    Examples:
      dogwatch fleet list -i hosts.ini -t '@shop&@eu'
      dogwatch fleet run uptime -t all --batch 10%,100% --max-fail 5%
    """


@fleet.command("list")
@click.option("-t", "--targets", multiple=True, metavar="EXPR", help="Only these hosts.")
@list_options("/api/v1/fleet/hosts", without=("targets",))
@config_option
@inventory_option
@click.option("--server", metavar="URL", help="Those of this daemon's inventory.")
@click.option("--context", metavar="NAME", help="Those of the daemon of this context.")
@json_option
def list_(
    targets: tuple[str, ...],
    wanted: Wanted,
    paths: tuple[str, ...],
    sources: tuple[str, ...],
    server: str | None,
    context: str | None,
    as_json: bool,
) -> None:
    """List hosts with their groups and labels.

    \b
    Examples:
      dogwatch fleet list
      dogwatch fleet list -i hosts.ini -t 'web*,!web07' --json
      dogwatch fleet list --server https://watch.example --search team=shop
    """
    if server or context:
        from dogwatch.cli.client import chosen, client_of

        hosts = wanted.items(client_of(*chosen(server, context)), targets=",".join(targets))
    else:
        hosts = _matching(inventory_of(paths, sources), targets, wanted)
    if as_json:
        print_json(hosts)
        return
    if not hosts:
        click.echo("No host matches." if wanted or targets else "The inventory is empty.")
        return
    print_table(
        ("HOST", "ADDRESS", "GROUPS", "LABELS"),
        [
            (
                one["host"],
                "-" if one["address"] == one["host"] else one_line(one["address"]),
                ", ".join(one["groups"]) or "-",
                one_line(", ".join(f"{name}={value}" for name, value in one["labels"].items())) or "-",
            )
            for one in hosts
        ],
        cut=(3, 2),
    )
    wanted.further(hosts)


def _matching(inventory: Inventory, targets: Sequence[str], wanted: Wanted) -> list[dict[str, Any]]:
    """Return the hosts of this machine's inventory, as the API lists those of a daemon."""
    word = str(wanted.given.get("q", "")).strip().lower()
    found = []
    for host in chosen_hosts(inventory, targets) if targets else inventory.hosts:
        labels = inventory.labels(host)
        text = " ".join((host, *inventory.groups_of(host), *(f"{key}={value}" for key, value in labels.items())))
        if word in text.lower():
            groups = [name for name in inventory.groups_of(host) if name not in ("all", "ungrouped")]
            address = str(inventory.variable(host, "ansible_host") or host)
            found.append({"host": host, "address": address, "groups": groups, "labels": labels})
    return found[: wanted.limit or None]


@fleet.command()
@click.argument("host")
@config_option
@inventory_option
@json_option
def show(host: str, paths: tuple[str, ...], sources: tuple[str, ...], as_json: bool) -> None:
    """Show a host: groups, labels, and every variable with where it came from. Passwords are hidden.

    \b
    Example:
      dogwatch fleet show web01 -i hosts.ini
    """
    inventory = inventory_of(paths, sources)
    variables = inventory.sourced(host)
    shown = {name: _shown(name, one.value) for name, one in variables.items()}
    if as_json:
        print_json(
            {
                "host": host,
                "groups": inventory.groups_of(host),
                "labels": inventory.labels(host),
                "variables": {
                    name: {
                        "value": shown[name],
                        "from": one.owner,
                        "place": str(one.place),
                        "overrides": [
                            {"from": owner, "place": str(setting.place)} for owner, setting in one.overridden
                        ],
                    }
                    for name, one in variables.items()
                },
            }
        )
        return
    click.echo(f"{click.style(host, bold=True)}  written at {inventory.hosts[host]}")
    click.echo(f"  groups  {', '.join(inventory.groups_of(host))}")
    labels = ", ".join(f"{name}={value}" for name, value in inventory.labels(host).items())
    click.echo(f"  labels  {one_line(labels) or 'none'}\n")
    print_table(
        ("VARIABLE", "VALUE", "FROM", "WRITTEN AT"),
        [(name, one_line(str(shown[name])), one.owner, str(one.place)) for name, one in variables.items()],
        cut=(1,),
        below=[
            "; ".join(f"instead of that of {owner} ({setting.place})" for owner, setting in one.overridden)
            for one in variables.values()
        ],
    )


def _shown(name: str, value: Any) -> Any:
    from dogwatch.fleet.inventory.lined import Sealed
    from dogwatch.fleet.login import SECRET_WORDS

    if SECRET_WORDS.search(name):
        return _MASK
    if isinstance(value, Mapping):
        return {str(key): _shown(str(key), below) for key, below in value.items()}
    if isinstance(value, list):
        return [_shown("", below) for below in value]
    return str(value) if isinstance(value, Sealed) else value


@fleet.command()
@config_option
@inventory_option
@json_option
def check(paths: tuple[str, ...], sources: tuple[str, ...], as_json: bool) -> int:
    """Read the whole inventory and tell every mistake in it, with file and line. Connects to nothing.

    \b
    Example:
      dogwatch fleet check -i hosts.ini -i cloud.py
    """
    from dogwatch.fleet.connection import HostFailed
    from dogwatch.fleet.login import login_of

    inventory, problems = read_sources(paths, sources)
    for host, place in inventory.hosts.items():
        try:
            login_of(host, inventory.variables(host))
        except HostFailed as error:
            problems.append(Problem(f"{host}: {error}", file=place.file, line=place.line, hint=error.hint))
    if as_json:
        told = {
            kind: [{"message": one.message, "file": one.file, "line": one.line, "hint": one.hint} for one in found]
            for kind, found in (("problems", problems), ("warnings", inventory.warnings))
        }
        print_json({"hosts": len(inventory.hosts), "groups": len(inventory.groups), **told})
    else:
        for warning in inventory.warnings:
            click.echo(f"{click.style('warning:', fg='yellow')} {one_line(str(warning))}")
        for problem in problems:
            click.echo(f"{click.style('error:', fg='red')} {one_line(str(problem))}")
        click.echo(f"{len(inventory.hosts)} hosts in {len(inventory.groups)} groups, {len(problems)} mistakes")
    return 2 if problems else 0


@fleet.command(context_settings={"allow_interspersed_args": True})
@click.argument("words", nargs=-1, metavar="COMMAND")
@click.option("--script", type=click.Path(exists=True, dir_okay=False), help="Run this file; COMMAND is its arguments.")
@click.option("--env", "settings", multiple=True, metavar="K=V", help="Environment of the command.")
@click.option("--output-limit", default="256KiB", show_default=True, help="Kept of each stream of each host.")
@click.option("--diff", is_flag=True, help="Show how other hosts' output differs from that of most.")
@click.option("--retry-failed", metavar="RUN", help="Do it again on the hosts that failed in this run.")
@click.option("--resume", metavar="RUN", help="Go on with a run that was ended, on the hosts that it did not reach.")
@elsewhere
@reaching
def run(**options: Any) -> int:
    """Run a command on many hosts and tell what happened on each.

    Equal output is told once, under the folded names of its hosts. Exits with
    0 where all went well, 3 where some failed, 1 where all did.

    \b
    Examples:
      dogwatch fleet run uptime -t 'web[01-20],!web07'
      dogwatch fleet run 'systemctl restart nginx' -t @web --sudo \\
        --batch 1,10%,100% --max-fail 5%
      dogwatch fleet run --script fix.sh -t all --timeout 5m -- --force
      dogwatch fleet run --resume 0199f3
    """
    from dogwatch.core.units import parse_size

    again = options["retry_failed"] or options["resume"]
    if options["server"] or options["context"]:
        return _elsewhere(again, options)
    if again:
        return _again(again, options)
    script, data = _script(options["script"], options["words"])
    try:
        limit_bytes = parse_size(options["output_limit"])
    except ValueError as error:
        raise UsageError(f"--output-limit: {error}") from None
    deed = Deed(
        what=script if data is None else f"the script {options['script']}",
        script=script,
        input=data,
        env=_environment(options["settings"]),
        limit_bytes=limit_bytes,
    )
    return on_hosts(deed, options)


@fleet.command(context_settings={"allow_interspersed_args": True})
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("words", nargs=-1, metavar="[ARGUMENT]...")
@click.option("--env", "settings", multiple=True, metavar="K=V", help="Environment of the script.")
@click.option("--diff", is_flag=True, help="Show how other hosts' output differs from that of most.")
@elsewhere
@reaching
def script(file: str, words: tuple[str, ...], **options: Any) -> int:
    """Run a script of this machine on many hosts, by what its first line names; as `run --script` does.

    \b
    Example:
      dogwatch fleet script fix.py -t 'os=debian*' --sudo -- --force
    """
    if options["server"] or options["context"]:
        return _elsewhere(None, {**options, "script": file, "words": words})
    text, data = _script(file, words)
    env = _environment(options["settings"])
    return on_hosts(Deed(what=f"the script {file}", script=text, input=data, env=env), options)


def _elsewhere(again: str | None, options: Mapping[str, Any]) -> int:
    """Have a daemon carry it out."""
    from dogwatch.cli.fleet_remote import again_remote, run_remote

    if again:
        return again_remote(options, again, failed_only=bool(options["retry_failed"]))
    if options["script"] is None:
        _script(None, options["words"])
    return run_remote(options, command=" ".join(options["words"]), env=_environment(options["settings"]))


def _again(run_id: str, options: Mapping[str, Any]) -> int:
    """Go on with a run, or retry what failed in it; options that were given count instead of those of then."""
    if options["retry_failed"] and options["resume"]:
        raise UsageError("--retry-failed and --resume are two things", hint="resume first, then retry what failed")
    context = click.get_current_context()
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    fixed = {"words": "COMMAND", "script": "--script", "settings": "--env", "targets": "-t"}
    more = {"batch": "--batch", "limit": "--limit"} if options["resume"] else {}
    for name, shown in {**fixed, **more}.items():
        if name in given:
            raise UsageError(f"{shown} cannot be another than that of the run", hint="start a new run for that")
    return go_on(run_id, options, given, failed_only=bool(options["retry_failed"]))


def _script(path: str | None, words: Sequence[str]) -> tuple[str, bytes | None]:
    """Return the command, and what it is given by stdin."""
    from dogwatch.fleet.scripts import script_command

    if path is not None:
        data = Path(path).read_bytes()
        return script_command(data, words), data
    command = " ".join(words)
    if not command.strip():
        raise UsageError("there is no command", hint="dogwatch fleet run uptime -t all; or --script FILE")
    return command, None


def _environment(settings: Sequence[str]) -> dict[str, str]:
    found = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name.isidentifier() or not name.isascii():
            raise UsageError(f"--env '{setting}' is not NAME=VALUE")
        found[name] = value
    return found


fleet.add_command(copy)
fleet.add_command(fetch)
fleet.add_command(inspect)
fleet.add_command(runs)
fleet.add_command(plan_)
fleet.add_command(apply_)
fleet.add_command(plans)
fleet.add_command(drift)
fleet.add_command(facts)
