"""One connection of one attempt: TCP or a unix socket, TLS on it or later, every byte bounded, nothing left behind.

Raw non-blocking sockets rather than transports: a cancelled attempt closes its socket at once, while a transport
closes some turns later and, on uvloop, leaks a connect that was under way.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from time import perf_counter
from typing import Any, Self

import msgspec

from dogwatch.probes.addresses import SocketAddress, join_host_port, resolve_host
from dogwatch.probes.certificates import certificate_facts, earliest_expiry, peer_chain, verified_chain
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import ProbeFailed, Progress, clock_of, failure_of, inner_timeout
from dogwatch.probes.trust import TlsOptions, tls_context, tls_failure

_CHUNK = 64 * 1024
MAX_READ_BYTES = 1024 * 1024
MAX_LINE_BYTES = 64 * 1024
MAX_LINES = 5000
# What expectations may read of any connection.
CONNECTION_VARIABLES = {"ip": "string", "ip_version": "int"}
CONNECTION_MEANINGS = {
    "ip": "address that answered",
    "ip_version": "4 or 6",
}
CONNECTION_METRICS = {"ip_version": ("probe_ip_protocol", "Specifies whether probe ip protocol is IP4 or IP6")}
TLS_VARIABLES = {
    "tls": "bool",
    "tls_version": "string",
    "tls_expiry_s": "double",
    "tls_chain_expiry_s": "double",
    "tls_days_left": "double",
    "tls_subject": "string",
    "tls_issuer": "string",
    "tls_names": "list",
    "tls_serial": "string",
    "tls_fingerprint": "string",
}
TLS_MEANINGS = {
    "tls": "whether the connection was encrypted",
    "tls_version": "such as TLSv1.3",
    "tls_expiry_s": "earliest expiry in the chain that was sent, seconds since 1970 UTC",
    "tls_chain_expiry_s": "expiry of the verified chain that lasts longest, seconds since 1970 UTC",
    "tls_days_left": "days until the earliest expiry in the chain; negative when it has passed",
    "tls_subject": "subject of the server's certificate",
    "tls_issuer": "issuer of the server's certificate",
    "tls_names": "names that the server's certificate is for",
    "tls_serial": "serial number of the server's certificate, hexadecimal",
    "tls_fingerprint": "SHA-256 of the server's certificate, hexadecimal",
}
TLS_METRICS = {
    "tls": ("probe_ssl", "Indicates if TLS was used"),
    "tls_expiry_s": ("probe_ssl_earliest_cert_expiry", "Returns earliest SSL cert expiry in unixtime"),
    "tls_chain_expiry_s": (
        "probe_ssl_last_chain_expiry_timestamp_seconds",
        "Returns last SSL chain expiry in timestamp",
    ),
    "tls_version": ("probe_tls_version_info{version}", "Returns the TLS version used"),
}


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Where to connect. ip_version: 4, 6 or None for either. ip_fallback: the other one if the name has
    none of that. source: our own address, "" for any."""

    host: str
    port: int
    ip_version: int | None = None
    ip_fallback: bool = False
    source: str = ""

    @property
    def address(self) -> str:
        return join_host_port(self.host, self.port)


