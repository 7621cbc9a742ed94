"""Answers: the head parsed strictly, the body measured, decoded and bounded as it arrives."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Any

from dogwatch.probes.http.request import TOKEN

MAX_HEADERS = 512
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
_MAX_CHUNK_LINE = 4096
_MAX_TRAILERS = 16 * 1024
# More chunks than this must hold 64 bytes each on average: a million of one byte would hold up everybody else.
_FREE_CHUNKS = 16 * 1024
_AFTER_STATUS = frozenset({" ", ""})
# Lines met before, which need no checking again: servers send the same ones all day. Bounded, and so are its lines.
_KNOWN_LINES = 4096
_KNOWN_CHARS = 200


class Refused(Exception):
    """The answer breaks the protocol or a limit. reason: a word of REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Head:
    """Status line and headers. headers: lower-case name → value, several joined by ", "."""

    __slots__ = ("headers", "raw", "status", "version")

    def __init__(self, raw: bytes, version: float, status: int, headers: dict[str, str]) -> None:
        self.raw = raw
        self.version = version
        self.status = status
        self.headers = headers


def head_end(data: bytes | bytearray, start: int) -> int:
    """Return the offset behind the empty line that ends a head, -1 if it is not there yet."""
    strict = data.find(b"\r\n\r\n", start)
    # Bare line feeds are wrong, yet every client takes them.
    loose = data.find(b"\n\n", start, strict if strict >= 0 else len(data))
    if loose >= 0:
        return loose + 2
    return strict + 4 if strict >= 0 else -1


def parse_head(raw: bytes) -> Head:
    """Parse a whole head.

    Raises: Refused.
    """
    text = raw.decode("latin-1")
    version, status = _status_line(text)
    lines = text.split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        field = _known_field(line) if len(line) <= _KNOWN_CHARS else _field(line)
        if field is None:
            break
        headers[field[0]] = field[1]
    # Whatever is unusual (folding, bare line feeds, repeated names, mistakes) is looked at line by line.
    if len(headers) != len(lines) - 3:
        headers = _parse_fields(text.replace("\r\n", "\n").split("\n"))
    return Head(raw, version, status, headers)


def _status_line(text: str) -> tuple[float, int]:
    start, digits = text[:9], text[9:12]
    if start == "HTTP/1.1 ":
        version = 1.1
    elif start == "HTTP/1.0 ":
        version = 1.0
    else:
        raise Refused("protocol", f"the answer is not HTTP/1: it begins {text[:40].strip()!r}")
    if not (digits.isdigit() and digits.isascii() and digits >= "100" and text[12:13].strip("\r\n") in _AFTER_STATUS):
        raise Refused("protocol", f"bad status line {text[:60].strip()!r}")
    return version, int(digits)


def _field(line: str) -> tuple[str, str] | None:
    """Return name and value of a header line, None for one that is not plain: folded, with a bare line feed, wrong."""
    name, colon, value = line.partition(":")
    if not colon or "\n" in line or TOKEN.fullmatch(name) is None:
        return None
    return name.lower(), value.strip()


_known_field = lru_cache(maxsize=_KNOWN_LINES)(_field)


def _parse_fields(lines: list[str]) -> dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise Refused("too_large", f"more than {MAX_HEADERS} header lines")
    headers: dict[str, str] = {}
    name = ""
    for line in lines[1:-2]:
        if line[:1] in {" ", "\t"} and name:
            headers[name] = f"{headers[name]} {line.strip()}"  # folded, as old servers do
            continue
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not _is_token(name):
            raise Refused("protocol", f"bad header line {line[:60].strip()!r}")
        value = value.strip()
        if name in headers:
            _repeat(headers, name, value)
        else:
            headers[name] = value
    return headers


@lru_cache(maxsize=4096)
def _is_token(name: str) -> bool:
    return TOKEN.fullmatch(name) is not None


def _repeat(headers: dict[str, str], name: str, value: str) -> None:
    if name == "content-length":
        if headers[name] != value:
            raise Refused("protocol", "two different content lengths")
    elif name == "location":
        pass  # the first one counts
    else:
        headers[name] = f"{headers[name]}, {value}"


