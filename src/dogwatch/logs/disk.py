"""The bounded disk buffer of one sink: blocks in segments, first in, first out. Blocking; used by one thread at a time.

What is in it is as durable as the checkpoint that names its end: the agent syncs before it writes one.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import BufferState

if TYPE_CHECKING:
    import polars as pl

    from dogwatch.logs.rows import Encoded, Rows

_SEGMENT_BYTES = 16 * 1024 * 1024
_ROWS, _ENCODED = 2, 3
_HEAD = struct.Struct("<III")  # length of the head, length of the data, checksum


class Damaged(Exception):
    """A part of the buffer that is not what was written: what is left of its segment cannot be read."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    source: str
    stream: str
    path: str
    begin: int
    end: int
    count: int
    starts: tuple[int, ...] | None
    # 0 for lines; 1 for columns, 2 for rows, 3 for JSON lines.
    framed: int
    joined: bool = False


class DiskBuffer:
    """held_bytes: from the oldest that was not released to the end."""

    def __init__(self, folder: Path, state: BufferState | None, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = state or BufferState()
        self._begin = (state.segment, state.offset)
        self._end = (state.end_segment, state.end_offset)
        self._read = self._begin
        self._fd = -1
        self._recover()

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:012d}.blocks"

    def _recover(self) -> None:
        """Cut off what the checkpoint does not know; its sources deliver it again."""
        for path in self._folder.glob("*.blocks"):
            number = int(path.stem)
            if number < self._begin[0] or number > self._end[0]:
                path.unlink()
        last = self._path(self._end[0])
        if last.exists():
            os.truncate(last, min(self._end[1], last.stat().st_size))
            self._end = (self._end[0], last.stat().st_size)

    @property
    def held_bytes(self) -> int:
        segments = range(self._begin[0], self._end[0])
        whole = sum(self._path(one).stat().st_size for one in segments if self._path(one).exists())
        return whole + self._end[1] - self._begin[1]

    @property
    def empty(self) -> bool:
        return self._begin == self._end

    def state(self) -> BufferState:
        return BufferState(
            segment=self._begin[0], offset=self._begin[1], end_segment=self._end[0], end_offset=self._end[1]
        )

    def append(self, blocks: Sequence[Block]) -> tuple[int, int]:
        """Add the blocks of one entry and return the place after them.

        Raises: OSError; then nothing was added.
        """
        data = b"".join(map(_pack, blocks))
        data = struct.pack("<I", len(blocks)) + data
        segment, offset = self._end
        if offset >= self._segment_bytes:
            self._close()
            segment, offset = segment + 1, 0
        if self._fd < 0:
            self._fd = os.open(self._path(segment), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        view, at = memoryview(data), offset
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written
        self._end = (segment, at)
        return self._end

    def _close(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def sync(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)

    def rewind(self, state: BufferState | None) -> None:
        """Forget what was appended after a state: it was not accepted."""
        if state is not None:
            self._close()
            self._end = (state.end_segment, state.end_offset)

    def skip_to(self, place: tuple[int, int]) -> None:
        """Go on reading after a place: what is before is in memory."""
        self._read = place

    def next(self) -> tuple[list[Block], tuple[int, int]] | None:
        """Return the next entry's blocks and the place after them; None at the end.

        Raises: OSError, which may pass; Damaged.
        """
        if self._read >= self._end:
            return None
        segment, offset = self._read
        path = self._path(segment)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise Damaged(f"{path} is gone") from None
        if offset >= size and segment < self._end[0]:
            if size < self._segment_bytes:
                raise Damaged(f"{path} ends too early")
            self._read = (segment + 1, 0)
            return self.next()
        with path.open("rb") as file:
            file.seek(offset)
            try:
                blocks = _read_entry(file, size)
            except (Damaged, msgspec.MsgspecError, struct.error) as error:
                raise Damaged(f"{path} is damaged at {offset}: {error}") from None
            self._read = (segment, file.tell())
        return blocks, self._read

    def skip_damage(self) -> None:
        """Go on behind the segment that is being read."""
        self._read = min((self._read[0] + 1, 0), self._end)

    def release(self, place: tuple[int, int]) -> None:
        """Forget everything before a place."""
        for segment in range(self._begin[0], place[0]):
            with contextlib.suppress(FileNotFoundError):
                self._path(segment).unlink()
        self._begin = place

    def close(self) -> None:
        self._close()


def _pack(block: Block) -> bytes:
    data, rows = block.data, block.plain_rows
    if rows is not None:
        data = rows.pack()
    elif (encoded := block.encoded) is not None:
        data = encoded.data
    elif (frame := block.frame) is not None:
        import io

        file = io.BytesIO()
        frame.write_ipc(file, compression="lz4")
        data = file.getvalue()
    head = msgspec.msgpack.encode(
        _Head(
            block.source,
            block.stream,
            block.path,
            block.begin,
            block.end,
            block.count if block.encoded is None else block.rows,
            block.starts,
            _ROWS if rows is not None else _ENCODED if block.encoded is not None else int(block.made is not None),
            block.joined,
        )
    )
    return _HEAD.pack(len(head), len(data), zlib.crc32(data, zlib.crc32(head))) + head + data


def _read_entry(file: IO[bytes], size: int) -> list[Block]:
    """Read an entry. size: of the file; a length beyond it is none. Raises: Damaged, MsgspecError, struct.error."""
    count = struct.unpack("<I", file.read(4))[0]
    blocks = []
    for _ in range(count):
        head_bytes, data_bytes, crc = _HEAD.unpack(file.read(_HEAD.size))
        if head_bytes + data_bytes > size - file.tell():
            raise Damaged("it ends too early")
        blocks.append(_unpack(file.read(head_bytes), file.read(data_bytes), crc))
    return blocks


def _unpack(packed: bytes, data: bytes, crc: int) -> Block:
    if zlib.crc32(data, zlib.crc32(packed)) != crc:
        raise Damaged("a checksum does not match")
    head = msgspec.msgpack.decode(packed, type=_Head)
    made: Rows | Encoded | pl.DataFrame | None = None
    if head.framed == _ROWS:
        from dogwatch.logs.rows import unpack

        made, data = unpack(data), b""
    elif head.framed == _ENCODED:
        from dogwatch.logs.rows import Encoded

        made, data = Encoded(data, head.count), b""
    elif head.framed:
        import io

        import polars as pl

        made, data = pl.read_ipc(io.BytesIO(data)), b""
    return Block(
        source=head.source,
        stream=head.stream,
        path=head.path,
        begin=head.begin,
        end=head.end,
        data=data,
        count=head.count,
        starts=head.starts,
        made=made,
        joined=head.joined,
    )
