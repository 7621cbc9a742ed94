"""One file that is followed: its identity and, for each lane, how far it was read."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable

import msgspec

from dogwatch.logs.block import Position
from dogwatch.logs.multiline import Joined, Joiner
from dogwatch.logs.tail.identity import (
    MARK_BYTES,
    SURE_BYTES,
    TAIL_BYTES,
    Identity,
    Mark,
    Plain,
    Readable,
    Saved,
    mark,
)
from dogwatch.logs.tail.lines import Text

_SCAN_BYTES = 1024 * 1024
_COPY_BYTES = 64 * 1024


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Whole lines that were read for some lanes. after: where to go on once they have been accepted."""

    stream: str
    path: str
    lanes: tuple[str, ...]
    begin: int
    data: bytes
    starts: tuple[int, ...] | None
    after: Position
    cut_bytes: int = 0
    joined: bool = False


class Reach(msgspec.Struct):
    """How far a lane has read. scanned: of a line longer than a block, how far it is known to have no end."""

    offset: int = 0
    tail: bytes = b""
    scanned: int = 0


class Rewritten(Exception):
    """What was before the place to go on is not there any more: truncated, or written anew."""


class Stream:
    """A file under its identity. It is read by one thread at a time.

    mark: what was seen of it. grown_s: when it last grew or was found gone, on the monotonic clock. gone: its name
    belongs to another file, or to none. ended: its last line has been handed out although it has no newline.
    """

    def __init__(self, name: str, identity: Identity, path: str, file: Readable, lanes: dict[str, Reach]) -> None:
        self.name = name
        self.identity = identity
        self.path = path
        self.file = file
        self.lanes = lanes
        self.seen_bytes = 0
        self.grown_s = 0.0
        self.gone = False
        self.ended = False
        self.packed = not isinstance(file, Plain)
        self.mark = Mark()
        # How much of the mark a checkpoint has.
        self.noted_bytes = 0

    @property
    def place(self) -> tuple[int, int]:
        return (self.identity.device, self.identity.inode)

    @property
    def unlinked(self) -> bool:
        return isinstance(self.file, Plain) and os.fstat(self.file.fd).st_nlink == 0

    def begins_as(self, file: Readable) -> bool:
        """Return whether another file is the beginning of this one, as far as is looked."""
        head = file.pread(_COPY_BYTES, 0)
        return self.file.pread(len(head), 0) == head

    def opened_again(self) -> Plain:
        """Return its file once more, whatever its name is now."""
        assert isinstance(self.file, Plain), "what is compressed is not written to"
        return self.file.again()

    def modified_s(self) -> float:
        """Return its file's time, 0 where it has none."""
        return os.fstat(self.file.fd).st_mtime if isinstance(self.file, Plain) else 0.0

    def read_to_end(self) -> bool:
        """Return whether every lane has read all that there is; only then may the file be closed."""
        return all(reach.offset >= self.seen_bytes for reach in self.lanes.values())

    def saved(self, source: str) -> Saved:
        """Return how far it was read, whether or not anybody has accepted it."""
        lanes = {lane: Position(reach.offset, reach.tail.hex()) for lane, reach in self.lanes.items()}
        return Saved(
            source=source, stream=self.name, identity=self.identity, path=self.path, lanes=lanes, mark=self.mark
        )

    def remark(self) -> None:
        """Take down what is seen of it, for the next checkpoint."""
        if self.packed:
            most = max(self.lanes.values(), key=lambda one: one.offset)
            self.mark = msgspec.structs.replace(self.mark, size=most.offset, tail=most.tail.hex())
        elif self.mark.size != self.seen_bytes:
            if self.mark.length == MARK_BYTES:
                # A read that was borne out ended where the file does: its last bytes are at hand.
                for reach in self.lanes.values():
                    if reach.offset == self.seen_bytes and len(reach.tail) == TAIL_BYTES:
                        self.mark = Mark(self.seen_bytes, MARK_BYTES, self.mark.crc, reach.tail.hex(), self.mark.first)
                        return
            self.mark = mark(self.file, self.seen_bytes)

    def is_rewritten(self) -> bool:
        """Return whether what was seen of it is not there any more, also where it has grown past it since."""
        if self.packed:
            return False
        sure = self.mark.size >= SURE_BYTES
        return self.file.size() < self.seen_bytes or (sure and not self.saved("").reaches(self.file))

    def look(self, now_s: float) -> None:
        """Take note of its size. Raises: Rewritten if it is shorter than what was read."""
        if self.packed:
            return
        size = self.file.size()
        if size < self.seen_bytes:
            raise Rewritten
        for reach in self.lanes.values():
            if reach.offset > size:
                raise Rewritten
        if size != self.seen_bytes:
            self.grown_s, self.ended = now_s, False
        self.seen_bytes = size

    def read(
        self,
        lanes: Iterable[str],
        text: Text,
        block_bytes: int,
        line_bytes: int,
        joiner: Joiner | None = None,
        now_s: float = 0.0,
    ) -> Piece | None:
        """Return the next whole lines for lanes that stand at the same place, or None if there are none.

        joiner: joins them to records; what may go on stays in the file until nothing came for its time.
        Raises: Rewritten.
        """
        ready = tuple(lanes)
        reach = self.lanes[ready[0]]
        begin = reach.offset
        if reach.scanned:
            return self._long(ready, text, block_bytes, line_bytes)
        # No more than there was at the look: room for a whole block would cost more than reading a little does.
        data = self.file.pread(block_bytes if self.packed else min(block_bytes, self.seen_bytes - begin), begin)
        length = text.last(data)
        full = len(data) >= block_bytes
        # Looked at after the read: what was there then had not been rewritten before it.
        self._prove(reach)
        if not length:
            if len(data) >= block_bytes:
                for lane in ready:
                    self.lanes[lane].scanned = begin + len(data) // text.width * text.width
                return self._long(ready, text, block_bytes, line_bytes)
            return None
        if length != len(data):
            data = data[:length]
        keep = len(data)
        if line_bytes < keep:
            data = _only_short(data, text, line_bytes)
            keep = line_bytes if text.first(data) > line_bytes else len(data)
        if joiner is None or keep != len(data):
            return self._piece(ready, text, data, keep)
        # Where a line follows that is too long for a record, nothing goes on.
        ended = len(data) < length
        if begin + len(data) >= self.seen_bytes:
            ended = now_s - self.grown_s >= joiner.timeout_s
        return self._records(ready, text, joiner.join(data, whole=ended), data) or (
            self._records(ready, text, joiner.join(data, whole=True), data) if full else None
        )

    def _records(self, lanes: tuple[str, ...], text: Text, found: Joined, data: bytes) -> Piece | None:
        if not found.used:
            return None
        begin = self.lanes[lanes[0]].offset
        piece = self._piece(lanes, text, data[: found.used], found.used)
        starts = tuple(begin + at for at in found.starts)
        return msgspec.structs.replace(piece, data=found.data, starts=starts, joined=found.joined)

    def last_lines(self, ready: Container[str], text: Text, line_bytes: int) -> list[Piece]:
        """Return what is left of a file that will not grow any more: a line without a newline, however long."""
        lanes = [lane for lane, reach in self.lanes.items() if lane in ready and reach.offset < self.seen_bytes]
        self.ended = self.ended or bool(lanes)
        return [piece for piece in (self._rest(lane, text, line_bytes) for lane in lanes) if piece is not None]

    def _rest(self, lane: str, text: Text, line_bytes: int) -> Piece | None:
        reach = self.lanes[lane]
        data = self.file.pread(line_bytes, reach.offset)
        self._prove(reach)
        size = max(self.seen_bytes, reach.offset + len(data))
        if not data:
            return None
        return self._advance((lane,), text, data, size)

    def _prove(self, reach: Reach) -> None:
        if self.packed:
            return
        if not reach.offset and not self.identity.same_beginning(self.file):
            raise Rewritten
        if reach.tail:
            tail = self.file.pread(len(reach.tail), reach.offset - len(reach.tail))
            if tail != reach.tail:
                raise Rewritten

    def _piece(self, lanes: tuple[str, ...], text: Text, data: bytes, keep: int) -> Piece:
        return self._advance(lanes, text, data[:keep], self.lanes[lanes[0]].offset + len(data), raw=data)

    def _long(self, lanes: tuple[str, ...], text: Text, block_bytes: int, line_bytes: int) -> Piece | None:
        """Look for the end of a line that fills whole blocks; hand out its beginning once the end is there."""
        reach = self.lanes[lanes[0]]
        # The lanes move together or not at all: what was scanned for one holds for all at this place.
        scanned = reach.scanned
        while True:
            data = self.file.pread(max(block_bytes, _SCAN_BYTES), scanned)
            found = text.first(data)
            if found or len(data) < _SCAN_BYTES:
                break
            # All of it in one turn: a wait after each block would make minutes of such a line.
            scanned += len(data) // text.width * text.width
        self._prove(reach)
        if not found:
            scanned += len(data) // text.width * text.width
        for lane in lanes:
            self.lanes[lane].scanned = scanned
        if not found:
            return None
        end = reach.scanned + found
        head = self.file.pread(min(line_bytes, end - reach.offset - text.width), reach.offset)
        return self._advance(lanes, text, head, end)

    def _advance(self, lanes: tuple[str, ...], text: Text, data: bytes, end: int, *, raw: bytes | None = None) -> Piece:
        begin = self.lanes[lanes[0]].offset
        whole = raw if raw is not None else data if begin + len(data) == end else b""
        tail = whole[-TAIL_BYTES:] if len(whole) >= TAIL_BYTES else b""
        if not tail and self.packed:
            # Going back in what is compressed would begin anew.
            tail = (self.lanes[lanes[0]].tail + whole)[-TAIL_BYTES:] if whole else b""
        elif not tail:
            start = max(0, end - TAIL_BYTES)
            tail = self.file.pread(min(end, self.seen_bytes or end) - start, start)
        cut = text.cut(data, begin, end)
        for lane in lanes:
            reach = self.lanes[lane]
            reach.offset, reach.tail, reach.scanned = end, tail, 0
        return Piece(
            stream=self.name,
            path=self.path,
            lanes=lanes,
            begin=begin,
            data=cut.data,
            starts=cut.starts,
            after=Position(end, tail.hex()),
            cut_bytes=max(0, end - begin - len(data) - text.width),
        )


def _only_short(data: bytes, text: Text, line_bytes: int) -> bytes:
    """Return the lines before the first that is too long, or that line alone."""
    at = 0
    while at < len(data):
        # A newline within reach: the last of the window, so that most windows hold many lines.
        window = text.last(data[at : at + line_bytes])
        if not window:
            end = text.first(data, at)
            return data[:at] if at else data[:end]
        at += window
    return data


def last_line(file: Readable, text: Text) -> Position:
    """Return the place after the last line end of a file."""
    size = file.size()
    at = size
    while at > 0:
        start = max(0, at - 65536) // text.width * text.width
        length = text.last(file.pread(at - start, start))
        if length:
            end = start + length
            tail = file.pread(min(64, end), max(0, end - 64))
            return Position(end, tail.hex())
        at = start
    return Position()


def end_of(file: Readable) -> Position:
    """Return the place after all that is in a file."""
    size = file.size()
    start = max(0, size - TAIL_BYTES)
    return Position(size, file.pread(size - start, start).hex())
