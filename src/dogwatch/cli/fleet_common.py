"""What the commands of the fleet share: their options and the inventory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dogwatch.cli.durations import Duration
from dogwatch.errors import ConfigError, NotFound, Problem, UsageError

if TYPE_CHECKING:
    from dogwatch.config.load import Loaded
    from dogwatch.fleet.inventory.inventory import Inventory

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


# How hosts are logged into.
LOGIN = (
    click.option("-u", "--user", help="Log in as this user."),
    click.option("--key", type=click.Path(), help="Log in with this private key."),
    click.option("--sudo", is_flag=True, help="Work as root (or --sudo-user) by sudo."),
    click.option("--sudo-user", metavar="USER", help="Work as this user by sudo."),
    click.option("--sudo-password-file", type=click.Path(exists=True, dir_okay=False), help="What sudo may ask for."),
    click.option(
        "--accept-new-host-keys", is_flag=True, help="Take and keep keys of hosts that have none in known_hosts."
    ),
    click.option(
        "--ssh-config", type=click.Path(exists=True), help="In place of ~/.ssh/config and /etc/ssh/ssh_config."
    ),
    click.option("--known-hosts", type=click.Path(), help="In place of the known_hosts files of the configuration."),
)
_REACHING = (
    click.option("-t", "--targets", multiple=True, metavar="EXPR", help="Which hosts; several are joined."),
    click.option("--limit", default="", metavar="EXPR", help="Of these, only what this expression chooses, too."),
    click.option("--forks", default=50, show_default=True, type=click.IntRange(1, 2000), help="Hosts at once."),
    click.option("--timeout", default="60s", show_default=True, type=Duration(), help="Of the command on each host."),
    click.option(
        "--connect-timeout", default="10s", show_default=True, type=Duration(), help="Until the login is done."
    ),
    click.option("--deadline", type=Duration(), help="Of the whole run; what still runs then is ended."),
    click.option("--batch", default="", metavar="SIZES", help="Batches: '10%,25%,100%' or '1,5,20'."),
    click.option("--max-fail", metavar="N|N%", help="Start no more hosts once more than this have failed."),
    *LOGIN,
    click.option(
        "--check", "only_check", is_flag=True, help="Only tell which hosts, in which batches; connect to none."
    ),
    config_option,
    inventory_option,
    json_option,
)


_SERVER = (
    click.option("--server", metavar="URL", help="Have this daemon do it, on its own inventory."),
    click.option("--context", metavar="NAME", help="Have the daemon of this context do it."),
)


def elsewhere(command: F) -> F:
    """Add the options that name a daemon to do it."""
    for option in reversed(_SERVER):
        command = option(command)
    return command


def reaching(command: F) -> F:
    """Add the options of every command that goes to hosts."""
    for option in reversed(_REACHING):
        command = option(command)
    return command


def _configuration(paths: Sequence[str], sources: Sequence[str]) -> Loaded | None:
    """Return the configuration; None where there is none and `-i` says enough."""
    environ = dict(os.environ)
    from dogwatch.cli.config import find_paths

    try:
        found = find_paths(paths, environ)
    except UsageError:
        if sources:
            return None
        raise UsageError("there is no inventory", hint="-i names one; or write a fleet: section (-c)") from None
    # All that a configuration may hold is loaded only where there is one.
    from dogwatch.config.load import Loader
    from dogwatch.daemon.sections import SECTIONS
    from dogwatch.fleet.section import FLEET

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

    if not targets:
        raise UsageError("it is not said on which hosts", hint="-t all for every one; or -t 'web[01-20],!web07'")
    hosts = choose(",".join(targets), inventory)
    if limit:
        kept = set(choose(limit, inventory))
        hosts = [host for host in hosts if host in kept]
    if not hosts:
        raise NotFound("no host is chosen", hint="`dogwatch fleet list` shows what there is")
    return hosts
