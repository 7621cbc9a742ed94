"""What the commands of planned changes share: their options, how hosts are reached, and heeding Ctrl-C."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dogwatch.cli.durations import Duration
from dogwatch.cli.fleet_common import LOGIN, config_option, elsewhere, inventory_option, json_option
from dogwatch.cli.heeding import heeding
from dogwatch.errors import UsageError

if TYPE_CHECKING:
    from dogwatch.fleet.facts import Facts
    from dogwatch.fleet.pool import Dialer
    from dogwatch.fleet.run import FleetRun

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_OPTIONS = (
    click.option("--forks", default=50, show_default=True, type=click.IntRange(1, 2000), help="Hosts at once."),
    click.option(
        "--connect-timeout", default="10s", show_default=True, type=Duration(), help="Until the login is done."
    ),
    *LOGIN,
    config_option,
    inventory_option,
    json_option,
)
targets_option = click.option(
    "-t", "--targets", multiple=True, metavar="EXPR", help="Only these of the hosts; several are joined."
)
facts_option = click.option(
    "--facts-age", default="1h", show_default=True, type=Duration(), help="Take facts that are no older; 0s: none."
)
timeout_option = click.option(
    "--timeout", default="60s", show_default=True, type=Duration(), help="Of the reading on each host."
)


_SENT = click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="With --server: another file that the playbook reads, sent along.",
)


def server_options(command: F) -> F:
    """Add what sends a playbook to a daemon."""
    return _SENT(elsewhere(command))


def going(command: F) -> F:
    """Add the options of every command that goes to hosts by a playbook or plan."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def login_variables(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the options say of logins, as variables of the inventory."""
    password = None
    if options["sudo_password_file"]:
        password = Path(options["sudo_password_file"]).read_text(encoding="utf-8").removesuffix("\n")
    user = options["sudo_user"] or ("root" if options["sudo"] else None)
    more = {
        "ansible_user": options["user"],
        "ansible_ssh_private_key_file": options["key"],
        "ansible_become_user": user,
        "ansible_become_method": "sudo" if user else None,
        "ansible_become_password": password,
    }
    return {name: value for name, value in more.items() if value is not None}


def facts_of(options: Mapping[str, Any], timeout_s: float) -> Facts:
    """Return the facts that are kept for the one who calls."""
    from dogwatch.fleet.facts import Facts

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Facts(cache / "dogwatch" / "facts", max_age_s=options["facts_age"], now_s=time.time, timeout_s=timeout_s)


def whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def joined_targets(targets: tuple[str, ...]) -> str:
    return ",".join(targets)


class Interrupted:
    """Ends what runs on Ctrl-C and SIGTERM; number: of the signal, 0 for none."""

    def __init__(self) -> None:
        self.number = 0
        self._running: FleetRun | None = None

    def heed(self, running: FleetRun) -> None:
        """End this one from now on."""
        self._running = running
        if self.number:
            running.cancel("interrupted")

    def stop(self, number: int) -> None:
        self.number = self.number or number
        if self._running is not None:
            self._running.cancel("interrupted")


def with_dialer(options: Mapping[str, Any], work: Callable[[Dialer, Interrupted], Awaitable[T]]) -> tuple[T, int]:
    """Run something that goes to hosts; return what it returns, and the signal that ended it or 0."""
    import uvloop

    try:
        from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
    except ImportError:
        raise UsageError("SSH is not installed here", hint="pip install 'dogwatch[fleet]'") from None

    ssh = SshOptions(
        configs=None if options["ssh_config"] is None else (options["ssh_config"],),
        known_hosts=(options["known_hosts"],) if options["known_hosts"] else (),
        accept_new=options["accept_new_host_keys"],
        connect_timeout_s=options["connect_timeout"],
    )

    async def everything() -> tuple[T, int]:
        dialer = SshDialer(ssh)
        interrupted = Interrupted()
        with heeding(interrupted.stop):
            try:
                return await work(dialer, interrupted), interrupted.number
            finally:
                await dialer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(everything())
