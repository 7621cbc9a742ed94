"""SSH by asyncssh, as OpenSSH's own configuration has it: jump hosts, agents, certificates, passwords, old servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncssh
import msgspec

from dogwatch.core.units import format_duration
from dogwatch.fleet.connection import HostFailed, NotBegun, State
from dogwatch.fleet.connections import words
from dogwatch.fleet.connections.commands import Process, SshCommands
from dogwatch.fleet.connections.configured import Settings
from dogwatch.fleet.connections.hostkeys import append_line
from dogwatch.fleet.connections.lean.keys import read_identity
from dogwatch.fleet.connections.ssh import KNOWN_HOSTS, NOBODY, SshOptions
from dogwatch.fleet.login import Login

_PIECE = 65536
# As OpenSSH's list, but AES-GCM first: here it costs a third of what ChaCha20 does.
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)


class _Client(asyncssh.SSHClient):
    """Knows how far a connection came, and what became of the host's key."""

    def __init__(self, judge: _Judge) -> None:
        self._judge = judge

    def connection_made(self, _conn: asyncssh.SSHClientConnection) -> None:
        self._judge.phase = "waiting for its banner and key"

    def begin_auth(self, username: str) -> None:  # noqa: ARG002
        self._judge.phase = "logging in"

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._judge.take(host, addr, port, key)


