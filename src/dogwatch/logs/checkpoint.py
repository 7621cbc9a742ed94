"""The checkpoint: one file that says, as of one instant, how far all streams, sinks and buffers are.

Written to another name, synced, and renamed; the one before is kept, and used where the newest is damaged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dogwatch.logs.block import Position
from dogwatch.logs.tail.identity import Saved

_log = logging.getLogger(__name__)
_MAGIC = b"dogwatch-logs-1 "
GENERATIONS = 10_000


class SinkState(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink knows of itself: the output file it wrote and its length that goes with the positions."""

    path: str = ""
    device: int = 0
    inode: int = 0
    length: int = 0


class BufferState(msgspec.Struct, frozen=True, kw_only=True):
    """What part of a disk buffer still has to be sent: from (segment, offset) up to (segment, offset)."""

    segment: int = 0
    offset: int = 0
    end_segment: int = 0
    end_offset: int = 0

    @property
    def empty(self) -> bool:
        return (self.segment, self.offset) == (self.end_segment, self.end_offset)


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """streams: of files. cursors: source → sink → position, of other sources. horizons: source → wall time of the last
    search for files. generations: see tail/follower.py.
    """

    streams: tuple[Saved, ...] = ()
    cursors: Mapping[str, Mapping[str, Position]] = {}
    horizons: Mapping[str, float] = {}
    generations: Mapping[str, int] = {}
    sinks: Mapping[str, SinkState] = {}
    buffers: Mapping[str, BufferState] = {}


class CheckpointFile:
    """Reads and writes it. Blocking."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._previous = path.with_name(path.name + ".previous")

    def load(self) -> tuple[Checkpoint, str]:
        """Return the newest that is whole, and what is wrong with those that are not ("" if nothing is)."""
        problems = []
        for path in (self._path, self._previous):
            try:
                found = _decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except (ValueError, msgspec.MsgspecError, OSError) as error:
                problems.append(f"checkpoint {path} cannot be used: {error}")
                continue
            return found, "; ".join(problems)
        return Checkpoint(), "; ".join(problems)

    def save(self, checkpoint: Checkpoint) -> None:
        body = msgspec.json.encode(checkpoint)
        temporary = self._path.with_name(self._path.name + ".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, _MAGIC + f"{zlib.crc32(body):08x}\n".encode() + body)
            os.fsync(fd)
        finally:
            os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            # A link, not a rename: at no instant is there none under the name.
            with contextlib.suppress(FileNotFoundError):
                self._previous.unlink()
            os.link(self._path, self._previous)
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _decode(data: bytes) -> Checkpoint:
    head, newline, body = data.partition(b"\n")
    if not newline or not head.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    if head[len(_MAGIC) :] != f"{zlib.crc32(body):08x}".encode():
        raise ValueError("its checksum does not match")
    return msgspec.json.decode(body, type=Checkpoint)
