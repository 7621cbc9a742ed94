"""Blocks: a run of lines of one stream, the unit of reading, transforming, sending and acknowledging."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import polars as pl


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where to go on in a stream. offset: bytes from its beginning. token: what proves or names the place.

    For a file the token is the last bytes before the offset, in hex; for the journal, its cursor.
    """

    offset: int = 0
    token: str = ""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of one stream, each ended by a newline, in their order.

    source: its name in the configuration. stream: the identity of what was read; with the offset and a checksum of the
    line it makes a record's id. path: for people. begin, end: offsets in the stream. starts: the offset of each line,
    or None where a line's offset is `begin` and its place in `data`. count: lines. joined: whether
    a line stands for several, with multiline.INNER in place of their newlines. frame: what transforms made of it;
    then `data` holds nothing.
    """

    source: str
    stream: str
    path: str
    begin: int
    end: int
    data: bytes
    count: int
    starts: tuple[int, ...] | None = None
    joined: bool = False
    frame: pl.DataFrame | None = None

    @property
    def size(self) -> int:
        """Return about how many bytes of memory it holds."""
        return len(self.data) if self.frame is None else int(self.frame.estimated_size())

    @property
    def rows(self) -> int:
        return self.count if self.frame is None else int(self.frame.height)

    def lines(self) -> list[bytes]:
        """Return its lines without their newlines."""
        found = self.data.split(b"\n")
        found.pop()
        return found

    def offsets(self, lines: list[bytes]) -> list[int]:
        """Return the offset of each line in the stream."""
        if self.starts is not None:
            return list(self.starts)
        at = self.begin
        found = []
        for line in lines:
            found.append(at)
            at += len(line) + 1
        return found

    def ids(self) -> list[str]:
        """Return what a receiver tells duplicates by: stream, offset and a checksum, the same on every delivery."""
        if self.frame is not None:
            return [
                record_id(self.stream, offset, crc) for offset, crc in self.frame.select("@offset", "@crc").iter_rows()
            ]
        lines = self.lines()
        crc32, stream = zlib.crc32, self.stream
        return [f"{stream}:{at}:{crc32(line):08x}" for at, line in zip(self.offsets(lines), lines, strict=True)]


def record_id(stream: str, offset: int, crc: int) -> str:
    return f"{stream}:{offset}:{crc:08x}"
