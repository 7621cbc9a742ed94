"""`dogwatch fleet`: the inventory, and commands on many hosts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.output import one_line, print_json, print_table
from dogwatch.errors import ConfigError, NotFound, Problem, UsageError

if TYPE_CHECKING:
    from dogwatch.config.load import Loaded
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.results import HostResult
    from dogwatch.fleet.run import FleetRun

_MASK = "(hidden)"

_config_option = click.option(
    "-c", "--config", "paths", multiple=True, metavar="PATH", help="Configuration with a fleet: section."
)
_inventory_option = click.option(
    "-i",
    "--inventory",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help="File, folder, program, URL or `a,b,`; may be repeated.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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


def _configuration(paths: Sequence[str], sources: Sequence[str]) -> Loaded | None:
    """Return the configuration; None where there is none and `-i` says enough."""
    from dogwatch.cli.config import find_paths
    from dogwatch.config.load import Loader
    from dogwatch.daemon.sections import SECTIONS
    from dogwatch.fleet.section import FLEET

    environ = dict(os.environ)
    try:
        found = find_paths(paths, environ)
    except UsageError:
        if sources:
            return None
        raise UsageError("there is no inventory", hint="-i names one; or write a fleet: section (-c)") from None
    known = SECTIONS if any(one.key == FLEET.key for one in SECTIONS) else (*SECTIONS, FLEET)
    return Loader(found, known, environ=environ).load()


def _read(paths: Sequence[str], sources: Sequence[str]) -> tuple[Inventory, list[Problem]]:
    from dogwatch.fleet.inventory.load import no_origin, read_inventory
    from dogwatch.fleet.inventory.sources import guess
    from dogwatch.fleet.section import FLEET, Fleet

    loaded = _configuration(paths, sources)
    more = [guess(source) for source in sources]
    if loaded is None:
        return read_inventory(Fleet(), no_origin, more=more)
    return read_inventory(loaded.get(FLEET), loaded.origin, more=more)


def _inventory(paths: Sequence[str], sources: Sequence[str]) -> Inventory:
    inventory, problems = _read(paths, sources)
    if problems:
        raise ConfigError(problems)
    return inventory


def _chosen(inventory: Inventory, targets: Sequence[str], limit: str = "") -> list[str]:
    """Return the hosts of `-t` (several are joined) that `--limit` leaves. Raises: UsageError, NotFound."""
    from dogwatch.fleet.targets import choose

    hosts = choose(",".join(targets), inventory) if targets else list(inventory.hosts)
    if limit:
        kept = set(choose(limit, inventory))
        hosts = [host for host in hosts if host in kept]
    if not hosts:
        raise NotFound("no host is chosen", hint="`dogwatch fleet list` shows what there is")
    return hosts


@fleet.command("list")
@click.option("-t", "--targets", multiple=True, metavar="EXPR", help="Only these hosts.")
@_config_option
@_inventory_option
@_json_option
def list_(targets: tuple[str, ...], paths: tuple[str, ...], sources: tuple[str, ...], as_json: bool) -> None:
    """List hosts with their groups and labels.

    \b
    Examples:
      dogwatch fleet list
      dogwatch fleet list -i hosts.ini -t 'web*,!web07' --json
    """
    inventory = _inventory(paths, sources)
    hosts = _chosen(inventory, targets) if targets else list(inventory.hosts)
    rows = []
    for host in hosts:
        groups = [name for name in inventory.groups_of(host) if name not in ("all", "ungrouped")]
        address = inventory.variable(host, "ansible_host")
        rows.append((host, str(address or host), groups, inventory.labels(host)))
    if as_json:
        print_json(
            [
                {"host": host, "address": address, "groups": groups, "labels": labels}
                for host, address, groups, labels in rows
            ]
        )
        return
    if not rows:
        click.echo("The inventory is empty.")
        return
    print_table(
        ("HOST", "ADDRESS", "GROUPS", "LABELS"),
        [
            (
                host,
                "-" if address == host else one_line(address),
                ", ".join(groups) or "-",
                one_line(", ".join(f"{name}={value}" for name, value in labels.items())) or "-",
            )
            for host, address, groups, labels in rows
        ],
        cut=(3, 2),
    )


@fleet.command()
@click.argument("host")
@_config_option
@_inventory_option
@_json_option
def show(host: str, paths: tuple[str, ...], sources: tuple[str, ...], as_json: bool) -> None:
    """Show a host: groups, labels, and every variable with where it came from. Passwords are hidden.

    \b
    Example:
      dogwatch fleet show web01 -i hosts.ini
    """
    inventory = _inventory(paths, sources)
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
@_config_option
@_inventory_option
@_json_option
def check(paths: tuple[str, ...], sources: tuple[str, ...], as_json: bool) -> int:
    """Read the whole inventory and tell every mistake in it, with file and line. Connects to nothing.

    \b
    Example:
      dogwatch fleet check -i hosts.ini -i cloud.py
    """
    from dogwatch.fleet.connection import HostFailed
    from dogwatch.fleet.login import login_of

    inventory, problems = _read(paths, sources)
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


class _Seconds(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from dogwatch.core.units import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(f"{value}s" if str(value).isdigit() else str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@fleet.command(context_settings={"allow_interspersed_args": True})
@click.argument("words", nargs=-1, metavar="COMMAND")
@click.option("-t", "--targets", multiple=True, required=True, metavar="EXPR", help="Which hosts; several are joined.")
@click.option("--limit", default="", metavar="EXPR", help="Of these, only what this expression chooses, too.")
@click.option("--forks", default=50, show_default=True, type=click.IntRange(1, 2000), help="Hosts at once.")
@click.option("--timeout", default="60s", show_default=True, type=_Seconds(), help="Of the command on each host.")
@click.option("--connect-timeout", default="10s", show_default=True, type=_Seconds(), help="Until the login is done.")
@click.option("--deadline", type=_Seconds(), help="Of the whole run; what still runs then is ended.")
@click.option("--batch", default="", metavar="SIZES", help="Batches: '10%,25%,100%' or '1,5,20'.")
@click.option("--max-fail", metavar="N|N%", help="Start no more hosts once more than this have failed.")
@click.option("--script", type=click.Path(exists=True, dir_okay=False), help="Run this file; COMMAND is its arguments.")
@click.option("--env", "settings", multiple=True, metavar="K=V", help="Environment of the command.")
@click.option("-u", "--user", help="Log in as this user.")
@click.option("--key", type=click.Path(), help="Log in with this private key.")
@click.option("--sudo", is_flag=True, help="Run as root (or --sudo-user) by sudo.")
@click.option("--sudo-user", metavar="USER", help="Run as this user by sudo.")
@click.option("--sudo-password-file", type=click.Path(exists=True, dir_okay=False), help="What sudo may ask for.")
@click.option("--accept-new-host-keys", is_flag=True, help="Take and keep keys of hosts that have none in known_hosts.")
@click.option("--ssh-config", type=click.Path(exists=True), help="In place of ~/.ssh/config and /etc/ssh/ssh_config.")
@click.option("--known-hosts", type=click.Path(), help="In place of the known_hosts files of the configuration.")
@click.option("--output-limit", default="256KiB", show_default=True, help="Kept of each stream of each host.")
@click.option("--diff", is_flag=True, help="Show how other hosts' output differs from that of most.")
@click.option("--check", "only_check", is_flag=True, help="Only tell which hosts, in which batches; connect to none.")
@_config_option
@_inventory_option
@_json_option
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
    """
    from dogwatch.cli.fleet_output import tell
    from dogwatch.core.units import parse_size
    from dogwatch.fleet.rollout import Rollout, parse_amount, parse_batches
    from dogwatch.fleet.run import Order

    inventory = _inventory(options["paths"], options["sources"])
    hosts = _chosen(inventory, options["targets"], options["limit"])
    script, data = _script(options["script"], options["words"])
    rollout = Rollout(
        batches=parse_batches(options["batch"]),
        max_fail=None if options["max_fail"] is None else parse_amount(options["max_fail"]),
    )
    try:
        limit_bytes = parse_size(options["output_limit"])
    except ValueError as error:
        raise UsageError(f"--output-limit: {error}") from None
    order = Order(
        script=script,
        input=data,
        env=_environment(options["settings"]),
        forks=options["forks"],
        timeout_s=options["timeout"],
        deadline_s=options["deadline"],
        rollout=rollout,
        limit_bytes=limit_bytes,
    )
    if options["only_check"]:
        return _checked(
            order.script if data is None else f"the script {options['script']}", hosts, rollout, options["as_json"]
        )
    results, reason, ended_by = _carried_out(order, inventory, hosts, options)
    tell(results, reason, as_json=options["as_json"], diff=options["diff"])
    if ended_by:
        return 128 + ended_by
    from dogwatch.fleet.results import exit_code

    return exit_code(results)


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


