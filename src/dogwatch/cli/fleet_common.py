"""What the commands of the fleet share: their options, the inventory, and carrying an order out."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dogwatch.cli.output import one_line, print_json
from dogwatch.errors import ConfigError, NotFound, Problem, UsageError

if TYPE_CHECKING:
    from dogwatch.config.load import Loaded
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.results import HostResult
    from dogwatch.fleet.run import FleetRun, Order, Work

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "-c", "--config", "paths", multiple=True, metavar="PATH", help="Configuration with a fleet: section."
)
inventory_option = click.option(
    "-i",
    "--inventory",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help="File, folder, program, URL or `a,b,`; may be repeated.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Seconds(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from dogwatch.core.units import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(f"{value}s" if str(value).isdigit() else str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_REACHING = (
    click.option(
        "-t", "--targets", multiple=True, required=True, metavar="EXPR", help="Which hosts; several are joined."
    ),
    click.option("--limit", default="", metavar="EXPR", help="Of these, only what this expression chooses, too."),
    click.option("--forks", default=50, show_default=True, type=click.IntRange(1, 2000), help="Hosts at once."),
    click.option("--timeout", default="60s", show_default=True, type=Seconds(), help="Of the command on each host."),
    click.option(
        "--connect-timeout", default="10s", show_default=True, type=Seconds(), help="Until the login is done."
    ),
    click.option("--deadline", type=Seconds(), help="Of the whole run; what still runs then is ended."),
    click.option("--batch", default="", metavar="SIZES", help="Batches: '10%,25%,100%' or '1,5,20'."),
    click.option("--max-fail", metavar="N|N%", help="Start no more hosts once more than this have failed."),
    click.option("-u", "--user", help="Log in as this user."),
    click.option("--key", type=click.Path(), help="Log in with this private key."),
    click.option("--sudo", is_flag=True, help="Run as root (or --sudo-user) by sudo."),
    click.option("--sudo-user", metavar="USER", help="Run as this user by sudo."),
    click.option("--sudo-password-file", type=click.Path(exists=True, dir_okay=False), help="What sudo may ask for."),
    click.option(
        "--accept-new-host-keys", is_flag=True, help="Take and keep keys of hosts that have none in known_hosts."
    ),
    click.option(
        "--ssh-config", type=click.Path(exists=True), help="In place of ~/.ssh/config and /etc/ssh/ssh_config."
    ),
    click.option("--known-hosts", type=click.Path(), help="In place of the known_hosts files of the configuration."),
    click.option(
        "--check", "only_check", is_flag=True, help="Only tell which hosts, in which batches; connect to none."
    ),
    config_option,
    inventory_option,
    json_option,
)


def reaching(command: F) -> F:
    """Add the options of every command that goes to hosts."""
    for option in reversed(_REACHING):
        command = option(command)
    return command


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


def read_sources(paths: Sequence[str], sources: Sequence[str]) -> tuple[Inventory, list[Problem]]:
    """Return the inventory as far as it can be read, and every mistake in it."""
    from dogwatch.fleet.inventory.load import no_origin, read_inventory
    from dogwatch.fleet.inventory.sources import guess
    from dogwatch.fleet.section import FLEET, Fleet

    loaded = _configuration(paths, sources)
    more = [guess(source) for source in sources]
    if loaded is None:
        return read_inventory(Fleet(), no_origin, more=more)
    return read_inventory(loaded.get(FLEET), loaded.origin, more=more)


def inventory_of(paths: Sequence[str], sources: Sequence[str]) -> Inventory:
    """Return the inventory of the configuration and of -i. Raises: ConfigError with every mistake."""
    inventory, problems = read_sources(paths, sources)
    if problems:
        raise ConfigError(problems)
    return inventory


def chosen_hosts(inventory: Inventory, targets: Sequence[str], limit: str = "") -> list[str]:
    """Return the hosts of `-t` (several are joined) that `--limit` leaves. Raises: UsageError, NotFound."""
    from dogwatch.fleet.targets import choose

    hosts = choose(",".join(targets), inventory) if targets else list(inventory.hosts)
    if limit:
        kept = set(choose(limit, inventory))
        hosts = [host for host in hosts if host in kept]
    if not hosts:
        raise NotFound("no host is chosen", hint="`dogwatch fleet list` shows what there is")
    return hosts


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


def carry_out(
    order: Order, inventory: Inventory, hosts: Sequence[str], options: Mapping[str, Any], work: Work | None
) -> tuple[list[HostResult], str, int]:
    """Run it; return the results, why it stopped early, and the number of the signal that ended it or 0."""
    import uvloop

    from dogwatch.cli.fleet_progress import progress
    from dogwatch.fleet.run import FleetRun

    try:
        from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
    except ImportError:
        raise UsageError("SSH is not installed here", hint="pip install 'dogwatch[fleet]'") from None

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
            running = FleetRun(order, logins, dialer, work=work, watcher=watcher)
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


def tell_batches(what: str, hosts: Sequence[str], rollout: Any, as_json: bool) -> int:
    """Say which hosts would have their turn, in which batches."""
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


def order_of(
    options: Mapping[str, Any],
    script: str,
    *,
    input_: bytes | None = None,
    env: Mapping[str, str] | None = None,
    limit_bytes: int = 256 * 1024,
) -> Order:
    """Return the order that the options describe. Raises: UsageError."""
    from dogwatch.fleet.rollout import Rollout, parse_amount, parse_batches
    from dogwatch.fleet.run import Order

    return Order(
        script=script,
        input=input_,
        env=env or {},
        forks=options["forks"],
        timeout_s=options["timeout"],
        deadline_s=options["deadline"],
        rollout=Rollout(
            batches=parse_batches(options["batch"]),
            max_fail=None if options["max_fail"] is None else parse_amount(options["max_fail"]),
        ),
        limit_bytes=limit_bytes,
    )


def on_hosts(order: Order, options: Mapping[str, Any], *, what: str, work: Work | None = None) -> int:
    """Carry the order out on the hosts that the options choose, tell the results, and return the exit code."""
    from dogwatch.cli.fleet_output import tell
    from dogwatch.fleet.results import exit_code

    inventory = inventory_of(options["paths"], options["sources"])
    hosts = chosen_hosts(inventory, options["targets"], options["limit"])
    if options["only_check"]:
        return tell_batches(what, hosts, order.rollout, options["as_json"])
    results, reason, ended_by = carry_out(order, inventory, hosts, options, work)
    tell(results, reason, as_json=options["as_json"], diff=bool(options.get("diff")))
    return 128 + ended_by if ended_by else exit_code(results)
