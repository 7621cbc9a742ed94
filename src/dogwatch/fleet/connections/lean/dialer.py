"""Which logins go by the lean lane, and how they are opened there."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dogwatch.core.units import format_duration
from dogwatch.fleet.connection import HostFailed, NotBegun, State
from dogwatch.fleet.connections import words
from dogwatch.fleet.connections.commands import Process, SshCommands
from dogwatch.fleet.connections.configured import Settings
from dogwatch.fleet.connections.hostkeys import Judge, KnownHosts, NotUnderstood, Refused, append_line
from dogwatch.fleet.connections.lean.agent import Agent
from dogwatch.fleet.connections.lean.channel import ChannelRefused
from dogwatch.fleet.connections.lean.exchange import SIGNATURES
from dogwatch.fleet.connections.lean.keys import Identity, Signer, read_identity
from dogwatch.fleet.connections.lean.transport import Gone, NotTaken, Transport
from dogwatch.fleet.connections.lean.wire import Broken, Unusual
from dogwatch.fleet.connections.ssh import KNOWN_HOSTS, NOBODY
from dogwatch.fleet.login import Login

if TYPE_CHECKING:
    from dogwatch.fleet.connections.ssh import SshOptions

# What a host may not have in its arguments for ssh and still go by this lane.
_OTHER_LANE = frozenset({"config", "proxycommand", "certificatefile"})
_CLOSE_S = 1.0
# Those of OpenSSH that are files with a whole key: what else it tries needs a device, or is out of use.
_DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


class _Keys(msgspec.Struct, frozen=True):
    """What a login is tried with. agent: its socket, "" for none. only: the keys that it is asked for; None for all."""

    signers: tuple[Signer, ...]
    agent: str
    only: frozenset[bytes] | None


class LeanDialer:
    """taken: keys of new hosts, shared with the other lane."""

    def __init__(self, options: SshOptions, taken: dict[str, str]) -> None:
        self._options = options
        self._taken = taken
        self._known: dict[tuple[str, ...], KnownHosts | None] = {}
        self._identities: dict[str, Identity] = {}

    async def open(self, login: Login, settings: Settings) -> LeanConnection | None:
        """Return a connection, None where the other lane has to open it. Raises: HostFailed."""
        keys = self._keys(login, settings)
        files = self._files(login, settings)
        known = self._known_hosts(files)
        if keys is None or known is None:
            return None
        limit_s = self._options.connect_timeout_s
        agent = Agent(keys.agent) if keys.agent else None
        tried = {signer.blob for signer in keys.signers}

        async def more() -> Sequence[Signer]:
            return [] if agent is None else await agent.signers(only=keys.only, but=tried)

        transport = Transport(
            settings.user,
            keys.signers,
            self._judging(login, settings, known, files),
            keepalive_s=self._options.keepalive_s,
            more=more,
        )
        try:
            async with asyncio.timeout(limit_s):
                await _connected(login, settings, transport)
        except TimeoutError:
            raise HostFailed(
                State.TIMED_OUT, f"took longer than {format_duration(limit_s)} {transport.phase}: {words.where(login)}"
            ) from None
        except Unusual:
            return None
        finally:
            if agent is not None:
                await agent.close()
        return LeanConnection(transport, open_s=limit_s)

    def _keys(self, login: Login, settings: Settings) -> _Keys | None:
        """Return what logs in, None where that or anything else about the login is not for this lane."""
        jump = (login.jump or "none").lower() != "none"
        if not settings.plain or jump or login.password is not None or _OTHER_LANE & login.options.keys():
            return None
        named = (login.key,) if login.key else settings.identities
        found = [self._identity(file) for file in (_DEFAULT_KEYS if named is None else named)]
        agent = os.environ.get("SSH_AUTH_SOCK", "") if settings.agent is None else settings.agent
        signers = tuple(signer for one in found for signer in one.signers)
        if any(one.there and not one.usable for one in found) or not (signers or agent):
            return None
        only = settings.identities_only or login.options.get("identitiesonly", "").lower() == "yes"
        blobs = frozenset(one.blob for one in found if one.blob)
        if login.key and not signers:
            # It is asked for by name: an agent may have it, and the other lane says what is wrong with the file.
            return _Keys((), agent, blobs) if agent and blobs else None
        return _Keys(signers, agent, blobs if only else None)

    def _identity(self, file: str) -> Identity:
        if file not in self._identities:
            self._identities[file] = read_identity(Path(file).expanduser())
        return self._identities[file]

    def _files(self, login: Login, settings: Settings) -> tuple[str, ...]:
        named = tuple(login.options.get("userknownhostsfile", "").split()) or self._options.known_hosts
        files = named or settings.known_hosts or KNOWN_HOSTS
        return tuple(file for file in files if file.lower() not in NOBODY)

    def _known_hosts(self, files: tuple[str, ...]) -> KnownHosts | None:
        if files not in self._known:
            try:
                there = [path for file in files if (path := Path(file).expanduser()).is_file()]
                self._known[files] = KnownHosts(there)
            except (NotUnderstood, OSError):
                self._known[files] = None
        return self._known[files]

    def _judging(
        self, login: Login, settings: Settings, known: KnownHosts, files: Sequence[str]
    ) -> Callable[[str], tuple[Sequence[str], Callable[[bytes], None]]]:
        host, port = settings.host, settings.port
        name = host if port == 22 else f"[{host}]:{port}"

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


async def _connected(login: Login, settings: Settings, transport: Transport) -> None:
    """Connect and log in. Raises: HostFailed, Unusual."""
    loop = asyncio.get_running_loop()
    wire = None
    try:
        wire, _ = await loop.create_connection(lambda: transport, settings.host, settings.port, family=settings.family)
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
