"""Blocks: a run of lines of one stream, the unit of reading, transforming, sending and acknowledging."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import polars as pl

    from dogwatch.logs.rows import Encoded, Rows


# The count of a block whose lines were not counted.
UNCOUNTED = -1


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
    or None where a line's offset is `begin` and its place in `data`. count: lines, or UNCOUNTED on the way to
    transforms, which come to know it. joined: whether
    a line stands for several, with multiline.INNER in place of their newlines. made: what transforms made of it;
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
    made: pl.DataFrame | Rows | Encoded | None = None

    @property
    def size(self) -> int:
        """Return about how many bytes of memory it holds."""
        if self.made is None:
            return len(self.data)
        if (encoded := self.encoded) is not None:
            return len(encoded.data)
        rows = self.plain_rows
        return rows.size if rows is not None else int(self.made.estimated_size())  # type: ignore[union-attr]

    @property
    def rows(self) -> int:
        return self.count if self.made is None else len(self.made)

    @property
    def plain_rows(self) -> Rows | None:
        """Return what transforms made of it, where that is rows."""
        from dogwatch.logs.rows import Rows

        return self.made if isinstance(self.made, Rows) else None

    @property
    def encoded(self) -> Encoded | None:
        """Return what transforms made of it, where that is JSON lines already."""
        from dogwatch.logs.rows import Encoded

        return self.made if isinstance(self.made, Encoded) else None

    @property
    def frame(self) -> pl.DataFrame | None:
        """Return what transforms made of it as columns; None where nothing was changed. Loads polars."""
        if self.made is None:
            return None
        from dogwatch.logs.frames import of_made

        return of_made(self.made)

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
        rows = self.plain_rows
        if rows is not None:
            return rows.ids(self.stream)
        if (encoded := self.encoded) is not None:
            return [str(one["id"]) for one in encoded.mappings()]
        frame = self.frame
        if frame is not None:
            return [record_id(self.stream, offset, crc) for offset, crc in frame.select("@offset", "@crc").iter_rows()]
        lines = self.lines()
        crc32, stream = zlib.crc32, self.stream
        return [f"{stream}:{at}:{crc32(line):08x}" for at, line in zip(self.offsets(lines), lines, strict=True)]


def record_id(stream: str, offset: int, crc: int) -> str:
    return f"{stream}:{offset}:{crc:08x}"