class Body:
    """A body as it arrives. `feed` returns True once it is complete; Refused says what broke it.

    length: -1 where it is unknown. limit: bytes on the wire, and bytes decoded, each. truncate: end quietly at the
    limit instead of failing. keep: how many decoded bytes to keep. Neither length nor chunked: until the end.
    state: bytes left of the chunk; -1: size line, -2: line end behind a chunk, -3: trailers.
    """

    __slots__ = (
        "chunked", "chunks", "decoded", "decoder", "encoding", "keep", "kept", "length", "limit", "line", "received",
        "state", "trailers", "truncate", "truncated",
    )  # fmt: skip

    def __init__(self, length: int, limit: int, truncate: bool, keep: int, *, chunked: bool = False) -> None:
        self.length = length
        self.limit = limit
        self.truncate = truncate
        self.keep = keep
        self.chunked = chunked
        self.encoding = ""
        self.decoder: Any = None
        self.received = self.decoded = self.trailers = self.chunks = 0
        self.kept: bytes | bytearray = b""
        self.truncated = False
        self.line = b""
        self.state = -1

    def whole(self, data: bytes) -> bool:
        """Take a body that arrived at once, the usual case; False if it needs more than counting."""
        if self.encoding:
            return False
        self.took(data, len(data))
        return True

    def took(self, data: bytes, size: int) -> None:
        """Take a body of that size that needs no more than counting. data: all of it, or more than is to be kept."""
        self.received = self.decoded = size
        self.kept = data if len(data) <= self.keep else data[: self.keep]

    @property
    def until_close(self) -> bool:
        return self.length < 0 and not self.chunked

    def feed(self, data: bytes) -> bool:
        if self.chunked:
            return self._feed_chunks(data)
        if self.length < 0:
            return self._take(data)
        left = self.length - self.received
        return self._take(data if len(data) <= left else data[:left]) or self.received >= self.length

    def end(self) -> None:
        """The connection ended.

        Raises: Refused if the body needed more.
        """
        if self.chunked:
            raise Refused("protocol", f"the connection ended within a chunked body, after {self.received} bytes")
        if self.length >= 0 and self.received < self.length:
            raise Refused("protocol", f"the connection ended after {self.received} of {self.length} bytes")
        self.check()

    def check(self) -> None:
        """Look whether a compressed body came to its own end.

        Raises: Refused.
        """
        decoder = self.decoder
        if decoder is not None and self.received and not self.truncated and not decoder.eof:
            raise Refused("protocol", f"the {self.encoding} body ends too early")

    def _take(self, data: bytes) -> bool:
        """Count and keep content; True if the limit ended it."""
        self.received += len(data)
        if self.received > self.limit:
            if not self.truncate:
                raise Refused("too_large", f"the body has more than {self.limit} bytes")
            data = data[: max(0, len(data) - (self.received - self.limit))]
            self.received = self.limit
            self.truncated = True
        if self.decoder is not None:
            data = self._decode(data)
        self.decoded += len(data)
        room = self.keep - len(self.kept)
        if data and room > 0:
            piece = data if len(data) <= room else data[:room]
            if not self.kept:
                self.kept = piece
            else:
                # Grown in place: a body in a million pieces must not be copied a million times.
                if not isinstance(self.kept, bytearray):
                    self.kept = bytearray(self.kept)
                self.kept += piece
        return self.truncated

    def _decode(self, data: bytes) -> bytes:
        decoder = self.decoder
        assert decoder is not None
        if self.encoding == "deflate" and not self.decoded and data[:1] and data[0] & 0x0F != 8:
            decoder = self.decoder = zlib.decompressobj(-zlib.MAX_WBITS)  # raw, as some servers send it
        try:
            # One byte over the limit is enough to know, however much a bomb would unpack to.
            out: bytes = decoder.decompress(data, self.limit - self.decoded + 1)
        except zlib.error as error:
            raise Refused("protocol", f"the {self.encoding} body cannot be decoded: {error}") from error
        if self.decoded + len(out) > self.limit:
            if not self.truncate:
                raise Refused("too_large", f"the body unpacks to more than {self.limit} bytes")
            self.truncated = True
            out = out[: self.limit - self.decoded]
        return out

    def _feed_chunks(self, data: bytes) -> bool:
        at = 0
        end = len(data)
        while at < end:
            if self.state > 0:
                piece = data[at : at + self.state]
                at += len(piece)
                self.state -= len(piece)
                if self.state == 0:
                    self.state = -2
                if self._take(piece):
                    return True
                continue
            newline = data.find(b"\n", at)
            self.line += data[at : newline + 1 if newline >= 0 else end]
            if len(self.line) > _MAX_CHUNK_LINE:
                raise Refused("protocol", "a chunk's size line is too long")
            if newline < 0:
                return False
            at = newline + 1
            line, self.line = self.line.rstrip(b"\r\n"), b""
            if self._chunk_line(line):
                return True
        return False

    def _chunk_line(self, line: bytes) -> bool:
        """Handle a line between chunks; True at the very end."""
        if self.state == -3:
            self.trailers += len(line) + 2
            if self.trailers > _MAX_TRAILERS:
                raise Refused("too_large", "the trailers are too long")
            return not line
        if self.state == -2:
            if line:
                raise Refused("protocol", "a chunk is longer than it says")
            self.state = -1
            return False
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise Refused("protocol", f"bad chunk size {line[:40]!r}")
        self.state = int(match[1], 16) or -3
        self.chunks += 1
        if self.chunks > _FREE_CHUNKS + self.received // 64:
            raise Refused("protocol", "the body comes in tiny chunks without end")
        return False


def _decoder(encoding: str) -> Any:
    return zlib.decompressobj(zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)


def body_of(head: Head, method: str, limit: int, truncate: bool, keep: int) -> Body:
    """Return the body that a head announces.

    Raises: Refused.
    """
    headers = head.headers
    status = head.status
    length = -1
    if method == "HEAD" or status < 200 or status in {204, 304}:
        return Body(0, limit, truncate, keep)
    if "transfer-encoding" in headers:
        coding = headers["transfer-encoding"].lower().strip()
        if coding != "chunked":
            raise Refused("protocol", f"unsupported transfer encoding '{coding[:40]}'")
        body = Body(-1, limit, truncate, keep, chunked=True)
    else:
        if "content-length" in headers:
            text = headers["content-length"].rstrip()
            if not (text.isascii() and text.isdigit() and len(text) < 19):
                raise Refused("protocol", f"bad content length '{text[:40]}'")
            length = int(text)
            if length > limit and not truncate:
                raise Refused("too_large", f"the body has {length} bytes, the limit is {limit}")
        body = Body(length, limit, truncate, keep)
    if "content-encoding" in headers:
        encoding = headers["content-encoding"].lower().strip().replace("x-gzip", "gzip")
        if encoding in {"gzip", "deflate"}:  # anything else is kept as it came
            body.encoding = encoding
            body.decoder = _decoder(encoding)
    return body
