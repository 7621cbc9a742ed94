"""The `syslog` source: RFC 3164 and 5424 over UDP, TCP and TLS. What they say is for the transform of that name."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Iterable
from typing import Annotated, ClassVar

from msgspec import Meta

from dogwatch.errors import TransientError, reason_of
from dogwatch.logs.gathering import WAIT_S, Gathering, new_stream
from dogwatch.logs.source import Intake, Source
from dogwatch.logs.tls import ServerTls

_log = logging.getLogger(__name__)
_READ_BYTES = 256 * 1024
_WAITING_BYTES = 8 * 1024 * 1024
_SENDERS = 1000
_AGAIN_S = 5.0
_COUNT_DIGITS = 9
_SO_RCVBUFFORCE = 33
_QUIET_S = 120
_REASONS = 20
_COUNTED_BYTES = 1024 * 1024


class SyslogSource(Source, frozen=True, kw_only=True):
    """Takes syslog messages from other machines, each as one line; `do: [syslog]` makes columns of them.

    Over TCP messages are counted in octets or end with a newline (RFC 6587), as the sender likes; a full buffer slows
    senders down. Over UDP what comes while there is no room is lost, and counted. The protocol has no acknowledgement:
    what was taken and not accepted by a sink when the agent is killed is lost. Newlines inside a message become #012.

    udp, tcp: `address:port` to listen at, `0.0.0.0:514`; "" for not. tls: of tcp. allow: networks that may send; empty
    for all. max_message: a longer one is cut; default 64KiB. max_connections: more are refused.
    """

    kind: ClassVar[str] = "syslog"

    udp: str = ""
    tcp: str = ""
    tls: ServerTls | None = None
    allow: tuple[str, ...] = ()
    max_message: Annotated[int, Meta(ge=480, le=16 * 1024 * 1024, extra={"unit": "size"})] = 64 * 1024
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 1000

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.udp and not self.tcp:
            yield ("udp",), "listens nowhere", "udp: 0.0.0.0:514"
        for name in ("udp", "tcp"):
            if getattr(self, name) and address(getattr(self, name)) is None:
                yield (name,), "is not address:port", "0.0.0.0:514"
        if self.tls is not None and not self.tcp:
            yield ("tls",), "is of tcp, which is not there", "tcp: 0.0.0.0:6514"
        for at, one in enumerate(self.allow):
            try:
                ipaddress.ip_network(one, strict=False)
            except ValueError:
                yield ("allow", at), "is not a network", "10.0.0.0/8"

    async def run(self, intake: Intake) -> None:
        while True:
            try:
                await _Listening(self, intake).run()
            except (TransientError, OSError) as error:
                intake.trouble(
                    f"cannot listen at {' and '.join(filter(None, (self.udp, self.tcp)))}: {reason_of(error)}"
                )
                await asyncio.sleep(_AGAIN_S)


def address(text: str) -> tuple[str, int] | None:
    """Return the parts of `address:port`, `[::]:514` for IPv6; None where it is none."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return (host, int(port)) if colon and port.isdigit() and int(port) < 65536 else None


