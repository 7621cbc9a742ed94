"""A folder with one log that is rotated in every way, and a follower that is killed: what the property tests drive."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from pathlib import Path

from dogwatch.logs.block import Block, Position
from dogwatch.logs.progress import Progress
from dogwatch.logs.tail.finding import Finder
from dogwatch.logs.tail.follow import Follow
from dogwatch.logs.tail.follower import Follower
from dogwatch.logs.tail.identity import Saved

LANE = "out"


class World:
    """A folder with one log that is rotated, and what a follower delivered of it.

    least_bytes: of a line. names: the pattern that is followed. at_risk: lines that were in no file any more when they
    may not have been read. torn: what a copy has of a line that was being written.
    """

    def __init__(self, folder: Path, *, same_first_line: bool, least_bytes: int = 0, names: str = "app.log") -> None:
        self.folder = folder
        self.names = names
        self.least_bytes = least_bytes
        self.at_risk: set[bytes] = set()
        self.torn: set[bytes] = set()
        self.deleted: set[bytes] = set()
        # Between the two halves of copy-truncate; who rotates does nothing else then.
        self.copied = False
        self.path = folder / "app.log"
        self.same_first_line = same_first_line
        self.number = 0
        self.written: list[bytes] = []
        self.pending = b""
        self.delivered: list[tuple[str, bytes]] = []
        self.now_s = 0.0
        self.began_s = time.time()
        self.crashes = 0
        self.saved: list[Saved] = []
        self.horizon_s: float | None = None
        self.generations: dict[str, int] = {}
        self.follower: Follower | None = None
        self.progress = Progress()
        self.path.touch()
        self.stamp(self.path)
        self.start()
        self.search()
        self.checkpoint()

    @property
    def wall_s(self) -> float:
        return self.began_s + self.now_s

    def stamp(self, path: Path) -> None:
        """Give a file the time that it is in this world."""
        os.utime(path, (self.wall_s, self.wall_s))

    # -- the agent

    def start(self) -> None:
        follow = Follow(
            source="s",
            lanes=(LANE,),
            start="beginning",
            block_bytes=200 + 4 * self.least_bytes,
            line_bytes=150 + 2 * self.least_bytes,
            quiet_s=5,
            keep_s=60,
        )
        self.follower = Follower(
            follow,
            Finder([str(self.folder / self.names)]),
            self.saved,
            horizon_s=self.horizon_s,
            generations=self.generations,
        )
        self.progress = Progress()

    def note(self) -> None:
        assert self.follower is not None
        for name, stream in self.follower.streams.items():
            reach = stream.lanes[LANE]
            self.progress.begin(name, LANE, Position(reach.offset, reach.tail.hex()))
        if self.follower.must_save:
            self.follower.must_save = False
            self.checkpoint()

    def sweep(self) -> bool:
        if self.follower is None:
            return False
        self.note()
        pieces = self.follower.sweep(frozenset([LANE]), self.now_s)
        self.note()
        for piece in pieces:
            block = Block(
                source="s",
                stream=piece.stream,
                path=piece.path,
                begin=piece.begin,
                end=piece.after.offset,
                data=piece.data,
                count=0,
                starts=piece.starts,
            )
            self.delivered += zip(block.ids(), block.lines(), strict=True)
            self.progress.ticket(piece.stream, LANE, piece.after).accept()
        return bool(pieces)

    def search(self) -> None:
        if self.follower is not None:
            self.follower.retire(self.now_s, lambda _stream: True)
            self.follower.search(self.now_s, self.wall_s)
            self.note()
            self.jumped = False

    def checkpoint(self) -> None:
        if self.follower is None:
            return
        streams = [*(one.saved("s") for one in self.follower.streams.values()), *self.follower.parked()]
        self.saved = [
            Saved(
                source="s",
                stream=one.stream,
                identity=one.identity,
                path=one.path,
                lanes={
                    lane: self.progress.position(one.stream, LANE) or position for lane, position in one.lanes.items()
                },
                mark=one.mark,
                done=one.done,
            )
            for one in streams
        ]
        self.horizon_s = self.follower.horizon_s
        self.generations = dict(self.follower.generations)

    def crash(self) -> None:
        if self.follower is not None:
            if self.jumped:
                # Of a clock that is set back while nobody looks, nobody knows.
                self.search()
                self.checkpoint()
            self.follower.close()
            self.follower = None
            self.crashes += 1
            self.at_risk |= self.deleted

    def restart(self) -> None:
        if self.follower is None:
            self.start()
            self.search()

    def drain(self) -> None:
        self.restart()
        for _ in range(6):
            while self.sweep():
                pass
            self.search()
            self.now_s += 2
        self.now_s += 10
        while self.sweep():
            pass

    # -- the writer

    def _line(self) -> bytes:
        self.number += 1
        return b"line %d %s" % (self.number, b"x" * (self.least_bytes + self.number * 7 % 90))

    def write(self, count: int) -> None:
        data = self.pending
        self.pending = b""
        for _ in range(count):
            if self.same_first_line and not data and self.path.stat().st_size == 0:
                self.written.append(b"# header")
                data += b"# header\n"
            line = self._line()
            self.written.append(line)
            data += line + b"\n"
        with self.path.open("ab") as file:
            file.write(data)
        self.stamp(self.path)

    def write_torn(self) -> None:
        """Write the first half of a line; the next write brings the rest."""
        if self.pending:
            return
        line = self._line() + b"\n"
        with self.path.open("ab") as file:
            file.write(line[:5])
        self.stamp(self.path)
        self.pending = line[5:]
        self.written.append(line[:-1])

    def _finish_line(self) -> None:
        if self.pending:
            with self.path.open("ab") as file:
                file.write(self.pending)
            self.stamp(self.path)
            self.pending = b""

    def _shift(self) -> None:
        for number in range(30, 0, -1):
            for suffix in ("", ".gz"):
                old = self.folder / f"app.log.{number}{suffix}"
                if old.exists():
                    old.rename(self.folder / f"app.log.{number + 1}{suffix}")

    def rename(self) -> None:
        if self.copied:
            self.truncate()
        self._finish_line()
        self._shift()
        self.path.rename(self.folder / "app.log.1")
        self.path.touch()
        self.stamp(self.path)

    def copy_truncate(self) -> None:
        if self.copied:
            self.truncate()
        self._finish_line()
        self._shift()
        shutil.copyfile(self.path, self.folder / "app.log.1")
        self.stamp(self.folder / "app.log.1")
        os.truncate(self.path, 0)
        self.stamp(self.path)

    def copy(self) -> None:
        """The first half of copy-truncate: what is written from now on is in the original alone."""
        if self.copied:
            return
        self.copied = True
        self._shift()
        shutil.copyfile(self.path, self.folder / "app.log.1")
        self.stamp(self.folder / "app.log.1")
        self.torn.add(self.path.read_bytes().rpartition(b"\n")[2])

    def truncate(self) -> None:
        """The second half, or a truncation without any copy."""
        self.copied = False
        self._finish_line()
        content = self.path.read_bytes()
        copied = b""
        for one in (self.folder / "app.log.1", self.folder / "app.log.1.gz"):
            if one.exists():
                data = one.read_bytes()
                copied = gzip.decompress(data) if one.suffix == ".gz" else data
        held = len(copied) if content.startswith(copied) else 0
        held = copied.rfind(b"\n") + 1 if held else 0
        self.at_risk.update(content[held:].splitlines())
        os.truncate(self.path, 0)
        self.stamp(self.path)

    def delete(self) -> None:
        """Delete the log; the writer makes a new one. What is open is read, as long as the agent lives."""
        if self.torn:
            # Of what was copied, truncated and deleted while nobody looks, the copy is a file like any other.
            return
        self._finish_line()
        place = (self.path.stat().st_dev, self.path.stat().st_ino)
        is_open = self.follower is not None and any(one.place == place for one in self.follower.streams.values())
        (self.deleted if is_open else self.at_risk).update(self.path.read_bytes().splitlines())
        self.path.unlink()
        self.path.touch()
        self.stamp(self.path)

    def compress(self) -> None:
        """Compress the second newest rotated file, as `delaycompress` does."""
        self._pack(self.folder / "app.log.2")

    def compress_now(self) -> None:
        """Compress the newest rotated file at once."""
        self._pack(self.folder / "app.log.1")

    def _pack(self, old: Path) -> None:
        if old.exists():
            packed = old.with_name(old.name + ".gz")
            packed.write_bytes(gzip.compress(old.read_bytes()))
            # As gzip does: the time of what is in it.
            shutil.copystat(old, packed)
            old.unlink()

    def late(self) -> None:
        """A writer that still has the renamed file open."""
        old = self.folder / "app.log.1"
        if old.exists():
            line = self._line()
            self.written.append(line)
            with old.open("ab") as file:
                file.write(line + b"\n")
            self.stamp(old)

    def set_clock(self, by_s: float) -> None:
        """Set the clock of the machine, by which files are timed too, while the agent runs."""
        if self.follower is not None and not self.jumped:
            self.began_s += by_s
            self.jumped = True

    def pass_time(self) -> None:
        self.now_s += 20