def _checked(what: str, hosts: Sequence[str], rollout: Any, as_json: bool) -> int:
    from dogwatch.fleet.inventory.ranges import fold
    from dogwatch.fleet.rollout import cut_batches

    batches = cut_batches(hosts, rollout.batches)
    if as_json:
        print_json({"command": what, "hosts": len(hosts), "batches": batches})
        return 0
    click.echo(f"would run on {len(hosts)} hosts: {one_line(what)}")
    for number, batch in enumerate(batches, 1):
        click.echo(f"  batch {number}, {len(batch)} hosts: {fold(batch)}")
    return 0


def _logins(inventory: Inventory, hosts: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how each host is reached, or why that cannot be said: the others are not to wait for it."""
    from dogwatch.fleet.connection import HostFailed
    from dogwatch.fleet.login import login_of

    password = None
    if options["sudo_password_file"]:
        password = Path(options["sudo_password_file"]).read_text().rstrip("\n")
    more = {
        "ansible_user": options["user"],
        "ansible_ssh_private_key_file": options["key"],
        "ansible_become_user": options["sudo_user"],
        "ansible_become_method": "sudo" if options["sudo"] or options["sudo_user"] else None,
        "ansible_become_password": password,
    }
    given = {name: value for name, value in more.items() if value is not None}
    found: dict[str, Any] = {}
    for host in hosts:
        try:
            variables = {**inventory.variables(host), **given}
            found[host] = login_of(host, variables, sudo=options["sudo"] or bool(options["sudo_user"]))
        except HostFailed as error:
            found[host] = error
    return found


def _carried_out(
    order: Any, inventory: Inventory, hosts: Sequence[str], options: Mapping[str, Any]
) -> tuple[list[HostResult], str, int]:
    """Run it; return the results, why it stopped early, and the number of the signal that ended it or 0."""
    import uvloop

    from dogwatch.cli.fleet_progress import progress
    from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
    from dogwatch.fleet.run import FleetRun

    logins = _logins(inventory, hosts, options)
    ssh = SshOptions(
        configs=None if options["ssh_config"] is None else (options["ssh_config"],),
        known_hosts=(options["known_hosts"],) if options["known_hosts"] else (),
        accept_new=options["accept_new_host_keys"],
        connect_timeout_s=options["connect_timeout"],
    )

    async def everything() -> tuple[list[HostResult], str, int]:
        dialer = SshDialer(ssh)
        with progress(len(hosts)) as watcher:
            running = FleetRun(order, logins, dialer, watcher=watcher)
            with _heeding(running) as signals:
                try:
                    results = await running.run()
                finally:
                    await dialer.close()
        return results, running.reason, signals[0] if signals else 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(everything())


@contextmanager
def _heeding(running: FleetRun) -> Iterator[list[int]]:
    """End the run on Ctrl-C and SIGTERM; yield the list that their numbers are put in."""
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        seen.append(number)
        running.cancel("interrupted")

    for number in before:
        loop.add_signal_handler(number, stop, int(number))
    try:
        yield seen
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
