"""The words before a handshake: STARTTLS and its kin, one function per protocol."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from dogwatch.probes.progress import ProbeFailed
from dogwatch.probes.stream import Stream

Protocol = Literal["", "smtp", "imap", "pop3", "ftp", "nntp", "sieve", "postgres", "mysql", "ldap", "xmpp"]
_MAX_LINES = 100
DEFAULT_PORTS: Mapping[str, int] = {
    "smtp": 25,
    "imap": 143,
    "pop3": 110,
    "ftp": 21,
    "nntp": 119,
    "sieve": 4190,
    "postgres": 5432,
    "mysql": 3306,
    "ldap": 389,
    "xmpp": 5222,
}
_MYSQL_SSL = 0x0800
# ExtendedRequest for 1.3.6.1.4.1.1466.20037 (RFC 4511 §4.14), message 1.
_LDAP_REQUEST = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"


def _refused(stream: Stream, protocol: str, heard: bytes | None) -> ProbeFailed:
    said = "the connection ended" if heard is None else f"it said {heard[:100].decode('utf-8', 'replace')!r}"
    return ProbeFailed("protocol", f"{stream.address}: no {protocol} STARTTLS: {said}")


async def _reply(stream: Stream, protocol: str, code: bytes) -> None:
    """Read one SMTP-like reply of one or several lines (`250-…` up to `250 …`)."""
    for _ in range(_MAX_LINES):
        line = await stream.read_line()
        if line is None or not line.startswith(code):
            raise _refused(stream, protocol, line)
        if line[3:4] != b"-":
            return
    raise _refused(stream, protocol, b"a reply without end")


async def _until(stream: Stream, protocol: str, good: bytes, bad: tuple[bytes, ...]) -> None:
    """Read lines until one begins with what is hoped for."""
    for _ in range(_MAX_LINES):
        line = await stream.read_line()
        if line is None or line.upper().startswith(bad):
            raise _refused(stream, protocol, line)
        if line.upper().startswith(good):
            return
    raise _refused(stream, protocol, b"an answer without end")


async def _smtp(stream: Stream, _host: str) -> None:
    await _reply(stream, "smtp", b"220")
    await stream.send(b"EHLO dogwatch.invalid\r\n")
    await _reply(stream, "smtp", b"250")
    await stream.send(b"STARTTLS\r\n")
    await _reply(stream, "smtp", b"220")


async def _imap(stream: Stream, _host: str) -> None:
    await _until(stream, "imap", b"* OK", (b"* BYE",))
    await stream.send(b"a1 STARTTLS\r\n")
    await _until(stream, "imap", b"A1 OK", (b"A1 NO", b"A1 BAD", b"* BYE"))


async def _pop3(stream: Stream, _host: str) -> None:
    await _until(stream, "pop3", b"+OK", (b"-ERR",))
    await stream.send(b"STLS\r\n")
    await _until(stream, "pop3", b"+OK", (b"-ERR",))


async def _ftp(stream: Stream, _host: str) -> None:
    await _reply(stream, "ftp", b"220")
    await stream.send(b"AUTH TLS\r\n")
    await _reply(stream, "ftp", b"234")


async def _nntp(stream: Stream, _host: str) -> None:
    await _reply(stream, "nntp", b"20")
    await stream.send(b"STARTTLS\r\n")
    await _reply(stream, "nntp", b"382")


async def _sieve(stream: Stream, _host: str) -> None:
    await _until(stream, "sieve", b"OK", (b"NO", b"BYE"))
    await stream.send(b"STARTTLS\r\n")
    await _until(stream, "sieve", b"OK", (b"NO", b"BYE"))


async def _postgres(stream: Stream, _host: str) -> None:
    await stream.send(bytes.fromhex("0000000804d2162f"))  # SSLRequest
    answer = await stream.read_exactly(1)
    if answer != b"S":
        raise _refused(stream, "postgres", answer)


async def _mysql(stream: Stream, _host: str) -> None:
    header = await stream.read_exactly(4)
    greeting = await stream.read_exactly(min(int.from_bytes(header[:3], "little"), 4096))
    version_end = greeting.find(b"\0", 1)
    # After the version: thread id (4), first scramble part (8), filler (1), lower capability flags (2).
    flags = int.from_bytes(greeting[version_end + 14 : version_end + 16], "little")
    if greeting[:1] != b"\x0a" or version_end < 0 or not flags & _MYSQL_SSL:
        raise ProbeFailed("protocol", f"{stream.address}: the server offers no TLS")
    # SSLRequest: CLIENT_SSL | CLIENT_SECURE_CONNECTION | CLIENT_PROTOCOL_41, 16 MiB packets, utf8.
    await stream.send(
        bytes.fromhex("20000001") + (0x8A00).to_bytes(4, "little") + bytes.fromhex("0000000121") + bytes(23)
    )


async def _ldap(stream: Stream, _host: str) -> None:
    await stream.send(_LDAP_REQUEST)
    header = await stream.read_exactly(2)
    if header[0] != 0x30 or header[1] > 0x84:
        raise _refused(stream, "ldap", header)
    length = header[1]
    if length & 0x80:
        length = int.from_bytes(await stream.read_exactly(length & 0x7F), "big")
    body = await stream.read_exactly(min(length, 65536))
    # LDAPMessage: messageID, then [APPLICATION 24] whose first element is the result code.
    found = re.search(rb"^\x02\x01\x01\x78(?:[\x00-\x7f]|\x81.|\x82..|\x83...|\x84....)\x0a\x01(.)", body, re.DOTALL)
    if not found or found[1] != b"\0":
        raise ProbeFailed("protocol", f"{stream.address}: the server offers no TLS")


async def _xmpp(stream: Stream, host: str) -> None:
    name = re.sub(r"[^\w.-]", "", host)
    await stream.send(
        f"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
        f"version='1.0' to='{name}'>".encode()
    )
    await _xml_until(stream, b"</stream:features>")
    await stream.send(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    await _xml_until(stream, b"<proceed")


async def _xml_until(stream: Stream, end: bytes) -> None:
    heard = bytearray()
    while end not in heard or not heard.endswith(b">"):
        data = await stream.recv()
        stream.progress.hear(data)
        heard += data
        if not data or b"<failure" in heard or b"<stream:error" in heard or len(heard) > 65536:
            raise _refused(stream, "xmpp", bytes(heard[-100:]) or None)


_PRESETS: Mapping[str, Callable[[Stream, str], Awaitable[None]]] = {
    "smtp": _smtp,
    "imap": _imap,
    "pop3": _pop3,
    "ftp": _ftp,
    "nntp": _nntp,
    "sieve": _sieve,
    "postgres": _postgres,
    "mysql": _mysql,
    "ldap": _ldap,
    "xmpp": _xmpp,
}


async def ask_for_tls(stream: Stream, protocol: str, host: str) -> None:
    """Say what makes the server begin TLS; the handshake is next.

    Raises: ProbeFailed with reason "protocol" where it does not offer it.
    """
    stream.progress.doing = f"asking for {protocol} STARTTLS"
    await _PRESETS[protocol](stream, host)
