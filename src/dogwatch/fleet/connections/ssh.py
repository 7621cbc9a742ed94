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
from dogwatch.fleet.connections.configured import Configuration, NotRead, Settings
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


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


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
        self._configuration: Configuration | None = None
        with contextlib.suppress(NotRead):
            self._configuration = Configuration(self._configs)
        if options.lean:
            # A library that is too old for it has the general lane alone.
            with contextlib.suppress(ImportError):
                from dogwatch.fleet.connections.lean.dialer import LeanDialer

                self._lean = LeanDialer(options, self._taken)

    async def open(self, login: Login) -> Connection:
        """Return a connection to the host. Raises: HostFailed."""
        unknown = set(login.options) - PASSED_OVER - UNDERSTOOD
        if unknown:
            told = f"options of ssh that are not understood here: {', '.join(sorted(unknown))}"
            raise HostFailed(State.MISCONFIGURED, f"cannot connect to {words.where(login)}: {told}")
        settings = self._settings(login)
        if self._lean is not None and settings is not None:
            connection = await self._lean.open(login, settings)
            if connection is not None:
                return connection
        if self._general is None:
            from dogwatch.fleet.connections.general import GeneralDialer

            self._general = GeneralDialer(self._options, self._configs, self._taken, self._settings)
        return await self._general.open(login)

    def _settings(self, login: Login) -> Settings | None:
        """Return what OpenSSH's configuration says of the host, None where only asyncssh's reader may know."""
        if self._configuration is None or "config" in login.options:
            return None
        port = login.port or _number(login.options.get("port"))
        return self._configuration.of(login.address or login.host, user=login.user, port=port)

    async def close(self) -> None:
        """Close the connections to jump hosts."""
        if self._general is not None:
            await self._general.close()
