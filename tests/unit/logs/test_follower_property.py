"""Any interleaving of writes, rotations, truncations, crashes and reads: every line, in order, whole, none invented."""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.log_rotations import World

from dogwatch.logs.block import Block, record_id
from dogwatch.logs.tail.finding import Found
from dogwatch.logs.tail.identity import Identity

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
    assert set(found) <= set(world.written) | world.torn, "a line that nobody wrote"
    lost = set(numbered) - set(found) - world.at_risk
    assert not lost, f"lines were lost: {sorted(one[:20] for one in lost)[:3]} {counts}"
    ids: dict[str, bytes] = {}
    for one, line in world.delivered:
        assert ids.setdefault(one, line) == line, "one id for two records"
        assert one.endswith(f"{zlib.crc32(line):08x}")
    if not world.crashes:
        assert len(ids) == len(world.delivered), "duplicates without a crash"
    by_line: dict[bytes, set[str]] = {}
    for one, line in world.delivered:
        if line not in world.torn:
            by_line.setdefault(line, set()).add(one)
    assert all(len(known) == 1 for line, known in by_line.items() if line != b"# header"), "two ids for one record"
    per_file: dict[str, list[int]] = {}
    for one in ids:
        stream, offset, _crc = one.rsplit(":", 2)
        per_file.setdefault(stream, []).append(int(offset))
    assert all(offsets == sorted(offsets) for offsets in per_file.values()), "out of order"


def run(steps: list[str], more: dict[str, object], *, same_first_line: bool, least_bytes: int = 0) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name), same_first_line=same_first_line, least_bytes=least_bytes)
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
@example(["clock back", "write", "time", "rename", "compress", "write", "rename", "compress now"])
@given(st.lists(st.sampled_from(sorted({*STEPS, "clock back", "clock forward"})), max_size=40))
def test_a_clock_that_jumps_loses_nothing(steps: list[str]) -> None:
    """Files that were made and rotated between two searches are new by their time alone."""
    clock = {"clock back": lambda one: one.set_clock(-7200.0), "clock forward": lambda one: one.set_clock(7200.0)}
    run(steps, clock, same_first_line=False)


CUTS = {"copy": World.copy, "truncate": World.truncate, "delete": World.delete}


BEHIND = ["write much", "search", "sweep", "copy", "search", "write", "sweep", "truncate"]


@settings(max_examples=200)
@example(["write", "search", "sweep", "copy", "write", "sweep", "sweep", "truncate"])
@example(["write", "search", "sweep", "copy", "write", "sweep", "sweep", "truncate", "compress now"])
@example(BEHIND)
@example([*BEHIND, "sweep", "checkpoint", "crash"])
@example([*BEHIND[:-1], "checkpoint", "crash", "truncate"])
@example([*BEHIND[:-1], "checkpoint", "crash", "truncate", "write", "compress now"])
@example([*BEHIND, "write much", "write much"])
@example([*BEHIND[:-1], "time", "search", "truncate", "compress now"])
@given(st.lists(st.sampled_from(sorted({*STEPS, *CUTS, "copy_truncate"})), min_size=6, max_size=40))
def test_what_is_in_a_file_or_a_copy_is_never_lost(steps: list[str]) -> None:
    """Copies made at any instant, writes between a copy and the truncation, truncations without a copy, deletions: lost
    is at most what is in no file, and nothing comes under two ids. Lines are of a size that tells copies apart.
    """
    run(steps, {**CUTS, "copy_truncate": World.copy_truncate}, same_first_line=False, least_bytes=1024)


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