class _Listening:
    def __init__(self, options: SyslogSource, intake: Intake) -> None:
        self._options = options
        self._intake = intake
        self._allow = [ipaddress.ip_network(one, strict=False) for one in options.allow]
        self._connections: set[asyncio.Task[None]] = set()
        self._datagrams: dict[str, list[bytes]] = {}
        self._bytes = 0
        self._said: set[str] = set()
        self._gatherings: dict[str, Gathering] = {}

    async def run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self._options.udp:
                stack.push_async_callback(self._flush_datagrams)
                await self._udp(stack)
            if self._options.tcp:
                await self._tcp(stack)
            self._intake.trouble("")
            while True:
                await asyncio.sleep(WAIT_S)
                await self._flush_datagrams()

    # -- datagrams

    async def _udp(self, stack: contextlib.AsyncExitStack) -> None:
        host, port = address(self._options.udp) or ("", 0)
        server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            with contextlib.suppress(OSError):
                server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WAITING_BYTES)
                # Beyond the system's limit, where one may.
                server.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WAITING_BYTES)
            server.bind((host, port))
            server.setblocking(False)
        except OSError:
            server.close()
            raise
        loop = asyncio.get_running_loop()
        loop.add_reader(server.fileno(), self._receive, server)
        stack.callback(server.close)
        stack.callback(loop.remove_reader, server.fileno())

    def _receive(self, server: socket.socket) -> None:
        """Take all datagrams that are there: one wake-up for many."""
        for _ in range(1000):
            try:
                data, sender = server.recvfrom(65536)
            except OSError:
                return
            host = sender[0]
            if not data or not self._allowed(host):
                continue
            if self._bytes >= _WAITING_BYTES:
                self._intake.count("lost_datagrams")
                continue
            data = self._cut(data)
            self._bytes += len(data)
            self._datagrams.setdefault(host, []).append(data)

    def _cut(self, data: bytes) -> bytes:
        data = data.rstrip(b"\n\r\0")
        if len(data) > self._options.max_message:
            self._intake.count("cut_bytes", len(data) - self._options.max_message)
            data = data[: self._options.max_message]
        return data.replace(b"\n", b"#012") if b"\n" in data else data

    async def _flush_datagrams(self) -> None:
        found, self._datagrams = self._datagrams, {}
        try:
            for host, messages in found.items():
                gathering = self._gatherings.get(host)
                if gathering is None:
                    if len(self._gatherings) >= _SENDERS:
                        self._gatherings.clear()
                    gathering = Gathering(self._intake, new_stream("syslog"), f"udp://{host}")
                    self._gatherings[host] = gathering
                await gathering.add(b"\n".join(messages) + b"\n")
                await gathering.flush()
        finally:
            self._bytes = sum(len(one) for messages in self._datagrams.values() for one in messages)

    def _allowed(self, host: str) -> bool:
        if not self._allow:
            return True
        try:
            peer = ipaddress.ip_address(host.partition("%")[0].removeprefix("::ffff:"))
        except ValueError:
            return False
        if any(peer in network for network in self._allow):
            return True
        self._intake.count("refused")
        return False

    # -- connections

    async def _tcp(self, stack: contextlib.AsyncExitStack) -> None:
        host, port = address(self._options.tcp) or ("", 0)
        context = self._options.tls.context(self._stranger) if self._options.tls is not None else None
        server = await asyncio.start_server(self._connected, host, port, ssl=context, limit=_READ_BYTES)
        stack.push_async_callback(self._disconnect)
        stack.callback(server.close)

    def _stranger(self, why: str) -> None:
        """Count who is not let in, and say each reason once: a sender's own log is far away."""
        self._intake.count("refused")
        if why not in self._said and len(self._said) < _REASONS:
            self._said.add(why)
            _log.warning("log source %s: a sender was not let in: %s", self._intake.source, why)

    async def _disconnect(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peer = (writer.get_extra_info("peername") or ("?",))[0]
        if (connection := writer.get_extra_info("socket")) is not None:
            # A sender that lost its power says nothing, and must not hold a place for ever.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _QUIET_S)
        try:
            if len(self._connections) >= self._options.max_connections or not self._allowed(peer):
                self._intake.count("refused")
                return
            self._connections.add(task)
            scheme = "tcp" if self._options.tls is None else "tls"
            gathering = Gathering(self._intake, new_stream("syslog"), f"{scheme}://{peer}")
            with contextlib.suppress(OSError):
                await self._read(reader, gathering)
        except asyncio.CancelledError:
            pass  # the source ends; asyncio would log it as an error
        finally:
            self._connections.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, gathering: Gathering) -> None:
        first = await reader.read(1)
        # How a connection begins is how it goes on.
        frames = self._counted if first.isdigit() else self._lines
        rest = b""
        data = first
        try:
            while True:
                messages, rest = frames(rest + data, end=not data)
                if messages:
                    await gathering.add(b"\n".join(map(self._cut, messages)) + b"\n")
                if not data:
                    self._intake.count("cut_bytes", len(rest))
                    return
                data = await self._more(reader, gathering)
        finally:
            # Where there is no room at the end, the end does not wait for it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await gathering.flush()

    async def _more(self, reader: asyncio.StreamReader, gathering: Gathering) -> bytes:
        if gathering.waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    return await reader.read(_READ_BYTES)
            await gathering.flush()
        return await reader.read(_READ_BYTES)

    def _lines(self, data: bytes, *, end: bool) -> tuple[list[bytes], bytes]:
        """Return the messages that have ended with a newline or a NUL, and the rest. end: nothing more will come."""
        *found, rest = data.replace(b"\0", b"\n").split(b"\n")
        if rest and (end or len(rest) > self._options.max_message):
            # Never a newline: a part is a message, so that memory stays bounded.
            found.append(rest)
            rest = b""
        return [one for one in found if one], rest

    def _counted(self, data: bytes, *, end: bool) -> tuple[list[bytes], bytes]:  # noqa: ARG002
        """Return the messages that are whole by their counts, and the rest.

        Raises: ConnectionError where a count is none, or is more than memory is for.
        """
        found: list[bytes] = []
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + _COUNT_DIGITS)
            if space < 0:
                if len(data) - at >= _COUNT_DIGITS and not found:
                    raise self._broken()
                break
            digits = data[at:space].strip(b"\n")
            if not digits.isdigit() or int(digits) > max(_COUNTED_BYTES, self._options.max_message):
                if found:
                    break  # what came before is taken; then the connection ends
                raise self._broken()
            after = space + 1 + int(digits)
            if after > len(data):
                break
            found.append(data[space + 1 : after])
            at = after
        return found, data[at:]

    def _broken(self) -> ConnectionError:
        self._intake.count("broken_connections")
        return ConnectionError("a count that is none")
