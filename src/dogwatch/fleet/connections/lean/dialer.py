"""Which logins go by the lean lane, and how they are opened there."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dogwatch.core.units import format_duration
from dogwatch.fleet.connection import HostFailed, NotBegun, State
from dogwatch.fleet.connections import words
from dogwatch.fleet.connections.commands import Process, SshCommands
from dogwatch.fleet.connections.hostkeys import Judge, KnownHosts, NotUnderstood, Refused, append_line
from dogwatch.fleet.connections.lean.channel import ChannelRefused
from dogwatch.fleet.connections.lean.exchange import SIGNATURES
from dogwatch.fleet.connections.lean.keys import Signer, read_signer
from dogwatch.fleet.connections.lean.plain import is_plain
from dogwatch.fleet.connections.lean.transport import Gone, NotTaken, Transport
from dogwatch.fleet.connections.lean.wire import Broken, Unusual
from dogwatch.fleet.connections.ssh import KNOWN_HOSTS, NOBODY
from dogwatch.fleet.login import Login

if TYPE_CHECKING:
    from dogwatch.fleet.connections.ssh import SshOptions

# What a host may have in its arguments for ssh and still go by this lane.
_OTHER_LANE = frozenset({"config", "proxycommand", "certificatefile"})
_CLOSE_S = 1.0


class LeanDialer:
    """configs: OpenSSH's files that are there. taken: keys of new hosts, shared with the other lane."""

    def __init__(self, options: SshOptions, configs: Sequence[str], taken: dict[str, str]) -> None:
        self._options = options
        self._taken = taken
        self._usable = is_plain(configs)
        self._known: dict[tuple[str, ...], KnownHosts | None] = {}
        self._signers: dict[str, Signer | None] = {}
        self._user = ""

    async def open(self, login: Login) -> LeanConnection | None:
        """Return a connection, None where the other lane has to open it. Raises: HostFailed."""
        signer = self._signer(login)
        files = self._files(login)
        known = self._known_hosts(files)
        if signer is None or known is None:
            return None
        limit_s = self._options.connect_timeout_s
        transport = Transport(
            login.user or self._me(),
            [signer],
            self._judging(login, known, files),
            keepalive_s=self._options.keepalive_s,
        )
        try:
            async with asyncio.timeout(limit_s):
                await _connected(login, transport)
        except TimeoutError:
            raise HostFailed(
                State.TIMED_OUT, f"took longer than {format_duration(limit_s)} {transport.phase}: {words.where(login)}"
            ) from None
        except Unusual:
            return None
        return LeanConnection(transport, open_s=limit_s)

    def _signer(self, login: Login) -> Signer | None:
        """Return the key that logs in, None where that or anything else about the login is not for this lane."""
        jump = (login.jump or "none").lower() != "none"
        if (
            not self._usable
            or jump
            or login.password is not None
            or not login.key
            or _OTHER_LANE & login.options.keys()
        ):
            return None
        if login.key not in self._signers:
            self._signers[login.key] = read_signer(Path(login.key).expanduser())
        return self._signers[login.key]

    def _files(self, login: Login) -> tuple[str, ...]:
        named = tuple(login.options.get("userknownhostsfile", "").split()) or self._options.known_hosts or KNOWN_HOSTS
        return tuple(file for file in named if file.lower() not in NOBODY)

    def _known_hosts(self, files: tuple[str, ...]) -> KnownHosts | None:
        if files not in self._known:
            try:
                there = [path for file in files if (path := Path(file).expanduser()).is_file()]
                self._known[files] = KnownHosts(there)
            except (NotUnderstood, OSError):
                self._known[files] = None
        return self._known[files]

    def _me(self) -> str:
        self._user = self._user or getpass.getuser()
        return self._user

    def _judging(
        self, login: Login, known: KnownHosts, files: Sequence[str]
    ) -> Callable[[str], tuple[Sequence[str], Callable[[bytes], None]]]:
        host, port = login.address or login.host, login.port
        port = port or _number(login.options.get("port"))
        name = host if port in (None, 22) else f"[{host}]:{port}"

        def keep(key: str) -> None:
            if files:
                append_line(Path(files[0]).expanduser(), f"{name} {key}\n")

        strict = login.options.get("stricthostkeychecking", "").lower()
        judge = Judge(
            known_hosts=known,
            host=host,
            port=port,
            name=name,
            accept=self._options.accept_new or strict in ("no", "off", "accept-new"),
            taken=self._taken,
            keep=keep,
        )

        def trust(blob: bytes) -> None:
            try:
                judge.take(blob)
            except Refused as error:
                raise words.host_key(login, error, known=error.known) from None

        def judged(address: str) -> tuple[Sequence[str], Callable[[bytes], None]]:
            there = judge.meet(address)
            if there.authorities:
                raise Unusual("its key may come with a certificate")
            # A host is asked for a key of a kind that it is known by: with another one it would look changed.
            kinds = [kind for kind in SIGNATURES if kind in there.trusted.values()]
            if there.trusted and not kinds:
                raise Unusual("it is known by a kind of key that is not used here")
            return kinds or tuple(SIGNATURES), trust

        return judged


async def _connected(login: Login, transport: Transport) -> None:
    """Connect and log in. Raises: HostFailed, Unusual."""
    loop = asyncio.get_running_loop()
    port = login.port or _number(login.options.get("port")) or 22
    wire = None
    try:
        wire, _ = await loop.create_connection(lambda: transport, login.address or login.host, port)
        await transport.ready
    except NotTaken:
        raise words.not_taken(login) from None
    except Gone as error:
        raise (
            words.broken(login, error, transport.phase) if error.code else words.closed(login, transport.phase)
        ) from None
    except Broken as error:
        raise words.broken(login, error, transport.phase) from None
    except (OSError, UnicodeError) as error:
        raise words.by_socket(error if isinstance(error, OSError) else socket.gaierror(), login) from None
    finally:
        if wire is not None and (
            transport.error is not None or not transport.ready.done() or transport.ready.cancelled()
        ):
            wire.abort()
            await transport.closed


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


class LeanConnection(SshCommands):
    """One connection. open_s: how long a session may take to begin."""

    def __init__(self, transport: Transport, *, open_s: float) -> None:
        self._transport = transport
        self._open_s = open_s

    @property
    def alive(self) -> bool:
        return not self._transport.lost and self._transport.error is None

    async def start(self, line: str) -> Process:
        if not self.alive:
            raise NotBegun(State.LOST, "the connection was lost before the command began: it is closed")
        try:
            async with asyncio.timeout(self._open_s):
                channel = self._transport.open_channel()
                await channel.start(line)
                return channel
        except ChannelRefused as error:
            if not self.alive:
                raise NotBegun(State.LOST, f"the server opens no session: {error}") from None
            raise HostFailed(State.MISCONFIGURED, f"the server opens no session: {error}") from None
        except TimeoutError:
            self._transport.abort()
            told = f"took longer than {format_duration(self._open_s)} opening a session"
            raise NotBegun(State.TIMED_OUT, told) from None

    async def close(self) -> None:
        self._transport.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.shield(self._transport.closed)
        except TimeoutError:
            self._transport.abort()
            await self._transport.closed
