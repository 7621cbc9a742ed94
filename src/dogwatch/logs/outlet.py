"""One sink at run time: what waits for it in memory, then on disk, and the task that writes, retries and accepts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from dogwatch.core.channel import WhenFull
from dogwatch.errors import PermanentError, TransientError, reason_of
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.disk import Damaged, DiskBuffer
from dogwatch.logs.progress import Ticket
from dogwatch.logs.sink import Sink, Worker
from dogwatch.logs.tools import SinkTools

_log = logging.getLogger(__name__)
_DISK_AGAIN_S = 1.0


class Entry:
    """What one put brought. place: after it on disk, None while it is in memory alone. done: whether it is written."""

    __slots__ = ("blocks", "done", "place", "size", "ticket")

    def __init__(self, blocks: Sequence[Block], ticket: Ticket | None) -> None:
        self.blocks = blocks
        self.ticket = ticket
        self.place: tuple[int, int] | None = None
        self.done = False
        self.size = sum(block.size for block in blocks) + 256


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """memory_bytes, disk_bytes: of waiting blocks. batch_bytes, wait_s: when a batch is written. at_once: batches."""

    memory_bytes: int
    disk_bytes: int
    batch_bytes: int
    wait_s: float
    when_full: WhenFull
    at_once: int = 1


class Outlet:
    """While memory suffices, a block is accepted when the sink has it. Once it does not, everything that waits goes to
    disk, in order, and is accepted when it is there, until the disk is empty again.

    counts: records written, dropped, dead, and retries; damaged parts of the disk buffer. dropped_of: by source.
    """

    def __init__(
        self, name: str, sink: Sink, limits: Limits, tools: SinkTools, disk: DiskBuffer | None, state: SinkState | None
    ) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.dropped_of: Counter[str] = Counter()
        self.state = state
        self.disk_state = disk.state() if disk else None
        self.failing = ""
        self.room_made: Callable[[], None] = lambda: None
        self._sink = sink
        self._limits = limits
        self._tools = tools
        self._disk = disk
        self._queue: deque[Entry] = deque()
        self._bytes = 0
        self._on_disk = disk is not None and not disk.empty
        # What came with a ticket while the disk could not take it: no more than sources had read by then.
        self._over: list[Entry] = []
        # When the disk is tried again after it failed, on the loop's clock.
        self._disk_again_s = 0.0
        # What is next on disk could not be read at the last try.
        self._unread = False
        self._lock = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        # One for each batch that may be on its way.
        self._workers: list[Worker | None] = [None] * limits.at_once
        self._picking = asyncio.Lock()
        # Entries at the head that are being written, or written behind such: they are never dropped.
        self._writing = 0
        self._writing_bytes = 0
        self._draining = False
        tools.committed = self._commit

    # -- putting

    def has_room(self) -> bool:
        if self._limits.when_full is not WhenFull.BLOCK:
            return True
        return not self._memory_full() or self._disk_room()

    @property
    def waiting_bytes(self) -> int:
        return self._bytes + (self._disk.held_bytes if self._disk is not None and self._on_disk else 0)

    def _memory_full(self) -> bool:
        return self._on_disk or self._bytes >= self._limits.memory_bytes

    def _disk_room(self) -> bool:
        broken = asyncio.get_running_loop().time() < self._disk_again_s
        return self._disk is not None and not broken and self._disk.held_bytes < self._limits.disk_bytes

    async def put(self, blocks: Sequence[Block], ticket: Ticket | None) -> None:
        """Take what one read brought; waits for room where nothing may be dropped.

        With a ticket it does not wait: a source that can go back asks for room before it reads, so that it never has to
        wait for one lane while others have room; what it read in one turn is taken.
        """
        entry = Entry([block for block in blocks if block.rows], ticket)
        while True:
            async with self._lock:
                if await self._take(entry):
                    self._arrived.set()
                    return
                self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DISK_AGAIN_S):
                    await self._room.wait()

    async def _take(self, entry: Entry) -> bool:
        if not self._memory_full():
            self._queue.append(entry)
            self._bytes += entry.size
            return True
        blocks, over = self._limits.when_full is WhenFull.BLOCK, entry.ticket is not None
        if (self._disk_room() or (blocks and over and self._on_disk)) and await self._to_disk(entry):
            return True
        if blocks:
            if over and self._on_disk:
                self._over.append(entry)
            elif over:
                self._queue.append(entry)
                self._bytes += entry.size
            return over
        oldest = self._limits.when_full is WhenFull.DROP_OLDEST and not self._on_disk
        if oldest and len(self._queue) > self._writing:
            dropped = self._queue[self._writing]
            del self._queue[self._writing]
            self._bytes -= dropped.size
            self._drop(dropped)
            self._queue.append(entry)
            self._bytes += entry.size
        else:
            self._drop(entry)
        return True

    def _drop(self, entry: Entry) -> None:
        for block in entry.blocks:
            self.counts["dropped"] += block.rows
            self.dropped_of[block.source] += block.rows
        if entry.ticket is not None:
            entry.ticket.accept()

    async def _to_disk(self, entry: Entry) -> bool:
        disk = self._disk
        assert disk is not None
        waiting = [one for one in self._queue if not one.done]
        entries = [*self._over, entry] if self._on_disk else [*waiting, entry]
        try:
            places = await self._tools.thread(lambda: [disk.append(one.blocks) for one in entries])
        except asyncio.CancelledError:
            disk.rewind(self.disk_state)
            raise
        except OSError as error:
            disk.rewind(self.disk_state)
            self._fail(f"cannot buffer on disk: {reason_of(error)}")
            self._disk_again_s = asyncio.get_running_loop().time() + _DISK_AGAIN_S
            return False
        if not self._on_disk:
            # What is in memory stays there to be written; the disk is read from behind it.
            for one, place in zip(waiting, places, strict=False):
                one.place = place
            disk.skip_to(places[-2] if len(places) > 1 else (disk.state().segment, disk.state().offset))
            self._on_disk = True
        self._over = []
        self.disk_state = disk.state()
        for one in entries:
            if one.ticket is not None:
                one.ticket.accept()
        return True

    # -- writing

    async def run(self) -> None:
        """Write until cancelled, or until all is written after `drain`."""
        try:
            if len(self._workers) == 1:
                await self._lane(0)
                return
            async with asyncio.TaskGroup() as lanes:
                for lane in range(len(self._workers)):
                    lanes.create_task(self._lane(lane), name=f"log sink {self.name} {lane}")
        finally:
            for lane in range(len(self._workers)):
                await self._close(lane)

    async def _lane(self, lane: int) -> None:
        while True:
            async with self._picking:
                batch = await self._batch()
            if batch is None:
                return
            await self._write(batch, lane)

    def drain(self) -> None:
        """Nothing more will come: `run` returns when what waits is written."""
        self._draining = True
        self._arrived.set()

    async def _batch(self) -> list[Entry] | None:
        while len(self._queue) == self._writing:
            async with self._lock:
                if self._on_disk and await self._load():
                    break
            if len(self._queue) > self._writing:
                break
            if self._draining and not self._on_disk:
                return None
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DISK_AGAIN_S if self._unread else None):
                    await self._arrived.wait()
        if self._limits.wait_s and self._gathers():
            await self._gather()
        batch: list[Entry] = []
        size = 0
        for entry in islice(self._queue, self._writing, None):
            if batch and size + entry.size > self._limits.batch_bytes:
                break
            batch.append(entry)
            size += entry.size
        self._writing += len(batch)
        self._writing_bytes += size
        return batch

    def _gathers(self) -> bool:
        """Return whether a batch may still wait for more."""
        enough = self._bytes - self._writing_bytes >= self._limits.batch_bytes
        return not (enough or self._draining or self._on_disk)

    async def _gather(self) -> None:
        """Wait a moment for more, so that many small reads become one request."""
        try:
            async with asyncio.timeout(self._limits.wait_s):
                while self._gathers():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass

    async def _load(self) -> bool:
        """Bring the next entries from disk to memory; where there are none, the disk is done with."""
        disk = self._disk
        assert disk is not None
        try:
            found = await self._tools.thread(disk.next)
            self._unread = False
        except OSError as error:
            # Too many open files, or a disk that is away for a while: it is looked at again.
            self._fail(f"its disk buffer cannot be read now: {reason_of(error)}")
            self._unread = True
            return False
        except Damaged as error:
            self._fail(f"a part of its disk buffer is lost: {error}")
            self.counts["damaged"] += 1
            disk.skip_damage()
            return await self._load()
        if found is None and self._queue:
            return False  # it is done with once what is on its way has arrived
        if found is None:
            state = disk.state()
            disk.release((state.end_segment, state.end_offset))
            self.disk_state = disk.state()
            self._on_disk = False
            self._queue.extend(self._over)
            self._bytes += sum(one.size for one in self._over)
            self._over = []
            self._made_room()
            return False
        entry = Entry(found[0], None)
        entry.place = found[1]
        self._queue.append(entry)
        self._bytes += entry.size
        return True

    async def _write(self, batch: list[Entry], lane: int) -> None:
        blocks = [block for entry in batch for block in entry.blocks]
        attempt = 0
        while blocks:
            attempt += 1
            try:
                worker = self._workers[lane]
                if worker is None:
                    worker = self._workers[lane] = await self._sink.open(self._tools, self.state)
                await worker.write(blocks)
                self.failing = ""
                break
            except PermanentError as error:
                if await self._buried(blocks, str(error)):
                    break
                await self._tools.pause(attempt, None)
            except (TransientError, OSError) as error:
                self._fail(reason_of(error))
                self.counts["retries"] += 1
                wanted_s = error.retry_after_s if isinstance(error, TransientError) else None
                await self._tools.pause(attempt, wanted_s)
            except Exception as error:  # noqa: BLE001
                # A mistake in a sink or its library: the lane goes on, and begins with a new connection.
                if not self.failing:
                    _log.exception("sink %s raised what it should not", self.name)
                self._fail(f"{type(error).__name__}: {error}")
                self.counts["retries"] += 1
                await self._close(lane)
                await self._tools.pause(attempt, None)
        await self._settle(batch, sum(block.rows for block in blocks), lane)

    async def _close(self, lane: int) -> None:
        worker, self._workers[lane] = self._workers[lane], None
        if worker is not None:
            self.state = worker.state() or self.state
            try:
                await worker.close()
            except Exception:  # noqa: BLE001
                _log.debug("sink %s cannot be closed", self.name, exc_info=True)

    async def _settle(self, batch: list[Entry], rows: int, lane: int) -> None:
        async with self._lock:
            # In one step, without waiting: a checkpoint sees the sink's state and the positions of the same instant.
            if (worker := self._workers[lane]) is not None:
                self.state = worker.state() or self.state
            for entry in batch:
                entry.done = True
                self._bytes -= entry.size
                self._writing_bytes -= entry.size
                if entry.place is None and entry.ticket is not None:
                    entry.ticket.accept()
            self.counts["written"] += rows
            self._release()
            self._arrived.set()
            self._made_room()

    def _release(self) -> None:
        """Forget what is written, as far as nothing before it is still on its way."""
        place = None
        while self._writing and self._queue[0].done:
            place = self._queue.popleft().place or place
            self._writing -= 1
        if place is not None and self._disk is not None:
            self._disk.release(place)
            self.disk_state = self._disk.state()

    def _made_room(self) -> None:
        self._room.set()
        self.room_made()

    async def _buried(self, blocks: Sequence[Block], reason: str) -> bool:
        """Return whether they are among the dead letters now; where they cannot be kept, the batch is written again."""
        from dogwatch.logs.records import records

        self._fail(reason)
        try:
            found = await self._tools.thread(lambda: [one for block in blocks for one in records(block)])
            await self._tools.dead(found, reason)
        except Exception as error:  # noqa: BLE001 - whatever it is, the lane must go on
            self._fail(reason_of(error))
            self.counts["retries"] += 1
            return False
        return True

    def _fail(self, message: str) -> None:
        if message != self.failing:
            _log.warning("sink %s: %s", self.name, message)
        self.failing = message

    def _commit(self, state: SinkState) -> None:
        self.state = state

    # -- for checkpoints

    def sync(self) -> None:
        """Make durable what the checkpoint is about to speak of. Blocking."""
        for worker in self._workers:
            if worker is not None:
                worker.sync()
        if self._disk is not None:
            self._disk.sync()

    async def park(self) -> None:
        """Put what nobody can deliver again on disk, as far as there is room; called at the end."""
        async with self._lock:
            if self._disk is not None and not self._on_disk and self._queue:
                await self._to_disk(Entry((), None))
        if self._disk is not None:
            self._disk.close()