class _Judge(msgspec.Struct):
    """Decides about a host's key that known_hosts does not vouch for. name: as known_hosts writes it."""

    keys: Any = None
    known: bool = False
    accept: bool = False
    name: str = ""
    file: Path | None = None
    phase: str = "connecting"
    refused: str = ""
    # What was taken since known_hosts was read: a second connection must not bring yet another key.
    taken: dict[str, str] = {}

    def take(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.refused = key.get_fingerprint()
        # By its address, too: a name that is new for a machine that is known must not bring another key.
        self.known = self.known or self.keys is None or any(self.keys.match(host, addr, port)[:3])
        before = self.taken.get(self.name)
        if before is not None and before == self.refused:
            self.refused = ""
            return True
        self.known = self.known or before is not None
        if self.known or not self.accept:
            return False
        self.taken[self.name] = self.refused
        if self.file is not None:
            append_line(self.file, f"{self.name} {key.export_public_key().decode().strip()}\n")
        self.refused = ""
        return True


class GeneralDialer:
    """Opens SSH connections, and shares those to jump hosts. Files are read once for all of them.

    settings_of: what OpenSSH's configuration says of a host, where it was understood by our own reader.
    """

    def __init__(
        self,
        options: SshOptions,
        configs: Sequence[str],
        taken: dict[str, str],
        settings_of: Callable[[Login], Settings | None],
    ) -> None:
        self._options = options
        self._settings_of = settings_of
        # It tells each connection and each channel: thousands of lines that say nothing to anybody.
        asyncssh.set_log_level("ERROR")
        self._configs = list(configs)
        # Who names ciphers in a configuration gets these.
        self._own_ciphers = any("ciphers" in Path(path).read_text(errors="replace").lower() for path in self._configs)
        self._known: dict[tuple[str, ...], Any] = {}
        self._keys: dict[tuple[str, str], Any] = {}
        self._taken = taken
        self._jumps: dict[str, asyncio.Task[asyncssh.SSHClientConnection]] = {}

    async def open(self, login: Login) -> GeneralConnection:
        """Return a connection to the host. Raises: HostFailed."""
        judge = _Judge(accept=self._options.accept_new, taken=self._taken)
        limit_s = self._options.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return GeneralConnection(await self._connect(login, judge), open_s=limit_s)
        except TimeoutError:
            raise HostFailed(
                State.TIMED_OUT, f"took longer than {format_duration(limit_s)} {judge.phase}: {words.where(login)}"
            ) from None

    async def close(self) -> None:
        """Close the connections to jump hosts."""
        for task in self._jumps.values():
            task.cancel()
        for task in self._jumps.values():
            with contextlib.suppress(asyncio.CancelledError, HostFailed, OSError):
                await _closed(await task)
        self._jumps.clear()

    async def _connect(self, login: Login, judge: _Judge) -> asyncssh.SSHClientConnection:
        read = self._settings_of(login)
        try:
            settings = self._settings(login, judge)
            self._choose_keys(settings, login, read)
            jump = self._trust(settings, login, judge, read)
        except (asyncssh.Error, asyncssh.ConfigParseError, asyncssh.KeyImportError, OSError, ValueError) as error:
            raise HostFailed(State.MISCONFIGURED, f"cannot connect to {words.where(login)}: {error}") from None
        settings["tunnel"] = await self._jump(jump, judge) if jump else None
        try:
            return await asyncssh.connect(**settings)
        except asyncssh.Error as error:
            raise _from_ssh(error, login, judge) from None
        except (asyncssh.KeyImportError, ValueError) as error:
            raise HostFailed(State.MISCONFIGURED, f"cannot connect to {words.where(login)}: {error}") from None
        except OSError as error:
            raise words.by_socket(error, login) from None

    def _settings(self, login: Login, judge: _Judge) -> dict[str, Any]:
        extra = login.options
        settings: dict[str, Any] = {
            "host": login.address or login.host,
            "config": [extra["config"]] if "config" in extra else self._configs or None,
            "client_factory": lambda: _Client(judge),
            "compression_algs": None,
            "keepalive_interval": self._options.keepalive_s,
            "connect_timeout": None,
            "login_timeout": self._options.connect_timeout_s,
            "gss_auth": False,
            "gss_kex": False,
            "send_env": None,
            "request_pty": False,
            "command": None,
        }
        if not self._own_ciphers and "config" not in extra:
            settings["encryption_algs"] = _CIPHERS
        if (port := login.port or _number(extra.get("port"))) is not None:
            settings["port"] = port
        if login.user is not None:
            settings["username"] = login.user
        if login.password is not None:
            settings["password"] = login.password
        if "proxycommand" in extra:
            settings["proxy_command"] = extra["proxycommand"]
        return settings

    def _choose_keys(self, settings: dict[str, Any], login: Login, read: Settings | None) -> None:
        """Say which keys are tried. A file of the configuration that is not there is passed over, as by OpenSSH."""
        if login.key is not None:
            try:
                settings["client_keys"] = self._key(login.key, login.options.get("certificatefile", ""))
            except asyncssh.KeyImportError as error:
                blob = read_identity(Path(login.key).expanduser()).blob
                if not blob or not _agent(read):
                    raise asyncssh.KeyImportError(f"{login.key}: {str(error).lower()}") from None
                settings["agent_identities"] = [blob]  # an agent may have what is sealed in the file
        elif read is not None and read.identities is not None:
            there = [file for file in read.identities if Path(file).is_file()]
            if len(there) < len(read.identities):
                # An empty list means the usual files, and without a list no agent is asked either.
                none: list[Any] | None = [] if _agent(read) else None
                settings["client_keys"] = asyncssh.load_keypairs(there, ignore_encrypted=True) if there else none
        if read is not None and read.agent is not None:
            settings["agent_path"] = read.agent

    def _trust(self, settings: dict[str, Any], login: Login, judge: _Judge, read: Settings | None) -> str:
        """Say which keys are known; return the jump hosts. With `UserKnownHostsFile none`, nobody."""
        name, port, configured, tunnel = _configured(settings)
        named = tuple(login.options.get("userknownhostsfile", "").split()) or self._options.known_hosts
        if read is not None and read.known_hosts:
            configured = read.known_hosts
        files = tuple(str(name) for name in named or configured or KNOWN_HOSTS)
        usable = tuple(file for file in files if file.lower() not in NOBODY)
        settings["known_hosts"] = judge.keys = self._known_hosts(usable)
        judge.name = name if port in (None, 22) else f"[{name}]:{port}"
        judge.known = any(judge.keys.match(name, "", port)[:3])
        judge.file = Path(usable[0]).expanduser() if usable else None
        strict = login.options.get("stricthostkeychecking", "").lower()
        judge.accept = judge.accept or strict in ("no", "off", "accept-new")
        jump = login.jump if login.jump is not None else tunnel
        return jump if isinstance(jump, str) and jump.lower() != "none" else ""

    def _known_hosts(self, files: tuple[str, ...]) -> Any:
        found = self._known.get(files)
        if found is None:
            there = [str(path) for file in files if (path := Path(file).expanduser()).is_file()]
            try:
                found = asyncssh.read_known_hosts(there) if there else asyncssh.import_known_hosts("")
            except (OSError, ValueError) as error:
                raise HostFailed(State.MISCONFIGURED, f"known_hosts cannot be read: {error}") from None
            self._known[files] = found
        return found

    def _key(self, path: str, certificate: str) -> Any:
        found = self._keys.get((path, certificate))
        if found is None:
            file = Path(path).expanduser()
            certificates = [str(Path(certificate).expanduser())] if certificate else ()
            found = self._keys[path, certificate] = asyncssh.load_keypairs([str(file)], certlist=certificates)
        return found

    async def _jump(self, chain: str, judge: _Judge) -> asyncssh.SSHClientConnection:
        """Return the connection to the last host of `user@first:22,last`; hosts behind it share it."""
        task = self._jumps.get(chain)
        if task is None or (task.done() and (task.cancelled() or task.exception() or task.result().is_closed())):
            task = self._jumps[chain] = asyncio.create_task(self._open_jump(chain), name=f"fleet-jump-{chain}")
        judge.phase = f"connecting to the jump host {chain}"
        try:
            return await asyncio.shield(task)
        except HostFailed as error:
            raise HostFailed(error.state, f"jump host {chain}: {error}", hint=error.hint) from None

    async def _open_jump(self, chain: str) -> asyncssh.SSHClientConnection:
        before, _, last = chain.rpartition(",")
        user, _, place = last.rpartition("@")
        host, colon, port = place.rpartition(":")
        if not colon or not port.isdigit() or (":" in host and not host.endswith("]")):
            host, port = place, ""
        login = Login(
            host=host.strip("[]").removeprefix("ssh://"),
            port=int(port) if port else None,
            user=user or None,
            jump=before or None,
        )
        return (await self.open(login)).ssh


def _agent(read: Settings | None) -> str:
    return os.environ.get("SSH_AUTH_SOCK", "") if read is None or read.agent is None else read.agent


def _configured(settings: Mapping[str, Any]) -> tuple[str, int | None, tuple[str, ...], object]:
    """Return what OpenSSH's configuration says of a host: name in known_hosts, port, known_hosts files, jump hosts."""
    if settings["config"] is None:
        return settings["host"], settings.get("port"), (), None
    # Without loading keys: connecting does that.
    read = asyncssh.SSHClientConnectionOptions(**{**settings, "client_keys": None})
    files = tuple(map(str, read.known_hosts)) if isinstance(read.known_hosts, list | tuple) else ("none",)
    return read.host_key_alias or read.host, read.port, files, read.tunnel


class GeneralConnection(SshCommands):
    """One connection. open_s: how long a session may take to begin."""

    def __init__(self, ssh: asyncssh.SSHClientConnection, *, open_s: float = 10.0) -> None:
        self.ssh = ssh
        self._open_s = open_s

    @property
    def alive(self) -> bool:
        return not self.ssh.is_closed()

    async def start(self, line: str) -> Process:
        try:
            async with asyncio.timeout(self._open_s):
                return _Process(await self.ssh.create_process(line, encoding=None))
        except asyncssh.ChannelOpenError as error:
            if self.ssh.is_closed():
                raise NotBegun(State.LOST, f"the server opens no session: {error.reason}") from None
            raise HostFailed(State.MISCONFIGURED, f"the server opens no session: {error.reason}") from None
        except TimeoutError:
            self.ssh.abort()
            told = f"took longer than {format_duration(self._open_s)} opening a session"
            raise NotBegun(State.TIMED_OUT, told) from None
        except (asyncssh.Error, OSError) as error:
            raise NotBegun(State.LOST, f"the connection was lost before the command began: {error}") from None

    async def close(self) -> None:
        await _closed(self.ssh)


async def _closed(ssh: asyncssh.SSHClientConnection) -> None:
    """Close politely, and after a second without courtesy: the other side may be gone."""
    ssh.close()
    try:
        async with asyncio.timeout(1.0):
            await ssh.wait_closed()
    except TimeoutError:
        ssh.abort()
        await ssh.wait_closed()


class _Process(Process):
    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process

    async def read(self, stream: str) -> bytes:
        reader = self._process.stdout if stream == "stdout" else self._process.stderr
        try:
            return await reader.read(_PIECE)
        except (asyncssh.Error, OSError):
            return b""  # the end of the connection is told by ended

    async def write(self, data: bytes) -> None:
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except asyncssh.Error as error:
            raise OSError(str(error)) from None

    def end_input(self) -> None:
        self._process.stdin.write_eof()

    async def ended(self) -> tuple[int | None, str]:
        # wait_closed and not wait: that one reads the output itself.
        await self._process.wait_closed()
        code, signal = self._process.exit_status, self._process.exit_signal
        return (None if code is None or code < 0 else code), signal[0] if signal else ""

    def send_signal(self, name: str) -> None:
        with contextlib.suppress(asyncssh.Error, OSError):
            self._process.send_signal(name)

    async def close(self) -> None:
        self._process.close()
        await self._process.wait_closed()


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _from_ssh(error: asyncssh.Error, login: Login, judge: _Judge) -> HostFailed:
    if isinstance(error, asyncssh.HostKeyNotVerifiable) or (
        isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error).lower()
    ):
        if "revoked" in str(error).lower():
            return words.host_key(login, "the key is revoked", known=True)
        return words.host_key(login, judge.refused or error, known=judge.known)
    if isinstance(error, asyncssh.PermissionDenied):
        return words.not_taken(login)
    if isinstance(error, asyncssh.ConnectionLost):
        return words.closed(login, judge.phase)
    if isinstance(error, asyncssh.ChannelOpenError):
        return HostFailed(
            State.UNREACHABLE, f"{words.where(login)} cannot be reached through the jump host: {error.reason}"
        )
    return words.broken(login, error, judge.phase)
