"""Telling files apart: device, inode, and a checksum of the beginning, so that a reused inode is not mistaken."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from typing import Protocol

import msgspec

from dogwatch.logs.block import Position

FIRST_BYTES = 256
TAIL_BYTES = 64
MARK_BYTES = 4096
# Below so much of a mark, files that begin with the same line may not be told apart.
SURE_BYTES = 1024


class Readable(Protocol):
    """A file's content, plain or unpacked."""

    def pread(self, size: int, offset: int) -> bytes: ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class Plain:
    """An open file. inode 0 cannot be: what is unpacked has none."""

    def __init__(self, path: str) -> None:
        # O_NONBLOCK: a fifo that took a log's name must not hold us.
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)

    def again(self) -> Plain:
        """Return the same file, open a second time."""
        other = Plain.__new__(Plain)
        other.fd = os.dup(self.fd)
        return other

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        os.close(self.fd)


class Identity(msgspec.Struct, frozen=True):
    """device, inode: as the kernel says. length, crc: of the first line, at most 256 bytes of it."""

    device: int
    inode: int
    length: int
    crc: int

    @property
    def beginning(self) -> tuple[int, int]:
        return (self.length, self.crc)

    def key(self) -> str:
        return f"{self.device:x}.{self.inode:x}.{self.crc:08x}"

    def same_beginning(self, file: Readable) -> bool:
        head = file.pread(self.length, 0)
        return len(head) == self.length and zlib.crc32(head) == self.crc


def identify(file: Readable, device: int, inode: int, *, whole: bool = False) -> Identity | None:
    """Return who the file is, or None while its first line has not ended yet: no line of it can be delivered before.

    whole: it will not grow any more, and its first line has ended where it does.
    """
    head = file.pread(FIRST_BYTES, 0)
    end = head.find(b"\n") + 1
    if not end and len(head) < FIRST_BYTES and not (whole and head):
        return None
    first = head[:end] if end else head
    return Identity(device, inode, len(first), zlib.crc32(first))


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What was seen of a file, whether or not it was read: what tells files apart that begin alike.

    size: how long it was. length, crc: of its beginning, at most 4 KiB. tail: the last bytes before size, in hex.
    first: checksum of its first KiB, 0 where it has not so much: a copy may be shorter than `length`.
    """

    size: int = 0
    length: int = 0
    crc: int = 0
    tail: str = ""
    first: int = 0

    def holds(self, file: Readable) -> bool:
        """Return whether a file has what was seen; it may have more."""
        return self.begins(file) and proved(file, Position(self.size, self.tail))

    def begins(self, file: Readable) -> bool:
        head = file.pread(self.length, 0)
        return len(head) == self.length and zlib.crc32(head) == self.crc

    def begins_surely(self, file: Readable) -> bool:
        """Return whether a file that may be shorter begins so, as far as is enough to tell it from others."""
        head = file.pread(SURE_BYTES, 0)
        sure = self.length >= SURE_BYTES == len(head) and zlib.crc32(head) == self.first
        return sure and (file.size() < self.length or self.begins(file))


def mark(file: Readable, size: int) -> Mark:
    """Return the mark of a file that is so long. Where it was cut meanwhile, of what is left."""
    head = file.pread(min(size, MARK_BYTES), 0)
    start = max(0, size - TAIL_BYTES)
    tail = head[start:] if size <= len(head) else file.pread(size - start, start)
    first = zlib.crc32(head[:SURE_BYTES])
    crc = zlib.crc32(head[SURE_BYTES:], first)
    return Mark(start + len(tail), len(head), crc, tail.hex(), first if len(head) >= SURE_BYTES else 0)


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of a stream. lanes: sink → where to go on for it. mark: what was seen of it.

    done: it was read whole and its file is gone; kept, so that its compressed form is known for what it is.
    cut_s: what its file's time was when it was found truncated, 0 if it was not: a copy of it is not younger.
    """

    source: str
    stream: str
    identity: Identity
    path: str
    lanes: Mapping[str, Position]
    mark: Mark = Mark()
    done: bool = False
    cut_s: float = 0.0

    @property
    def place(self) -> tuple[int, int]:
        return (self.identity.device, self.identity.inode)

    @property
    def behind(self) -> int:
        """Return how many bytes were seen of it that some lane has not read."""
        return max(0, self.mark.size - min((one.offset for one in self.lanes.values()), default=self.mark.size))

    def reaches(self, file: Readable) -> bool:
        """Return whether a file is this stream: its beginning, and at each place what was seen before it."""
        if not self.identity.same_beginning(file) or not self.mark.begins(file):
            return False
        places = {*self.lanes.values(), Position(self.mark.size, self.mark.tail)}
        # Rising, because what is compressed is read forwards.
        return all(proved(file, place) for place in sorted(places, key=lambda one: one.offset))

    def was_copied_to(self, file: Readable, modified_s: float) -> bool:
        """Return whether a file is a copy of this stream that was made before the last of it was seen: shorter, and
        no younger than the truncation. What comes after the copy's end nobody has but those who read it before.
        """
        if not self.cut_s or modified_s > self.cut_s or file.size() >= self.mark.size:
            return False
        if not self.identity.same_beginning(file) or not self.mark.begins_surely(file):
            return False
        size = file.size()
        places = [one for one in self.lanes.values() if one.offset <= size]
        return all(proved(file, place) for place in sorted(places, key=lambda one: one.offset))


def proved(file: Readable, position: Position) -> bool:
    """Return whether the bytes before a position are those that were read there."""
    tail = bytes.fromhex(position.token)
    return file.pread(len(tail), position.offset - len(tail)) == tail if tail else file.size() >= position.offset
