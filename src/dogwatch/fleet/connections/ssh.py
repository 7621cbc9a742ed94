"""SSH by asyncssh, as OpenSSH's own configuration has it; host keys are always verified."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import asyncssh
import msgspec

from dogwatch.core.units import format_duration
from dogwatch.fleet.connection import (
    Become,
    Connection,
    Ended,
    HostFailed,
    NotBegun,
    Output,
    RemoteCommand,
    State,
    shell_line,
)
from dogwatch.fleet.drive import Channel, Drive, prepared
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
_NONE = ("none", "/dev/null")
_CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
# Options of ssh's command line that mean nothing here: asyncssh shares connections and never prompts.
_PASSED_OVER = frozenset(
    {
        "controlmaster", "controlpath", "controlpersist", "batchmode", "loglevel", "compression", "forwardagent",
        "passwordauthentication", "kbdinteractiveauthentication", "preferredauthentications", "requesttty",
        "gssapiauthentication", "connectionattempts", "tcpkeepalive", "visualhostkey", "updatehostkeys", "checkhostip",
        "serveralivecountmax", "pubkeyauthentication", "hashknownhosts", "identityagent", "addressfamily", "port",
    }
)  # fmt: skip


class SshOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every connection. configs, known_hosts: files; empty for those that OpenSSH reads.

    accept_new: take the key of a host that has none in known_hosts, and keep it there; a changed key is never taken.
    """

    configs: tuple[str, ...] | None = None
    known_hosts: tuple[str, ...] = ()
    accept_new: bool = False
    connect_timeout_s: float = 10.0
    keepalive_s: float = 15.0


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
            self._keep(self.file, key)
        self.refused = ""
        return True

    def _keep(self, file: Path, key: asyncssh.SSHKey) -> None:
        line = f"{self.name} {key.export_public_key().decode().strip()}\n"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One write of one line in append mode: connections to other hosts write here at the same time.
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


