"""From options of the command line to how hosts are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogwatch.errors import UsageError

if TYPE_CHECKING:
    from dogwatch.fleet.connection import HostFailed
    from dogwatch.fleet.connections.ssh import SshOptions
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.login import Login


def ssh_options(options: Mapping[str, Any]) -> SshOptions:
    from dogwatch.fleet.connections.ssh import SshOptions

    return SshOptions(
        configs=None if options["ssh_config"] is None else (options["ssh_config"],),
        known_hosts=(options["known_hosts"],) if options["known_hosts"] else (),
        accept_new=options["accept_new_host_keys"],
        connect_timeout_s=options["connect_timeout"],
    )


def logins_of(inventory: Inventory, hosts: Sequence[str], options: Mapping[str, Any]) -> dict[str, Login | HostFailed]:
    """Return how each host is reached, or why that cannot be said: the others are not to wait for it."""
    from dogwatch.fleet.connection import HostFailed, State
    from dogwatch.fleet.login import login_of

    password = None
    if options["sudo_password_file"]:
        try:
            password = Path(options["sudo_password_file"]).read_text().rstrip("\n")
        except OSError as error:
            raise UsageError(f"cannot read {options['sudo_password_file']}: {error.strerror}") from None
    more = {
        "ansible_user": options["user"],
        "ansible_ssh_private_key_file": options["key"],
        "ansible_become_user": options["sudo_user"],
        "ansible_become_method": "sudo" if options["sudo"] or options["sudo_user"] else None,
        "ansible_become_password": password,
    }
    given = {name: value for name, value in more.items() if value is not None}
    found: dict[str, Login | HostFailed] = {}
    for host in hosts:
        if host not in inventory:
            found[host] = HostFailed(State.MISCONFIGURED, f"{host} is not in the inventory any more")
            continue
        try:
            variables = {**inventory.variables(host), **given}
            found[host] = login_of(host, variables, sudo=options["sudo"] or bool(options["sudo_user"]))
        except HostFailed as error:
            found[host] = error
    return found
