"""Any interleaving of writes, rotations, truncations, crashes and reads: every line, in order, whole, none invented."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.logs.block import Block, Position, record_id
from dogwatch.logs.progress import Progress
from dogwatch.logs.tail.finding import Finder
from dogwatch.logs.tail.follow import Follow
from dogwatch.logs.tail.follower import Follower
from dogwatch.logs.tail.identity import Saved

LANE = "out"


class World:
    """A folder with one log that is rotated, and what a follower delivered of it."""

    def __init__(self, folder: Path, *, same_first_line: bool) -> None:
        self.folder = folder
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
            source="s", lanes=(LANE,), start="beginning", block_bytes=200, line_bytes=150, quiet_s=5, keep_s=60
        )
        self.follower = Follower(
            follow,
            Finder([str(self.path)]),
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
            self.follower.close()
            self.follower = None
            self.crashes += 1

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
        return b"line %d %s" % (self.number, b"x" * (self.number * 7 % 90))

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
        self._finish_line()
        self._shift()
        self.path.rename(self.folder / "app.log.1")
        self.path.touch()
        self.stamp(self.path)

    def copy_truncate(self) -> None:
        self._finish_line()
        self._shift()
        shutil.copyfile(self.path, self.folder / "app.log.1")
        self.stamp(self.folder / "app.log.1")
        os.truncate(self.path, 0)
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

    def pass_time(self) -> None:
        self.now_s += 20


STEPS = {
    "write": lambda world: world.write(3),
    "write much": lambda world: world.write(12),
    "torn": World.write_torn,
    "rename": World.rename,
    "compress": World.compress,
    "compress now": World.compress_now,
    "sweep": World.sweep,
    "search": World.search,
    "checkpoint": World.checkpoint,
    "crash": World.crash,
    "restart": World.restart,
    "time": World.pass_time,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def judge(world: World) -> None:
    world._finish_line()
    world.drain()
    assert world.follower is not None
    counts = dict(world.follower.counts)
    world.follower.close()
    found = [line for _id, line in world.delivered]
    numbered = [line for line in world.written if line != b"# header"]
    assert set(found) <= set(world.written), "a line that nobody wrote"
    assert set(found) >= set(numbered), f"lines were lost: {sorted(set(numbered) - set(found))[:3]} {counts}"
    ids: dict[str, bytes] = {}
    for one, line in world.delivered:
        assert ids.setdefault(one, line) == line, "one id for two records"
        assert one.endswith(f"{zlib.crc32(line):08x}")
    if not world.crashes:
        assert len(ids) == len(world.delivered), "duplicates without a crash"
    by_line: dict[bytes, set[str]] = {}
    for one, line in world.delivered:
        by_line.setdefault(line, set()).add(one)
    assert all(len(known) == 1 for line, known in by_line.items() if line != b"# header"), "two ids for one record"
    per_file: dict[str, list[int]] = {}
    for one in ids:
        stream, offset, _crc = one.rsplit(":", 2)
        per_file.setdefault(stream, []).append(int(offset))
    assert all(offsets == sorted(offsets) for offsets in per_file.values()), "out of order"


def run(steps: list[str], more: dict[str, object], *, same_first_line: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name), same_first_line=same_first_line)
        table = {**STEPS, **more}
        for step in steps:
            table[step](world)
        judge(world)


@settings(max_examples=150)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=40))
def test_rotation_by_rename_loses_nothing(steps: list[str]) -> None:
    run(steps, {}, same_first_line=False)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(sorted({*STEPS, "copy_truncate"})), max_size=40))
def test_copy_truncate_between_writes_loses_nothing(steps: list[str]) -> None:
    run(steps, {"copy_truncate": World.copy_truncate}, same_first_line=False)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=40))
def test_files_that_begin_alike_are_told_apart(steps: list[str]) -> None:
    run(steps, {}, same_first_line=True)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(sorted({*STEPS, "late"})), max_size=40))
def test_late_lines_of_a_renamed_file_are_read(steps: list[str]) -> None:
    run(steps, {"late": World.late}, same_first_line=False)


def test_the_unread_are_found_again_when_their_names_and_inodes_moved_on(folder: Path) -> None:
    """Several that begin alike, none of them read, all but the newest compressed while the agent was down."""
    world = World(folder, same_first_line=True)
    for _ in range(3):
        world.write(4)
        world.search()
        world.rename()
    world.search()
    world.checkpoint()
    world.crash()
    for step in (World.compress, World.rename, World.compress, World.compress_now):
        step(world)
    judge(world)


def test_a_compressed_file_that_was_read_is_not_read_again(folder: Path) -> None:
    world = World(folder, same_first_line=True)
    for _ in range(2):
        world.write(4)
        world.search()
        world.drain()
        world.rename()
        world.search()
        world.compress_now()
        world.drain()
        world.search()
    world.checkpoint()
    count = len(world.delivered)
    world.crash()
    judge(world)
    assert len(world.delivered) == count


def test_what_was_made_rotated_and_compressed_while_the_agent_was_down_is_read(folder: Path) -> None:
    world = World(folder, same_first_line=True)
    world.write(3)
    world.drain()
    world.checkpoint()
    world.crash()
    for _ in range(2):
        world.rename()
        world.write(3)
        world.rename()
        world.compress()
    world.compress_now()
    judge(world)


def test_a_rotated_file_of_one_line_without_its_end_is_read(folder: Path) -> None:
    """`printf crash > app.log`, and the rotation comes before anything more."""
    world = World(folder, same_first_line=False)
    world.path.write_bytes(b"crash")
    world.stamp(world.path)
    world.written.append(b"crash")
    world.search()
    world.sweep()
    world.path.rename(folder / "app.log.1")
    world.path.touch()
    judge(world)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who may not look")
def test_a_folder_that_is_closed_for_a_while_is_not_gone(folder: Path) -> None:
    """After a start without rights the files are not new ones once the rights are there."""
    world = World(folder, same_first_line=False)
    world.write(5)
    world.drain()
    world.checkpoint()
    count = len(world.delivered)
    world.crash()
    folder.chmod(0o700)
    os.seteuid(65534)
    try:
        world.restart()
        for _ in range(4):
            world.now_s += 11
            world.search()
            world.sweep()
        world.checkpoint()
    finally:
        os.seteuid(0)
    world.write(2)
    judge(world)
    assert len(world.delivered) == count + 2


def test_the_judge_sees_a_lost_line(folder: Path) -> None:
    world = World(folder, same_first_line=False)
    world.write(2)
    world.written.append(b"never written")
    with pytest.raises(AssertionError, match="lines were lost"):
        judge(world)


def test_an_id_is_made_of_stream_offset_and_checksum() -> None:
    block = Block(source="s", stream="a", path="p", begin=10, end=15, data=b"x\nyz\n", count=2)
    assert block.ids() == [record_id("a", 10, zlib.crc32(b"x")), record_id("a", 12, zlib.crc32(b"yz"))]