@pytest.mark.parametrize("late", [b"", b" and more", b" and more\nnext\n"])
def test_a_file_of_one_line_without_its_end_that_is_deleted_is_read(folder: Path, late: bytes) -> None:
    """`printf crash > app.log; rm app.log`: nobody can open it any more, and its first line never ended."""
    world = World(folder, same_first_line=False)
    with world.path.open("ab") as file:
        file.write(b"crash")
        file.flush()
        world.search()
        world.sweep()
        assert not world.delivered
        world.path.unlink()
        world.search()
        file.write(late)
        file.flush()
        world.written = (b"crash" + late).splitlines()
        world.path.touch()
        judge(world)
    assert [line for _id, line in world.delivered] == world.written


def test_a_last_line_longer_than_a_block_of_a_deleted_file_is_read_and_the_file_let_go(folder: Path) -> None:
    world = World(folder, same_first_line=False)
    world.write(1)
    with world.path.open("ab") as file:
        file.write(b"x" * 650)
    world.search()
    while world.sweep():
        pass
    world.path.unlink()
    world.search()
    assert world.follower is not None
    (stream,) = world.follower.streams.values()
    for _ in range(6):
        world.now_s += 70
        world.sweep()
        world.search()
    assert [line for _id, line in world.delivered] == [*world.written, b"x" * 150]
    assert stream not in world.follower.streams.values()
    world.follower.close()


def test_a_first_line_that_never_ended_is_read_once_its_file_was_renamed(folder: Path) -> None:
    world = World(folder, same_first_line=False)
    world.path.write_bytes(b"partial")
    world.stamp(world.path)
    world.search()
    world.pass_time()
    world.search()
    world.rename()
    world.written.append(b"partial")
    for _ in range(3):
        world.search()
        world.pass_time()
        while world.sweep():
            pass
    assert [line for _id, line in world.delivered] == [b"partial"]
    judge(world)


def test_a_copy_that_is_followed_by_name_is_none_when_its_original_is_cut_in_the_same_search(folder: Path) -> None:
    world = World(folder, same_first_line=False, least_bytes=300, names="app.log*")
    world.write(12)
    world.search()
    while world.sweep():
        pass
    world.copy()
    assert world.follower is not None
    looked = world.follower._look_for_truncations

    def cut_then(*given: object) -> None:
        looked(*given)
        if world.copied:
            world.truncate()

    world.follower._look_for_truncations = cut_then
    world.search()
    judge(world)
    assert len(world.delivered) == 12


def test_a_compressed_file_in_the_place_of_another_is_not_that_one(folder: Path) -> None:
    """Only the line with which all begin was seen of the first, when its inode came to a compressed form of another."""
    world = World(folder, same_first_line=True)
    world.path.write_bytes(b"# header\n")
    world.drain()
    world.checkpoint()
    world.crash()
    packed = folder / "app.log.1.gz"
    packed.write_bytes(gzip.compress(b"# header\nline of another\n"))
    world.stamp(packed)
    (saved,) = world.saved
    world.saved = [msgspec.structs.replace(saved, identity=replaced(saved.identity, packed.stat().st_ino))]
    world.path.unlink()
    world.start()
    assert world.follower is not None
    world.follower._resume({(saved.identity.device, packed.stat().st_ino): found(packed)}, world.now_s)
    assert not world.follower.streams
    world.crash()


def replaced(identity: Identity, inode: int) -> Identity:
    return msgspec.structs.replace(identity, inode=inode)


def found(path: Path) -> Found:
    one = path.stat()
    return Found(str(path), one.st_dev, one.st_ino, one.st_size, one.st_mtime, named=False)


def test_the_judge_sees_a_lost_line(folder: Path) -> None:
    world = World(folder, same_first_line=False)
    world.write(2)
    world.written.append(b"never written")
    with pytest.raises(AssertionError, match="lines were lost"):
        judge(world)


def test_an_id_is_made_of_stream_offset_and_checksum() -> None:
    block = Block(source="s", stream="a", path="p", begin=10, end=15, data=b"x\nyz\n", count=2)
    assert block.ids() == [record_id("a", 10, zlib.crc32(b"x")), record_id("a", 12, zlib.crc32(b"yz"))]