class Stream:
    """A connected socket, plain or TLS. Close it on every path; use it as a context manager."""

    def __init__(self, sock: socket.socket, address: str, progress: Progress) -> None:
        self.sock = sock
        self.address = address
        self.progress = progress
        self.tls: ssl.SSLObject | None = None
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self.max_read_bytes = MAX_READ_BYTES
        self._read_bytes = 0
        self._lines = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    async def start_tls(self, options: TlsOptions, server_name: str, alpn: tuple[str, ...] = ()) -> None:
        """Do the handshake; fills the TLS values of the attempt.

        Raises: ProbeFailed; ssl.SSLCertVerificationError, so that a caller can say which check failed.
        """
        if self._buffer:
            # Bytes from before the handshake would be read as if they had been protected.
            raise ProbeFailed("protocol", f"{self.address}: sent data between STARTTLS and the handshake")
        self.progress.doing = "doing the TLS handshake"
        started = perf_counter()
        context = tls_context(options, alpn)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=options.server_name or server_name)
        except (ValueError, UnicodeError) as error:
            raise ProbeFailed("tls", f"{self.address}: cannot ask for that server name: {error}") from error
        try:
            await self._handshake(tls)
        finally:
            self.progress.tls_s += perf_counter() - started
        self.tls = tls

    async def _handshake(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLCertVerificationError:
                await self._flush()  # the alert: a server may log why we left
                raise
            except ssl.SSLError as error:
                raise tls_failure(error, self.address) from error
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            await self._loop.sock_sendall(self.sock, data)

    async def _fill(self) -> None:
        data = await self._loop.sock_recv(self.sock, _CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def send(self, data: bytes) -> None:
        if self.tls is None:
            await self._loop.sock_sendall(self.sock, data)
            return
        self.tls.write(data)
        await self._flush()

    async def recv(self) -> bytes:
        """Return what came next, b"" at the end of the connection.

        Raises: ProbeFailed with reason "too_large" once the attempt has read max_read_bytes.
        """
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        data = await self._recv()
        self._read_bytes += len(data)
        if self._read_bytes > self.max_read_bytes:
            raise ProbeFailed("too_large", f"{self.address}: sent more than {self.max_read_bytes} bytes")
        return data

    async def _recv(self) -> bytes:
        if self.tls is None:
            return await self._loop.sock_recv(self.sock, _CHUNK)
        while True:
            try:
                return self.tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise tls_failure(error, self.address) from error

    async def read_line(self) -> bytes | None:
        """Return the next line without its end, what is left at the end of the connection, or None after that."""
        self._lines += 1
        if self._lines > MAX_LINES:
            raise ProbeFailed("too_large", f"{self.address}: sent more than {MAX_LINES} lines")
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise ProbeFailed("too_large", f"{self.address}: sent a line of more than {MAX_LINE_BYTES} bytes")
            if not await self._more():
                end = len(self._buffer) - 1
                break
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self.progress.hear(line)
        return line.removesuffix(b"\n").removesuffix(b"\r") if line else None

    async def read_exactly(self, count: int) -> bytes:
        """Return that many bytes.

        Raises: ProbeFailed with reason "protocol" if the connection ends before.
        """
        while len(self._buffer) < count:
            if not await self._more():
                raise ProbeFailed("protocol", f"{self.address}: the connection ended in the middle of an answer")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _more(self) -> bool:
        kept, self._buffer = self._buffer, bytearray()
        data = await self.recv()
        kept += data
        self._buffer = kept
        return bool(data)

    def certificate_values(self, attempt: Attempt) -> dict[str, Any]:
        """Return the TLS values of the attempt."""
        return certificate_values(self.tls, clock_of(attempt).now_s())


def certificate_values(tls: ssl.SSLObject | None, now_s: float) -> dict[str, Any]:
    """Return what a TLS connection shows, by the names in TLS_VARIABLES; only `tls` where there is none."""
    if tls is None:
        return {"tls": False}
    values: dict[str, Any] = {"tls": True, "tls_version": (tls.version() or "").replace("TLSv", "TLS ")}
    chain, verified = peer_chain(tls), verified_chain(tls)
    if not chain:
        return values
    try:
        leaf = certificate_facts(chain[0])
        expiry_s = earliest_expiry(chain)
        values["tls_chain_expiry_s"] = earliest_expiry(verified or chain)
    except ValueError:  # the library took it; what we cannot read we do not show
        return values
    return values | {
        "tls_expiry_s": expiry_s,
        "tls_days_left": (expiry_s - now_s) / 86400,
        "tls_subject": leaf.subject,
        "tls_issuer": leaf.issuer,
        "tls_names": list(leaf.names),
        "tls_serial": leaf.serial,
        "tls_fingerprint": leaf.fingerprint,
    }


async def open_stream(attempt: Attempt, to: Destination, progress: Progress) -> Stream:
    """Connect to the first address that answers; fills ip, ip_version and the phases.

    Several addresses share the time that is left, so that a silent first one does not eat it all.
    Raises: ProbeFailed.
    """
    loop = asyncio.get_running_loop()
    started = perf_counter()
    deadline = loop.time() + inner_timeout(attempt.timeout_s)
    progress.doing = f"resolving {to.host}"
    addresses = await resolve_host(attempt, to.host, to.port, to.ip_version, deadline, fallback=to.ip_fallback)
    resolved = perf_counter()
    progress.resolve_s = resolved - started
    progress.doing = "connecting"
    failed = ProbeFailed("unreachable", f"cannot connect to {to.address}")
    try:
        for number, (family, sockaddr) in enumerate(addresses):
            share_s = (deadline - loop.time()) / (len(addresses) - number)
            try:
                # The last one's time is the attempt's: its own deadline says so better.
                async with asyncio.timeout(share_s if number + 1 < len(addresses) else None):
                    sock = await connect(family, sockaddr, to.source)
            except TimeoutError:
                failed = ProbeFailed("timeout", f"cannot connect to {to.address}: no answer")
            except OSError as error:
                failed = failure_of(error, f"cannot connect to {to.address}")
            else:
                progress.values["ip"] = sockaddr[0]
                progress.values["ip_version"] = 6 if family == socket.AF_INET6 else 4
                return Stream(sock, to.address, progress)
    finally:
        progress.connect_s = perf_counter() - resolved
    raise failed


async def connect(family: int, sockaddr: SocketAddress | str, source: str = "") -> socket.socket:
    """Return a connected non-blocking socket; its descriptor is closed on every other way out."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if source:
            sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def open_unix_stream(path: str, progress: Progress) -> Stream:
    """Connect to a unix socket.

    Raises: ProbeFailed.
    """
    progress.doing = "connecting"
    started = perf_counter()
    try:
        sock = await connect(socket.AF_UNIX, path)
    except OSError as error:
        raise failure_of(error, f"cannot connect to {path}") from error
    finally:
        progress.connect_s = perf_counter() - started
    return Stream(sock, path, progress)
