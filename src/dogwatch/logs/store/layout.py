"""What is in a store's folder: write-ahead files, segments with what is known of each, and what was set aside.

`wal-<number>.ndjson`: records as they came; a line that begins with # says when the following ones arrived.
`seg-<name>.parquet` with `seg-<name>.meta`: a segment counts from the moment its Parquet file has this name.
A segment made of a write-ahead file counts only once that file is gone, and one that others replace no longer counts.
"""

from __future__ import annotations

import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

_MAGIC = b"dogwatch-segment-1\n"


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a segment without reading it.

    columns: name → (column, type) with type str, int, float or bool. odd: names whose values are, at least in part,
    in the column `more`, as JSON. begin_us, end_us: earliest and latest time. arrived_us: when the last one came.
    wal: number of the write-ahead file it was made of. replaces: names of the segments it was made of. words: how many
    checksums of words follow.
    """

    name: str
    rows: int
    source: str
    columns: Mapping[str, tuple[str, str]]
    odd: tuple[str, ...]
    begin_us: int
    end_us: int
    arrived_us: int
    wal: int = -1
    replaces: tuple[str, ...] = ()
    words: int = 0


class Segment(msgspec.Struct, frozen=True):
    folder: Path
    meta: Meta
    size: int = 0

    @property
    def parquet(self) -> Path:
        return self.folder / f"seg-{self.meta.name}.parquet"

    @property
    def meta_path(self) -> Path:
        return self.folder / f"seg-{self.meta.name}.meta"

    def may_hold(self, words: Iterable[str]) -> bool:
        """Return whether all words may be in it: certainly not, or most likely."""
        wanted = [zlib.crc32(word.encode()) for word in words]
        if not wanted or not self.meta.words:
            return not wanted
        with self.meta_path.open("rb") as file:
            file.seek(-4 * self.meta.words, os.SEEK_END)
            known = array("I", file.read())
        return all((at := bisect_left(known, one)) < len(known) and known[at] == one for one in wanted)

    def delete(self) -> None:
        # The Parquet file first: without it there is no segment.
        self.parquet.unlink(missing_ok=True)
        self.meta_path.unlink(missing_ok=True)


def write_meta(path: Path, meta: Meta, words: Iterable[int]) -> None:
    known = array("I", sorted(words))
    body = msgspec.json.encode(msgspec.structs.replace(meta, words=len(known)))
    data = known.tobytes()
    head = f"{len(body):08x} {zlib.crc32(data, zlib.crc32(body)):08x}\n".encode()
    path.write_bytes(_MAGIC + head + body + data)
    sync(path)


def read_meta(path: Path, *, whole: bool = False) -> Meta:
    """Return it. whole: check everything. Raises: ValueError, OSError."""
    with path.open("rb") as file:
        if file.readline() != _MAGIC:
            raise ValueError("it does not begin as one")
        length, check = (int(part, 16) for part in file.readline().split())
        body = file.read(length)
        if whole and zlib.crc32(file.read(), zlib.crc32(body)) != check:
            raise ValueError("its checksum does not match")
    try:
        return msgspec.json.decode(body, type=Meta)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def wal_path(folder: Path, number: int) -> Path:
    return folder / f"wal-{number:08d}.ndjson"


def wals(folder: Path) -> dict[int, Path]:
    """Return the write-ahead files by number, the newest last."""
    found = {int(path.stem[4:]): path for path in folder.glob("wal-*.ndjson") if path.stem[4:].isdecimal()}
    return dict(sorted(found.items()))


class Contents(msgspec.Struct, frozen=True):
    """What counts now. stale: segments that others replace, or whose write-ahead file is still there."""

    wals: Mapping[int, Path]
    segments: tuple[Segment, ...]
    stale: tuple[Segment, ...]
    broken: tuple[Path, ...]


class Index:
    """Remembers what is known of segments, so that a listing reads only what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Segment] = {}

    def contents(self) -> Contents:
        """Look which files there are.

        The segments are listed before the write-ahead files: of one that becomes segments meanwhile at least one of
        the two is seen, and where both are, the write-ahead file counts.
        """
        before = wals(self.folder)
        segments, broken = self._segments()
        after = wals(self.folder)
        # A write-ahead file that went in between: its segments may have been missed.
        if set(before) - set(after):
            return self.contents()
        replaced = {name for one in segments for name in one.meta.replaces}
        stale = [one for one in segments if one.meta.name in replaced or one.meta.wal in after]
        gone = {one.meta.name for one in stale}
        return Contents(after, tuple(one for one in segments if one.meta.name not in gone), tuple(stale), tuple(broken))

    def _segments(self) -> tuple[list[Segment], list[Path]]:
        found: dict[str, Segment] = {}
        broken = []
        for path in self.folder.glob("seg-*.parquet"):
            name = path.stem[4:]
            known = self._known.get(name)
            if known is None:
                try:
                    size = path.stat().st_size
                    known = Segment(self.folder, read_meta(path.with_suffix(".meta")), size)
                except FileNotFoundError:
                    if path.exists():
                        broken.append(path)
                    continue
                except (ValueError, OSError):
                    broken.append(path)
                    continue
            found[name] = known
        self._known = found
        return sorted(found.values(), key=lambda one: (one.meta.begin_us, one.meta.name)), broken
