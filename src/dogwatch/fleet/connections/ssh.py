"""SSH as OpenSSH's own configuration has it; host keys are always verified.

There are two lanes: a lean one for the usual login, and asyncssh for all others. They end alike, in the same words.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dogwatch.fleet.connection import Connection, HostFailed, State
from dogwatch.fleet.connections import words
from dogwatch.fleet.login import Login

if TYPE_CHECKING:
    from dogwatch.fleet.connections.general import GeneralDialer
    from dogwatch.fleet.connections.lean.dialer import LeanDialer

_CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
# Names of files that vouch for nobody.
NOBODY = ("none", "/dev/null")
# Options of ssh's command line that mean nothing here: asyncssh shares connections and never prompts.
PASSED_OVER = frozenset(
    {
        "controlmaster", "controlpath", "controlpersist", "batchmode", "loglevel", "compression", "forwardagent",
        "passwordauthentication", "kbdinteractiveauthentication", "preferredauthentications", "requesttty",
        "gssapiauthentication", "connectionattempts", "tcpkeepalive", "visualhostkey", "updatehostkeys", "checkhostip",
        "serveralivecountmax", "pubkeyauthentication", "hashknownhosts", "identityagent", "addressfamily", "port",
    }
)  # fmt: skip


UNDERSTOOD = frozenset(
    {"config", "stricthostkeychecking", "userknownhostsfile", "proxycommand", "certificatefile", "identitiesonly",
     "serveraliveinterval", "connecttimeout"}
)  # fmt: skip


class SshOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every connection. configs, known_hosts: files; empty for those that OpenSSH reads.

    accept_new: take the key of a host that has none in known_hosts, and keep it there; a changed key is never taken.
    lean: take the lean lane where it will do.
    """

    configs: tuple[str, ...] | None = None
    known_hosts: tuple[str, ...] = ()
    accept_new: bool = False
    connect_timeout_s: float = 10.0
    keepalive_s: float = 15.0
    lean: bool = True


class SshDialer:
    """Opens SSH connections, and shares those to jump hosts. Files are read once for all of them."""

    def __init__(self, options: SshOptions) -> None:
        self._options = options
        given = _CONFIGS if options.configs is None else options.configs
        self._configs = [str(path) for text in given if (path := Path(text).expanduser()).is_file()]
        # Of hosts that were not known: a second connection must not bring yet another key, by whichever lane.
        self._taken: dict[str, str] = {}
        self._lean: LeanDialer | None = None
        self._general: GeneralDialer | None = None
        if options.lean:
            # A library that is too old for it has the general lane alone.
            with contextlib.suppress(ImportError):
                from dogwatch.fleet.connections.lean.dialer import LeanDialer

                self._lean = LeanDialer(options, self._configs, self._taken)

    async def open(self, login: Login) -> Connection:
        """Return a connection to the host. Raises: HostFailed."""
        unknown = set(login.options) - PASSED_OVER - UNDERSTOOD
        if unknown:
            told = f"options of ssh that are not understood here: {', '.join(sorted(unknown))}"
            raise HostFailed(State.MISCONFIGURED, f"cannot connect to {words.where(login)}: {told}")
        if self._lean is not None:
            connection = await self._lean.open(login)
            if connection is not None:
                return connection
        if self._general is None:
            from dogwatch.fleet.connections.general import GeneralDialer

            self._general = GeneralDialer(self._options, self._configs, self._taken)
        return await self._general.open(login)

    async def close(self) -> None:
        """Close the connections to jump hosts."""
        if self._general is not None:
            await self._general.close()
