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

    def key(self) -> str:
        return f"{self.device:x}.{self.inode:x}.{self.crc:08x}"

    def same_beginning(self, file: Readable) -> bool:
        head = file.pread(self.length, 0)
        return len(head) == self.length and zlib.crc32(head) == self.crc


def identify(file: Readable, device: int, inode: int) -> Identity | None:
    """Return who the file is, or None while its first line has not ended yet: no line of it can be delivered before."""
    head = file.pread(FIRST_BYTES, 0)
    end = head.find(b"\n") + 1
    if not end and len(head) < FIRST_BYTES:
        return None
    first = head[:end] if end else head
    return Identity(device, inode, len(first), zlib.crc32(first))


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of a stream. lanes: sink → where to go on for it."""

    source: str
    stream: str
    identity: Identity
    path: str
    lanes: Mapping[str, Position]

    def reaches(self, file: Readable) -> bool:
        """Return whether a file is this stream: its beginning, and at each place what was read before it."""
        if not self.identity.same_beginning(file):
            return False
        return all(proved(file, position) for position in self.lanes.values())


def proved(file: Readable, position: Position) -> bool:
    """Return whether the bytes before a position are those that were read there."""
    tail = bytes.fromhex(position.token)
    return file.pread(len(tail), position.offset - len(tail)) == tail if tail else file.size() >= position.offset
