"""The `syslog` sink: RFC 5424 over UDP, TCP and TLS."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import re
import socket
import termios
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from dogwatch.core.units import Seconds
from dogwatch.errors import TransientError, reason_of
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.fields import Record, level, message, time_ns
from dogwatch.logs.records import records
from dogwatch.logs.sink import Sink, Tools, Worker
from dogwatch.logs.tls import ClientTls

_PORTS = {"udp": 514, "tcp": 601, "tls": 6514}
_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "audit", "alert", "clock", *(f"local{one}" for one in range(8))),
)
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_INFO = 6
_REFUSAL_S = 0.2
# The most that one datagram carries over IPv4.
_DATAGRAM = 65_507


class SyslogSink(Sink, frozen=True, kw_only=True):
    """Sends RFC 5424 messages. The record's id is in structured data, `[dogwatch@32473 id="…"]`.

    The protocol has no answers. Over TCP and TLS a batch counts as accepted once the other machine has acknowledged its
    bytes, which is not the program that reads them; over UDP, once it is sent.

    url: `tls://logs.example:6514`, `tcp://` or `udp://`. framing: of TCP and TLS, octets (counted, RFC 6587) or lines;
    default octets. facility: default user. app: a column with the program's name, else the source is its name.
    hostname: whose; default this machine's. max_size: what is longer is cut; default 64KiB over UDP, else 1MiB. tls: of
    tls://. timeout: until the other side must have taken a batch.
    """

    kind: ClassVar[str] = "syslog"
    short: ClassVar[str] = "url"

    url: str
    framing: Literal["octets", "lines"] = "octets"
    facility: str = "user"
    app: str = "app"
    hostname: str = ""
    max_size: Annotated[int, Meta(ge=0, le=16 * 1024 * 1024, extra={"unit": "size"})] = 0
    tls: ClientTls | None = None
    timeout: Seconds = 10.0

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        parts = urlsplit(self.url)
        if parts.scheme not in _PORTS or not parts.hostname:
            yield ("url",), "is not a udp://, tcp:// or tls:// address", "tls://logs.example:6514"
        if self.facility not in _FACILITIES:
            yield ("facility",), f"'{self.facility}' is no facility", f"known: {', '.join(_FACILITIES)}"

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        worker = _Syslog(self, tools)
        await worker.connect()
        return worker


class _Syslog:
    def __init__(self, options: SyslogSink, tools: Tools) -> None:
        parts = urlsplit(options.url)
        self._options = options
        self._tools = tools
        self._scheme = parts.scheme
        self._address = (parts.hostname or "", parts.port or _PORTS[parts.scheme])
        self._facility = _FACILITIES.index(options.facility)
        self._host = _header(options.hostname or socket.gethostname(), 255)
        most = _DATAGRAM if parts.scheme == "udp" else 1024 * 1024
        self._most = min(options.max_size or most, most if parts.scheme == "udp" else options.max_size or most)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._udp: socket.socket | None = None

    async def connect(self) -> None:
        host, port = self._address
        try:
            async with asyncio.timeout(self._options.timeout):
                if self._scheme == "udp":
                    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
                    family, kind, protocol, _name, address = found[0]
                    self._udp = socket.socket(family, kind, protocol)
                    self._udp.setblocking(False)
                    self._udp.connect(address)
                    return
                context = (self._options.tls or ClientTls()).context() if self._scheme == "tls" else None
                begun_s = time.monotonic()
                self._reader, self._writer = await asyncio.open_connection(host, port, ssl=context)
                if context is not None:
                    await self._let_in(self._reader, time.monotonic() - begun_s)
        except (OSError, TimeoutError) as error:
            await self.close()
            raise TransientError(f"cannot connect to {host}:{port}: {reason_of(error)}") from None

    async def _let_in(self, reader: asyncio.StreamReader, handshake_s: float) -> None:
        """Wait for a refusal: in TLS 1.3 the server looks at our certificate when for us the handshake is over, and
        what we send until it has refused us is acknowledged, and lost.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(_REFUSAL_S, 2 * handshake_s)):
                if not await reader.read(1):
                    raise ConnectionResetError("the other side let us in, and closed the connection")

    async def write(self, blocks: Sequence[Block]) -> None:
        found = await self._tools.thread(lambda: self._messages(blocks))
        if self._reader is not None and (self._reader.at_eof() or self._reader.exception()):
            await self.close()  # it went while there was nothing to send
        if self._writer is None and self._udp is None:
            await self.connect()
        try:
            async with asyncio.timeout(self._options.timeout):
                await (self._datagrams(found) if self._udp is not None else self._stream(found))
        except (OSError, TimeoutError) as error:
            await self.close()
            raise TransientError(f"not taken: {reason_of(error)}") from None

    def _messages(self, blocks: Sequence[Block]) -> list[bytes]:
        now_ns = time.time_ns()
        return [self._message(one, now_ns)[: self._most] for block in blocks for one in records(block)]

    def _message(self, record: Record, now_ns: int) -> bytes:
        known = level(record)
        priority = self._facility * 8 + (known[1] if known else _INFO)
        at = datetime.fromtimestamp(time_ns(record, now_ns) / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        app = _header(str(record.get(self._options.app) or record["source"]), 48)
        quoted = re.sub(r'([\\"\]])', r"\\\1", str(record["id"]))
        text = message(record)
        if self._options.framing == "lines" or self._scheme == "udp":
            text = text.replace("\n", " ")
        head = f'<{priority}>1 {at} {self._host} {app} - - [dogwatch@32473 id="{quoted}"] '
        return head.encode() + text.encode("utf-8", "replace")

    async def _datagrams(self, found: Sequence[bytes]) -> None:
        assert self._udp is not None
        loop = asyncio.get_running_loop()
        for one in found:
            await loop.sock_sendall(self._udp, one)

    async def _stream(self, found: Sequence[bytes]) -> None:
        writer = self._writer
        assert writer is not None
        if self._options.framing == "lines":
            writer.writelines(one + b"\n" for one in found)
        else:
            writer.writelines(b"%d %b" % (len(one), one) for one in found)
        await writer.drain()
        await self._acknowledged(writer)

    async def _acknowledged(self, writer: asyncio.StreamWriter) -> None:
        """Wait until the other machine has every byte: what only our kernel has is lost with the connection."""
        transport = writer.transport
        connection = transport.get_extra_info("socket")
        if connection is None:
            raise ConnectionResetError("the other side closed the connection")
        descriptor = connection.fileno()
        wait_s = 0.0005
        while transport.get_write_buffer_size() or _unacknowledged(descriptor):
            if transport.is_closing():
                raise ConnectionResetError("the other side closed the connection")
            await asyncio.sleep(wait_s)
            wait_s = min(0.05, wait_s * 2)
        if transport.is_closing():
            raise ConnectionResetError("the other side closed the connection")

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """There are no answers."""

    async def close(self) -> None:
        if self._udp is not None:
            self._udp.close()
            self._udp = None
        if self._writer is not None:
            writer, self._writer, self._reader = self._writer, None, None
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()


def _unacknowledged(descriptor: int) -> int:
    found = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.TIOCOUTQ, found)
    except (OSError, ValueError):
        raise ConnectionResetError("the other side closed the connection") from None
    return found[0]


def _header(text: str, size: int) -> str:
    return _UNPRINTABLE.sub("_", text)[:size] or "-"
