"""Echo sockets and packets for IPv4 and IPv6: unprivileged where the kernel allows it, raw where we may.

Every attempt has a socket of its own and the kernel sorts the answers: a ping socket gets only those with its
identifier, a raw one only those that its packet filter lets through. A thousand pings at once
never see each other's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import secrets
import socket
import struct

import msgspec

from dogwatch.probes.addresses import SocketAddress
from dogwatch.probes.progress import ProbeFailed

_ECHO_REQUEST: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY: dict[int, int] = {socket.AF_INET: 0, socket.AF_INET6: 129}
# Linux numbers that the socket module does not name.
_SO_ATTACH_FILTER = 26
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE, _IP_RECVERR, _IP_RECVTTL = 10, 3, 11, 12
_IPV6_MTU_DISCOVER, _IPV6_RECVERR = 23, 25
TOKEN_BYTES = 8
HINT = "let the group in net.ipv4.ping_group_range include ours, or give CAP_NET_RAW"


class Reply(msgspec.Struct, frozen=True):
    """An echo reply. hop_limit: TTL or hop limit it arrived with, None where unknown."""

    sequence: int
    hop_limit: int | None


class EchoSocket:
    """A socket for the echoes of one attempt. raw: whether it needed privileges."""

    def __init__(self, family: int, *, ttl: int, dont_fragment: bool, source: str) -> None:
        self.family = family
        self.sock, self.raw = _open(family)
        # A ping socket's identifier is given by the kernel; this one serves a raw socket.
        self.ident = secrets.randbelow(65536)
        self.token = secrets.token_bytes(TOKEN_BYTES)
        try:
            self._configure(ttl, dont_fragment)
            if source:
                self.sock.bind((source, 0))
        except BaseException:
            self.sock.close()
            raise

    def _configure(self, ttl: int, dont_fragment: bool) -> None:
        v6 = self.family == socket.AF_INET6
        level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
        if ttl:
            self.sock.setsockopt(level, socket.IPV6_UNICAST_HOPS if v6 else socket.IP_TTL, ttl)
        if dont_fragment:
            # PROBE rather than DO: the path MTU that the kernel remembers must not answer for the path.
            self.sock.setsockopt(level, _IPV6_MTU_DISCOVER if v6 else _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        if self.raw:
            _attach_filter(self.sock, v6, self.ident)
        else:
            self.sock.setsockopt(level, _IPV6_RECVERR if v6 else _IP_RECVERR, 1)
        self.sock.setsockopt(level, socket.IPV6_RECVHOPLIMIT if v6 else _IP_RECVTTL, 1)

    def close(self) -> None:
        self.sock.close()

    def send(self, sockaddr: SocketAddress, sequence: int, payload: bytes) -> None:
        data = self.token + payload if payload else self.token
        header = struct.pack("!BBHHH", _ECHO_REQUEST[self.family], 0, 0, self.ident, sequence & 0xFFFF)
        if self.raw and self.family == socket.AF_INET:  # the kernel does it for all others
            header = struct.pack(
                "!BBHHH", _ECHO_REQUEST[self.family], 0, checksum(header + data), self.ident, sequence & 0xFFFF
            )
        target = (*sockaddr[:1], 0, *sockaddr[2:]) if self.raw else sockaddr
        self.sock.sendto(header + data, target)

    def receive(self) -> Reply | None:
        """Return the next reply to us, or None for a packet that is none.

        Raises: BlockingIOError when there is nothing more; ProbeFailed where a router says that it cannot be reached.
        """
        try:
            packet, ancillary, _, _ = self.sock.recvmsg(65535, 256)
        except BlockingIOError:
            self._raise_queued_error()
            raise
        except OSError as error:
            self._raise_queued_error()
            if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED):
                raise ProbeFailed("unreachable", "destination unreachable") from error
            raise
        hop_limit = None
        for level, kind, data in ancillary:
            if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)):
                hop_limit = int.from_bytes(data[:4], "little" if data[0] else "big")
        if self.raw and self.family == socket.AF_INET and len(packet) >= 20:
            hop_limit = packet[8]
            packet = packet[(packet[0] & 0x0F) * 4 :]
        return self._reply(packet, hop_limit)

    def _reply(self, packet: bytes, hop_limit: int | None) -> Reply | None:
        if len(packet) < 8:
            return None
        kind, code, _, ident, sequence = struct.unpack_from("!BBHHH", packet)
        if kind != _ECHO_REPLY[self.family]:
            problem = _error_text(self.family, kind, code)
            if self.raw and problem:
                raise ProbeFailed("unreachable", problem)
            return None
        if packet[8 : 8 + TOKEN_BYTES] != self.token or (self.raw and ident != self.ident):
            return None
        return Reply(sequence, hop_limit)

    def _raise_queued_error(self) -> None:
        """Take what routers said from the error queue: left there, it would wake the event loop for ever."""
        with contextlib.suppress(OSError):
            _, ancillary, _, _ = self.sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            for level, kind, data in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    number, _origin, icmp_type, code = struct.unpack_from("=IBBB", data)
                    text = _error_text(self.family, icmp_type, code) or errno.errorcode.get(number, "unreachable")
                    raise ProbeFailed("unreachable", text)


def _open(family: int) -> tuple[socket.socket, bool]:
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        return socket.socket(family, socket.SOCK_DGRAM | flags, protocol), False
    except PermissionError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            raise
    try:
        return socket.socket(family, socket.SOCK_RAW | flags, protocol), True
    except PermissionError as error:
        raise ProbeFailed("local", f"not allowed to send echo requests; {HINT}") from error


def _error_text(family: int, kind: int, code: int) -> str:
    """Return what an ICMP error means, "" if it is none."""
    v6 = family == socket.AF_INET6
    if kind == (1 if v6 else 3):
        if not v6 and code == 4:
            return "packet too big for the path, and it may not be fragmented"
        return f"destination unreachable (code {code})"
    if kind == (3 if v6 else 11):
        return "time to live exceeded on the way"
    if v6 and kind == 2:
        return "packet too big for the path"
    return ""


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _attach_filter(sock: socket.socket, v6: bool, ident: int) -> None:
    """Let the kernel pass only replies with our identifier, and errors about our requests.

    Classic BPF. X is where the ICMP header starts: after the IP header on IPv4, at 0 on IPv6. An error carries the
    packet that it is about: 8 bytes on, an IP header of 20 or 40 bytes, then our own header.
    """
    inner = 8 + (40 if v6 else 20) + 4
    errors = (1, 3) if v6 else (3, 11)
    start = (0x01, 0, 0, 0) if v6 else (0xB1, 0, 0, 0)  # ldx #0 | ldx 4*([0]&0xf)
    program = [
        start,
        (0x50, 0, 0, 0),  # ldb [x+0]: the type
        (0x15, 0, 2, 129 if v6 else 0),  # an echo reply?
        (0x48, 0, 0, 4),  # ldh [x+4]
        (0x15, 4, 5, ident),
        (0x15, 1, 0, errors[0]),
        (0x15, 0, 3, errors[1]),
        (0x48, 0, 0, inner),
        (0x15, 0, 1, ident),
        (0x06, 0, 0, 0xFFFFFFFF),  # take it
        (0x06, 0, 0, 0),  # drop it
    ]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