class SshDialer:
    """Opens SSH connections, and shares those to jump hosts. Files are read once for all of them."""

    def __init__(self, options: SshOptions) -> None:
        self._options = options
        # It tells each connection and each channel: thousands of lines that say nothing to anybody.
        asyncssh.set_log_level("ERROR")
        given = _CONFIGS if options.configs is None else options.configs
        self._configs = [str(path) for text in given if (path := Path(text).expanduser()).is_file()]
        # Who names ciphers in a configuration gets these.
        self._own_ciphers = any("ciphers" in Path(path).read_text(errors="replace").lower() for path in self._configs)
        self._known: dict[tuple[str, ...], Any] = {}
        self._keys: dict[tuple[str, str], Any] = {}
        self._taken: dict[str, str] = {}
        self._jumps: dict[str, asyncio.Task[asyncssh.SSHClientConnection]] = {}

    async def open(self, login: Login) -> SshConnection:
        """Return a connection to the host. Raises: HostFailed."""
        judge = _Judge(accept=self._options.accept_new, taken=self._taken)
        limit_s = self._options.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return SshConnection(await self._connect(login, judge), open_s=limit_s)
        except TimeoutError:
            raise HostFailed(
                State.TIMED_OUT, f"took longer than {format_duration(limit_s)} {judge.phase}: {_where(login)}"
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
        try:
            settings = self._settings(login, judge)
            jump = self._trust(settings, login, judge)
        except (asyncssh.Error, asyncssh.ConfigParseError, asyncssh.KeyImportError, OSError, ValueError) as error:
            raise HostFailed(State.MISCONFIGURED, f"cannot connect to {_where(login)}: {error}") from None
        settings["tunnel"] = await self._jump(jump, judge) if jump else None
        try:
            return await asyncssh.connect(**settings)
        except asyncssh.Error as error:
            raise _from_ssh(error, login, judge) from None
        except (asyncssh.KeyImportError, ValueError) as error:
            raise HostFailed(State.MISCONFIGURED, f"cannot connect to {_where(login)}: {error}") from None
        except OSError as error:
            raise _from_socket(error, login) from None

    def _settings(self, login: Login, judge: _Judge) -> dict[str, Any]:
        extra = login.options
        unknown = set(extra) - _PASSED_OVER - _UNDERSTOOD
        if unknown:
            raise ValueError(f"options of ssh that are not understood here: {', '.join(sorted(unknown))}")
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
        if login.key is not None:
            settings["client_keys"] = self._key(login.key, extra.get("certificatefile", ""))
        if login.password is not None:
            settings["password"] = login.password
        if "proxycommand" in extra:
            settings["proxy_command"] = extra["proxycommand"]
        return settings

    def _trust(self, settings: dict[str, Any], login: Login, judge: _Judge) -> str:
        """Say which keys are known; return the jump hosts. With `UserKnownHostsFile none`, nobody."""
        name, port, configured, tunnel = _configured(settings)
        named = tuple(login.options.get("userknownhostsfile", "").split()) or self._options.known_hosts
        files = tuple(str(name) for name in named or configured or _KNOWN_HOSTS)
        usable = tuple(file for file in files if file.lower() not in _NONE)
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


_UNDERSTOOD = frozenset(
    {"config", "stricthostkeychecking", "userknownhostsfile", "proxycommand", "certificatefile", "identitiesonly",
     "serveraliveinterval", "connecttimeout"}
)  # fmt: skip


def _configured(settings: Mapping[str, Any]) -> tuple[str, int | None, tuple[str, ...], object]:
    """Return what OpenSSH's configuration says of a host: name in known_hosts, port, known_hosts files, jump hosts."""
    if settings["config"] is None:
        return settings["host"], settings.get("port"), (), None
    # Without loading keys: connecting does that.
    read = asyncssh.SSHClientConnectionOptions(**{**settings, "client_keys": None})
    files = tuple(map(str, read.known_hosts)) if isinstance(read.known_hosts, list | tuple) else ("none",)
    return read.host_key_alias or read.host, read.port, files, read.tunnel


class SshConnection(Connection):
    """One connection, for any number of commands one after the other. open_s: how long a session may take to begin."""

    def __init__(self, ssh: asyncssh.SSHClientConnection, *, open_s: float = 10.0) -> None:
        self.ssh = ssh
        self._open_s = open_s

    @property
    def alive(self) -> bool:
        return not self.ssh.is_closed()

    async def run(self, command: RemoteCommand, output: Output | None = None) -> Ended:
        script, gate = prepared(command)
        mark = f"dogwatch-pid-{secrets.token_hex(8)} "
        try:
            # It tells the number of its process group, as servers send no signals to the sessions of root; and it
            # waits for a word from us, so that nothing is begun there after we have given up (a slow login shell).
            line = shell_line(f"echo {mark}$$ >&2; read -r _ || exit 125; {script}")
            async with asyncio.timeout(self._open_s):
                process = await self.ssh.create_process(line, encoding=None)
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
        session = _Session(process, mark.encode(), lambda number, name: self._kill(number, name, command.become))
        return await Drive(session, command, gate, output).run()

    async def _kill(self, number: int, name: str, become: Become | None) -> None:
        script, gate = prepared(RemoteCommand(script=f"kill -s {name} -- -{number}", become=become))
        try:
            process = await self.ssh.create_process(shell_line(script), encoding=None)
        except (asyncssh.Error, OSError):
            return
        await Drive(_Session(process, b"", None), RemoteCommand(script="", timeout_s=2.0), gate, None).run()

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


class _Session(Channel):
    """A command's channel. mark: what stands before its process group's number, the first that it says on stderr."""

    def __init__(
        self,
        process: asyncssh.SSHClientProcess[bytes],
        mark: bytes,
        kill: Callable[[int, str], Awaitable[None]] | None,
    ) -> None:
        self._process = process
        self._mark = mark
        self._kill = kill
        self._refusal = b""
        self._number = 0
        self._early = b""
        self._told = asyncio.Event()  # the number, or the end of stderr
        if not mark:
            self._told.set()

    async def ready(self) -> None:
        await self._told.wait()

    async def read(self, stream: str) -> bytes:
        reader = self._process.stdout if stream == "stdout" else self._process.stderr
        try:
            data = await reader.read(_PIECE)
            while stream == "stderr" and self._mark and data:
                self._early += data
                before, mark, rest = self._early.partition(self._mark)
                number, end, after = rest.partition(b"\n")
                if mark and end:
                    self._number = int(number) if number.isdigit() else 0
                    self._mark = self._early = b""
                    await self.write(b"\n")
                    self._told.set()
                    if before + after:
                        return before + after
                self._early = self._early[-_PIECE:]
                data = await reader.read(_PIECE)
        except (asyncssh.Error, OSError):
            data = b""  # the end of the connection is told by wait
        if not data and stream == "stderr":
            data, self._early = self._early, b""
            self._refusal = self._refusal or (data if self._mark else b"")
            self._told.set()
        return data

    async def write(self, data: bytes) -> None:
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except asyncssh.Error as error:
            raise OSError(str(error)) from None

    def end_input(self) -> None:
        self._process.stdin.write_eof()

    async def wait(self) -> tuple[int | None, str]:
        # wait_closed and not wait: that one reads the output itself.
        await self._process.wait_closed()
        code, signal = self._process.exit_status, self._process.exit_signal
        if signal:
            return None, signal[0]
        await self._told.wait()
        if code is not None and self._mark:
            lines = self._refusal.decode(errors="replace").split("\n")
            told = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")
            raise HostFailed(State.MISCONFIGURED, f"the login shell there did not start /bin/sh: {told[:300]}")
        if code is None or code < 0:
            raise HostFailed(State.LOST, "the connection was lost while the command ran; it may still run there")
        return code, ""

    async def signal(self, name: str) -> None:
        with contextlib.suppress(asyncssh.Error, OSError):
            self._process.send_signal(name)
        if self._kill is not None and self._number > 1:
            await self._kill(self._number, name)

    async def close(self) -> None:
        self._process.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._process.wait_closed()


def _where(login: Login) -> str:
    address = login.address or login.host
    return f"{address}:{login.port}" if login.port else address


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _from_socket(error: OSError, login: Login) -> HostFailed:
    where = _where(login)
    if isinstance(error, socket.gaierror):
        return HostFailed(State.UNREACHABLE, f"the name of {where} cannot be resolved")
    refused = isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED
    # Several addresses of one name: asyncio joins what each of them said.
    if refused or (error.errno is None and "refused" in str(error).lower()):
        return HostFailed(State.REFUSED, f"{where} refuses connections")
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return HostFailed(State.LOST, f"{where} closed the connection before the login was done")
    return HostFailed(State.UNREACHABLE, f"{where} cannot be reached: {(error.strerror or str(error)).lower()}")


def _from_ssh(error: asyncssh.Error, login: Login, judge: _Judge) -> HostFailed:
    where = _where(login)
    if isinstance(error, asyncssh.HostKeyNotVerifiable) or (
        isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error).lower()
    ):
        if judge.known or "revoked" in str(error).lower():
            hint = "the host was made anew, or somebody is in between: find out before you change known_hosts"
            told = f"{where} shows another host key than known_hosts has"
            return HostFailed(State.WRONG_HOST_KEY, f"{told}: {judge.refused or error}", hint=hint)
        hint = "compare its fingerprint, then --accept-new-host-keys keeps it"
        return HostFailed(State.UNKNOWN_HOST_KEY, f"{where} is not in known_hosts: {judge.refused or error}", hint=hint)
    if isinstance(error, asyncssh.PermissionDenied):
        user = f" of {login.user}" if login.user else ""
        return HostFailed(
            State.AUTHENTICATION_FAILED, f"{where} does not take the login{user}: no key or password that it knows"
        )
    if isinstance(error, asyncssh.ConnectionLost):
        return HostFailed(State.LOST, f"{where} closed the connection while {judge.phase}")
    if isinstance(error, asyncssh.ChannelOpenError):
        return HostFailed(State.UNREACHABLE, f"{where} cannot be reached through the jump host: {error.reason}")
    return HostFailed(State.LOST, f"{where}: {str(error).lower()} ({judge.phase})")
