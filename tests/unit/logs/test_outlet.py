"""What waits for a sink: bounded in memory and on disk, in order, dropped only where that is asked for."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from dogwatch.core.channel import WhenFull
from dogwatch.errors import PermanentError, TransientError
from dogwatch.logs.block import Block, Position
from dogwatch.logs.checkpoint import BufferState, SinkState
from dogwatch.logs.disk import DiskBuffer
from dogwatch.logs.outlet import Limits, Outlet
from dogwatch.logs.progress import Progress
from dogwatch.logs.sink import Sink, Tools, Worker
from dogwatch.logs.tools import SinkTools


class Gate:
    """A receiver that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.taken: list[bytes] = []
        self.failures: list[Exception] = []

    async def write(self, blocks: Sequence[Block]) -> None:
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.taken += [line for block in blocks for line in block.lines()]

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Doors:
    """A receiver with several batches on their way, each of which is let through when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[list[bytes], asyncio.Event]] = []
        self.taken: list[bytes] = []
        self.workers = 0

    async def write(self, blocks: Sequence[Block]) -> None:
        mine = [line for block in blocks for line in block.lines()]
        door = asyncio.Event()
        self.waiting.append((mine, door))
        await door.wait()
        self.taken += mine

    state = Gate.state
    sync = Gate.sync
    close = Gate.close

    def let(self, at: int) -> None:
        self.waiting.pop(at)[1].set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.waiting) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.002)


class DoorsSink(Sink, frozen=True, kw_only=True):
    kind: ClassVar[str] = "doors"
    doors: Doors

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:
        self.doors.workers += 1
        return self.doors  # type: ignore[return-value]


class GateSink(Sink, frozen=True, kw_only=True):
    kind: ClassVar[str] = "gate"
    gate: Gate

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:
        return self.gate


def block(number: int) -> Block:
    data = b"%04d" % number * 25 + b"\n"
    return Block(source="s", stream="f", path="p", begin=number, end=number + 1, data=data, count=1)


def lines(*numbers: int) -> list[bytes]:
    return [b"%04d" % number * 25 for number in numbers]


@asynccontextmanager
async def running(
    folder: Path, *, memory: int = 1000, disk_bytes: int = 0, when_full: WhenFull = WhenFull.BLOCK
) -> AsyncIterator[tuple[Outlet, Gate, DiskBuffer | None]]:
    async def save() -> None:
        pass

    async def no_wait(_wait_s: float) -> None:
        await asyncio.sleep(0)

    gate = Gate()
    disk = DiskBuffer(folder / "buffer", None, segment_bytes=1000) if disk_bytes else None
    limits = Limits(memory_bytes=memory, disk_bytes=disk_bytes, batch_bytes=300, wait_s=0, when_full=when_full)
    tools = SinkTools("out", folder, save=save, sleep=no_wait)
    outlet = Outlet("out", GateSink(gate=gate), limits, tools, disk, None)
    task = asyncio.create_task(outlet.run())
    try:
        yield outlet, gate, disk
    finally:
        task.cancel()
        await asyncio.wait([task])
        if disk is not None:
            disk.close()
        await tools.close()


async def drained(outlet: Outlet, gate: Gate, count: int) -> None:
    gate.open.set()
    async with asyncio.timeout(60):
        while len(gate.taken) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_position_moves_only_when_the_sink_has_it(tmp_path: Path) -> None:
    progress = Progress()
    async with running(tmp_path) as (outlet, gate, _disk):
        for number in range(3):
            await outlet.put([block(number)], progress.ticket("f", "out", Position(number + 1)))
        assert progress.position("f", "out") is None
        await drained(outlet, gate, 3)
        async with asyncio.timeout(60):
            while progress.position("f", "out") != Position(3):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_who_cannot_go_back_waits_for_room(tmp_path: Path) -> None:
    async with running(tmp_path) as (outlet, gate, _disk):
        puts = asyncio.create_task(_put(outlet, 12))
        done, _ = await asyncio.wait([puts], timeout=0.1)
        assert not done
        assert not outlet.has_room()
        await drained(outlet, gate, 12)
        await puts
        assert gate.taken == lines(*range(12))
        assert outlet.counts["dropped"] == 0


async def _put(outlet: Outlet, count: int) -> None:
    for number in range(count):
        await outlet.put([block(number)], None)


async def test_what_memory_cannot_hold_goes_to_disk_in_order(tmp_path: Path) -> None:
    progress = Progress()
    async with running(tmp_path, disk_bytes=100_000) as (outlet, gate, disk):
        for number in range(40):
            await outlet.put([block(number)], progress.ticket("f", "out", Position(number + 1)))
        assert disk is not None
        assert progress.position("f", "out") == Position(40), "on disk is accepted"
        assert len(list((tmp_path / "buffer").iterdir())) > 3
        await drained(outlet, gate, 40)
        assert gate.taken == lines(*range(40))
        await outlet.put([block(40)], None)
        await drained(outlet, gate, 41)
        async with asyncio.timeout(60):
            while outlet.disk_state is None or not outlet.disk_state.empty:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert len(list((tmp_path / "buffer").iterdir())) <= 1, "what was sent is removed"


async def test_a_full_disk_buffer_makes_a_source_wait(tmp_path: Path) -> None:
    async with running(tmp_path, disk_bytes=2000) as (outlet, gate, _disk):
        puts = asyncio.create_task(_put(outlet, 60))
        done, _ = await asyncio.wait([puts], timeout=0.2)
        assert not done
        assert outlet.waiting_bytes < 6000
        await drained(outlet, gate, 60)
        await puts
        assert gate.taken == lines(*range(60))


@pytest.mark.parametrize("when_full", [WhenFull.DROP_NEWEST, WhenFull.DROP_OLDEST])
async def test_what_is_dropped_is_counted(when_full: WhenFull, tmp_path: Path) -> None:
    async with running(tmp_path, when_full=when_full) as (outlet, gate, _disk):
        await _put(outlet, 30)
        dropped = outlet.counts["dropped"]
        assert dropped > 20
        await drained(outlet, gate, 30 - dropped)
        assert len(gate.taken) == 30 - dropped
        assert (gate.taken[-1] == lines(29)[0]) is (when_full is WhenFull.DROP_OLDEST)


async def test_a_failed_write_comes_again_and_a_refused_one_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as (outlet, gate, _disk):
        gate.failures = [TransientError("busy"), TransientError("busy"), PermanentError("never")]
        await outlet.put([block(1)], None)
        gate.open.set()
        async with asyncio.timeout(60):
            while not (tmp_path / "dead" / "out.ndjson").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await outlet.put([block(2)], None)
        await drained(outlet, gate, 1)
        assert gate.taken == lines(2)
        assert outlet.counts["retries"] == 2
        assert outlet.failing == "" or outlet.failing == "never"


async def test_a_refused_batch_comes_again_until_its_dead_letters_can_be_kept(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    dead.write_text("in the way")
    async with running(tmp_path) as (outlet, gate, _disk):
        gate.failures = [PermanentError("never")] * 1_000_000
        await outlet.put([block(1)], None)
        gate.open.set()
        async with asyncio.timeout(60):
            while not outlet.counts["retries"]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            dead.unlink()
            while not (dead / "out.ndjson").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        gate.failures.clear()
        await outlet.put([block(2)], None)
        await drained(outlet, gate, 1)
        assert gate.taken == lines(2)


@asynccontextmanager
async def at_once(folder: Path, lanes: int, *, disk_bytes: int = 0) -> AsyncIterator[tuple[Outlet, Doors]]:
    async def save() -> None:
        pass

    doors = Doors()
    disk = DiskBuffer(folder / "buffer", None, segment_bytes=1000) if disk_bytes else None
    limits = Limits(
        memory_bytes=1000, disk_bytes=disk_bytes, batch_bytes=1, wait_s=0, when_full=WhenFull.BLOCK, at_once=lanes
    )
    tools = SinkTools("out", folder, save=save)
    outlet = Outlet("out", DoorsSink(doors=doors), limits, tools, disk, None)
    task = asyncio.create_task(outlet.run())
    try:
        yield outlet, doors
    finally:
        task.cancel()
        await asyncio.wait([task])
        if disk is not None:
            disk.close()
        await tools.close()


async def test_several_batches_at_once_and_the_position_waits_for_the_first(tmp_path: Path) -> None:
    progress = Progress()
    async with at_once(tmp_path, 3) as (outlet, doors):
        for number in range(5):
            await outlet.put([block(number)], progress.ticket("f", "out", Position(number + 1)))
        await doors.until(3)
        await asyncio.sleep(0.02)
        assert len(doors.waiting) == doors.workers == 3, "as many as may be, and no more"
        doors.let(2)
        doors.let(1)
        await doors.until(3)
        assert doors.taken == lines(2, 1)
        assert progress.position("f", "out") is None, "the first is still on its way"
        doors.let(0)
        async with asyncio.timeout(5):
            while progress.position("f", "out") != Position(3):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        doors.let(1)
        doors.let(0)
        async with asyncio.timeout(5):
            while progress.position("f", "out") != Position(5):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert outlet.waiting_bytes == 0


async def test_several_at_once_out_of_a_disk_buffer_release_no_more_than_arrived(tmp_path: Path) -> None:
    chance = random.Random(4)
    async with at_once(tmp_path, 4, disk_bytes=100_000) as (outlet, doors):
        for number in range(40):
            await outlet.put([block(number)], Progress().ticket("f", "out", Position(number + 1)))
        while len(doors.taken) < 40:
            await doors.until(min(4, 40 - len(doors.taken)))
            left = {line for one, _door in doors.waiting for line in one}
            assert outlet.disk_state is not None
            if not left <= held(tmp_path / "buffer", outlet.disk_state):
                assert len(doors.taken) < 10, "only what was in memory before may be missing from the disk"
            before = len(doors.taken)
            doors.let(chance.randrange(len(doors.waiting)))
            async with asyncio.timeout(5):
                while len(doors.taken) == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        assert sorted(doors.taken) == lines(*range(40))
        async with asyncio.timeout(5):
            while outlet.disk_state is None or not outlet.disk_state.empty:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await outlet.put([block(40)], None)
        await doors.until(1)
        assert outlet.waiting_bytes < 1000


def held(folder: Path, state: BufferState) -> set[bytes]:
    """Return the lines that an agent would find on disk after a crash now."""
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    disk = DiskBuffer(copy, state, segment_bytes=1000)
    found: set[bytes] = set()
    while (one := disk.next()) is not None:
        found |= {line for part in one[0] for line in part.lines()}
    return found


async def test_a_mistake_of_a_sink_is_said_and_tried_again(tmp_path: Path) -> None:
    """A sink that raises what nobody foresaw must not end silently with its lane blocked for ever."""
    async with running(tmp_path) as (outlet, gate, _disk):
        gate.failures = [ValueError("not foreseen")]
        await outlet.put([block(1)], None)
        await drained(outlet, gate, 1)
        assert gate.taken == lines(1)
        assert outlet.counts["retries"] == 1


@pytest.mark.parametrize("harm", ["bit", "length", "head", "cut", "gone"])
async def test_a_damaged_part_of_a_buffer_costs_no_more_than_its_segment(harm: str, tmp_path: Path) -> None:
    """Whatever is in the file, it is said, and what comes behind is delivered."""
    async with running(tmp_path, memory=1, disk_bytes=100_000) as (outlet, gate, disk):
        assert disk is not None
        for number in range(60):
            await outlet.put([block(number)], None)
        (tmp_path / "buffer").chmod(0o700)
        second = sorted((tmp_path / "buffer").glob("*.blocks"))[1]
        data = bytearray(second.read_bytes())
        match harm:
            case "bit":
                data[-20] ^= 1
            case "length":
                data[4:8] = b"\xff\xff\xff\x7f"
            case "head":
                data[0:4] = b"\xff\xff\xff\xff"
            case "cut":
                del data[len(data) // 2 :]
        second.write_bytes(data)
        if harm == "gone":
            second.unlink()
        gate.open.set()
        async with asyncio.timeout(60):
            while not gate.taken or gate.taken[-1] != lines(59)[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert outlet.counts["damaged"] == 1
        assert gate.taken == sorted(gate.taken)
        assert 45 <= len(gate.taken) < 60


async def test_a_buffer_that_cannot_be_opened_for_a_while_is_not_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, memory=1, disk_bytes=100_000) as (outlet, gate, _disk):
        for number in range(20):
            await outlet.put([block(number)], None)
        second = sorted((tmp_path / "buffer").glob("*.blocks"))[1]
        aside = second.with_suffix(".aside")
        second.rename(aside)
        second.mkdir()  # opening it fails, and not because it is gone
        gate.open.set()
        async with asyncio.timeout(60):
            while "cannot be read now" not in outlet.failing:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        second.rmdir()
        aside.rename(second)
        await drained(outlet, gate, 20)
        assert gate.taken == lines(*range(20))
        assert outlet.counts["damaged"] == 0


def test_a_buffer_is_cut_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    disk = DiskBuffer(tmp_path, None, segment_bytes=300)
    for number in range(5):
        disk.append([block(number)])
    state = disk.state()
    for number in range(5, 12):
        disk.append([block(number)])
    disk.close()
    again = DiskBuffer(tmp_path, state, segment_bytes=300)
    again.append([block(99)])
    found = []
    while (one := again.next()) is not None:
        found += [line for part in one[0] for line in part.lines()]
    again.close()
    assert found == lines(0, 1, 2, 3, 4, 99)
    assert not state.empty
    assert BufferState().empty
