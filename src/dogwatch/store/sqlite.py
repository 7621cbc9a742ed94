"""The store on one SQLite file. What waits is in intake.py, what is on disk in write.py and read.py; this joins them.

The event loop owns all state here; the writer's thread gets whole batches and hands them back.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family
from dogwatch.core.values import Transition
from dogwatch.errors import StoreLocked, TransientError, UsageError
from dogwatch.store import files, raw, read
from dogwatch.store.batch import Batch
from dogwatch.store.housekeeping import Housekeeping
from dogwatch.store.intake import MAX_DOCUMENT_BYTES, Intake, Loaded, announce
from dogwatch.store.ledger import Ledger
from dogwatch.store.limits import StoreLimits
from dogwatch.store.load import load
from dogwatch.store.meters import Meters
from dogwatch.store.protocol import (
    Availability,
    Failure,
    Ping,
    Planned,
    Point,
    ResultRow,
    SeriesPoints,
    TargetState,
    TransitionFilter,
    TransitionPage,
)
from dogwatch.store.raw import RawResults, RawSamples
from dogwatch.store.read import OVERALL_PARTS, Period
from dogwatch.store.steady import SteadyTime
from dogwatch.store.successes import Successes
from dogwatch.store.threads import Readers, WriterThread
from dogwatch.store.write import write

_log = logging.getLogger("dogwatch.store")
# Housekeeping, cutting by age, and the liveness row of a store that has nothing to write.
_ROUND_S = 10.0
# Power loss takes at most this much of results and samples; the process's death takes one batch.
_SYNC_S = 10.0
_RETRY_S, _RETRY_MOST_S = 0.1, 2.0
_CLOSE_S = 5.0
_POISON = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.NotSupportedError)


class _Disk:
    """What lives in the writer's thread."""

    def __init__(self, path: Path, now_s: float) -> None:
        self.path = path
        self.connection = files.open_writer(path)
        try:
            self.ledger = Ledger(self.connection)
            self.loaded = load(self.connection, now_s)
        except BaseException:
            self.connection.close()
            raise
        self.housekeeping = Housekeeping(self.connection, self.ledger)

    def write(self, batch: Batch, limits: StoreLimits) -> tuple[float, int]:
        """Return how long it took, and the size of the file."""
        started = time.perf_counter()
        write(self.connection, self.ledger, batch, limits)
        return time.perf_counter() - started, files.size_bytes(self.path)

    def forgotten(self, ids: list[int]) -> set[int]:
        marks = ", ".join("?" * len(ids))
        query = f"SELECT id FROM series WHERE id IN ({marks})"  # noqa: S608
        return set(ids) - {row[0] for row in self.connection.execute(query, ids)}


class SqliteStore:
    """See protocol.Store; made by open_store."""

    def __init__(
        self, disk: _Disk, writer: WriterThread, lock: files.FileLock, clock: Clock, limits: StoreLimits
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._disk, self._writer, self._lock, self._clock = disk, writer, lock, clock
        self._limits = limits
        loaded: Loaded = disk.loaded
        self._intake = Intake(loaded, limits)
        self._readers = Readers(disk.path)
        self._meters = Meters(self._intake, disk.ledger, files.size_bytes(disk.path))
        now_s, monotonic_s = clock.now_s(), clock.monotonic_s()
        self._steady = SteadyTime(now_s=now_s, monotonic_s=monotonic_s, last_s=loaded.alive_s)
        self._alive = (self._intake.next_alive(), now_s)
        self._round_at = self._synced_at = monotonic_s
        self._tidy = False
        self._tidying = False
        self._flying: Batch | None = None
        self._retry: Batch | None = None
        self._failed = 0
        self._poisoned = False
        self._trouble = ""
        self._overflow = ""
        self._lost_before = 0
        self._ended = False
        self._closing: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._timer = self._loop.call_later(limits.batch, self._tick)

    # Writing

    @property
    def trouble(self) -> str:
        return self._trouble or self._overflow

    def set_limits(self, limits: StoreLimits) -> None:
        """Put other limits in force."""
        self._limits = self._intake.limits = limits
        self._tidy = True

    def add_result(self, row: ResultRow) -> None:
        self._intake.result(row, self._clock.monotonic_s())

    def add_successes(self, ended: Successes) -> None:
        self._intake.successes(ended, self._clock.monotonic_s())

    def add_failure(self, failure: Failure) -> None:
        self._intake.failure(failure)

    def add_samples(self, host: str, time_s: float, samples: Iterable[tuple[str, float]]) -> None:
        self._intake.samples(host, time_s, samples, self._clock.monotonic_s())

    def add_state(self, state: TargetState) -> None:
        self._intake.state(state)

    async def commit_transition(self, transition: Transition, state: TargetState) -> None:
        if self._closing:
            raise self._refusal()
        waiter = self._loop.create_future()
        self._intake.transition(transition, waiter)
        self._intake.state(state)
        if self._failed:
            announce([waiter])
            self._intake.refuse(None, self._refusal())
        self._soon()
        await waiter

    async def commit_ping(self, ping: Ping) -> None:
        waiter = self._loop.create_future()
        if self._failed or self._closing or not self._intake.ping(ping, waiter):
            raise self._refusal()
        self._soon()
        await waiter

    async def put_document(self, name: str, content: bytes) -> None:
        """Raises: TransientError when it cannot be written; UsageError when it is larger than 1 MiB."""
        if len(content) > MAX_DOCUMENT_BYTES:
            raise UsageError(f"document '{name}' has {len(content)} bytes; at most {MAX_DOCUMENT_BYTES} are kept")
        waiter = self._loop.create_future()
        if self._failed or self._closing or not self._intake.document(name, content, waiter):
            raise self._refusal()
        self._soon()
        await waiter

    async def flush(self) -> None:
        if self._closing is None:
            await self._flush()

    async def _flush(self) -> None:
        if self._intake.empty() and not self._flying and not self._retry:
            return
        waiter = self._loop.create_future()
        self._intake.flush(waiter)
        self._soon()
        await waiter

    def _refusal(self) -> TransientError:
        why = self._trouble or ("the store is closing" if self._closing else "too many writes wait")
        return TransientError(f"cannot write to the store: {why}", retry_after_s=_RETRY_MOST_S)

    def _soon(self) -> None:
        """Write at the end of this turn of the loop, so that what is announced together is written together."""
        self._loop.call_soon(self._dispatch)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._limits.batch, self._tick)
        now_s = self._clock.monotonic_s()
        due = now_s - self._round_at >= _ROUND_S
        if due:
            self._round_at = now_s
            self._meters.lag_s = self._intake.sweep(now_s)
            self._tidy = True
            self._watch_loss()
        if due or not self._intake.empty():
            self._dispatch()
        elif self._tidy:
            self._housekeep()

    def _watch_loss(self) -> None:
        lost = sum(self._intake.lost.values())
        new = lost - self._lost_before
        self._overflow = f"{new} rows were lost in {_ROUND_S:.0f} s: more arrive than can be kept" if new else ""
        self._lost_before = lost

    def _dispatch(self) -> None:
        if self._flying or self._again or self._ended:
            return
        batch = self._retry
        if batch is None:
            now_s = self._clock.monotonic_s()
            batch = self._intake.collect()
            batch.synced = now_s - self._synced_at >= _SYNC_S
            if batch.synced or batch.durable():
                self._synced_at = now_s
            batch.alive = self._alive_now(now_s)
        self._flying, self._retry = batch, None
        disk, limits = self._disk, self._limits
        self._writer.submit(lambda: disk.write(batch, limits), self._settle)

    def _alive_now(self, monotonic_s: float) -> tuple[int, float, float]:
        now_s = self._clock.now_s()
        if self._steady.observe(now_s=now_s, monotonic_s=monotonic_s):
            # The clock jumped, or the machine slept: what lies between is not time in which Dogwatch ran.
            self._alive = (self._intake.next_alive(), now_s)
        return (*self._alive, now_s)

    def _settle(self, result: tuple[float, int] | None, error: BaseException | None) -> None:
        batch, self._flying = self._flying, None
        if batch is None:
            return
        if error is not None:
            self._fail(batch, error)
            return
        if result is not None:
            self._meters.committed(batch, *result)
        self._failed, self._poisoned = 0, False
        self._say("")
        self._done(batch)
        if batch.forget:
            self._writer.submit(lambda: self._disk.forgotten(batch.forget), self._forgotten)
        if self._tidy:
            self._housekeep()
        if self._intake.urgent():
            self._dispatch()

    def _done(self, batch: Batch) -> None:
        self._intake.written(batch)
        for waiters in (batch.announced, batch.flushed):
            announce(waiters)
        announce(waiter for _, _, waiter in [*batch.pings, *batch.documents])

    def _forgotten(self, gone: set[int] | None, _error: BaseException | None) -> None:
        if gone:
            self._intake.forgotten(gone)

    def _fail(self, batch: Batch, error: BaseException) -> None:
        self._failed += 1
        self._meters.failures += 1
        self._say(_sentence(error))
        refusal = self._refusal()
        self._intake.refuse(batch, refusal)
        self._intake.refuse(None, refusal)
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, _POISON):
            self._retry = batch
        else:
            self._poison(batch)
        wait_s = min(_RETRY_MOST_S, _RETRY_S * 2 ** min(self._failed, 10))
        self._again = self._loop.call_later(wait_s, self._try_again)

    def _poison(self, batch: Batch) -> None:
        """Part with a batch that no store can take: history first, and if it was not that, all of it."""
        _log.error("a batch cannot be written and is given up: %s", self._trouble)
        keep = Batch()
        if not self._poisoned:
            for name in ("targets", "series", "transitions", "states", "flushed"):
                setattr(keep, name, getattr(batch, name))
                setattr(batch, name, type(getattr(batch, name))())
        keep.alive = batch.alive
        self._poisoned = True
        self._intake.give_up(batch)
        self._done(batch)
        self._retry = keep

    def _try_again(self) -> None:
        self._again = None
        self._dispatch()

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            if trouble:
                _log.warning("%s", trouble)
            elif self._trouble:
                _log.info("the store writes again")
            self._trouble = trouble

    def _housekeep(self) -> None:
        if self._tidying or self._failed or self._ended:
            return
        self._tidy, self._tidying = False, True
        disk, limits, believed_s = self._disk, self._limits, self._steady.believed_s()
        self._writer.submit(lambda: disk.housekeeping.step(limits, believed_s), self._tidied)

    def _tidied(self, more: bool | None, error: BaseException | None) -> None:
        self._tidying = False
        self._tidy = self._tidy or bool(more)
        if error is not None:
            # What stands in its way stands in the way of the next commit, which says so.
            _log.warning("the store could not be tidied: %s", error)

    # Reading

    async def states(self) -> dict[str, TargetState]:
        return await self._readers.run(read.states)

    async def chart(self, target: str, *, since_s: float, until_s: float, points: int) -> Sequence[Point]:
        tail = self._intake.targets.get(target)
        if tail is None or until_s <= since_s:
            return []
        period = Period.of(since_s, until_s, points)
        return await self._readers.run(read.chart, tail.owner_id, tail.snapshot(), period)

    async def overall(self, target: str, *, since_s: float, until_s: float) -> Point | None:
        tail = self._intake.targets.get(target)
        if tail is None or until_s <= since_s:
            return None
        period = Period.of(since_s, until_s, OVERALL_PARTS)
        return await self._readers.run(read.overall, tail.owner_id, tail.snapshot(), period)

    async def results(self, target: str, *, limit: int, before_s: float | None = None) -> Sequence[ResultRow]:
        tail = self._intake.targets.get(target)
        if tail is None or limit < 1:
            return []
        pieces = tail.snapshot(limit if before_s is None else None)
        return await self._readers.run(read.results, tail.owner_id, pieces, target, limit=limit, before_s=before_s)

    async def recent(self, targets: Sequence[str], *, limit: int) -> dict[str, Sequence[ResultRow]]:
        tails = {target: self._intake.targets.get(target) for target in targets}
        wanted = [(target, tail.owner_id, tail.snapshot(limit)) for target, tail in tails.items() if tail]
        found = await self._readers.run(read.recent, wanted, limit) if wanted and limit > 0 else {}
        return {target: found.get(target, ()) for target in targets}

    async def failures(self, target: str, *, limit: int) -> Sequence[Failure]:
        return await self._readers.run(read.failures, target, max(0, limit))

    async def transitions(
        self, target: str | None = None, *, since_s: float = 0.0, limit: int = 100
    ) -> Sequence[Transition]:
        return await self._readers.run(read.transitions, target, since_s, max(0, limit))

    async def find_transitions(
        self, wanted: TransitionFilter, *, limit: int, before: int | None = None
    ) -> TransitionPage:
        return await self._readers.run(read.find_transitions, wanted, max(1, limit), before)

    async def availability(
        self, targets: Sequence[str], *, since_s: float, until_s: float, planned: Planned | None = None
    ) -> Sequence[Availability]:
        _, alive_s, now_s = self._alive_now(self._clock.monotonic_s())
        alive = [(alive_s, now_s)]
        return await self._readers.run(read.availability, targets, alive, since_s, until_s, planned or {})

    async def series(
        self, host: str, names: Sequence[str], *, since_s: float, until_s: float, points: int
    ) -> Sequence[SeriesPoints]:
        asked = set(names)
        tails = self._intake.hosts.get(host, {})
        wanted = [
            (name, tail.owner_id, tail.snapshot())
            for name, tail in sorted(tails.items())
            if name.split("{", 1)[0] in asked
        ]
        if not wanted or until_s <= since_s:
            return []
        found = await self._readers.run(read.series, wanted, Period.of(since_s, until_s, points))
        return [SeriesPoints(host=host, series=name, points=values) for name, values in found]

    async def raw_results(self, targets: Sequence[str], *, since_s: float, until_s: float) -> Sequence[RawResults]:
        tails = ((name, self._intake.targets.get(name)) for name in targets)
        wanted = [(name, tail.owner_id, tail.snapshot()) for name, tail in tails if tail is not None]
        return await self._readers.run(raw.results, wanted, since_s, until_s) if wanted else []

    async def raw_samples(
        self, host: str, names: Sequence[str], *, since_s: float, until_s: float
    ) -> Sequence[RawSamples]:
        asked, tails = set(names), self._intake.hosts.get(host, {})
        wanted = [
            (name, tail.owner_id, tail.snapshot())
            for name, tail in sorted(tails.items())
            if name.split("{", 1)[0] in asked
        ]
        return await self._readers.run(raw.samples, wanted, since_s, until_s) if wanted else []

    async def alive(self, *, since_s: float, until_s: float) -> Sequence[tuple[float, float]]:
        _, alive_s, now_s = self._alive_now(self._clock.monotonic_s())
        return await self._readers.run(raw.alive, (alive_s, now_s), since_s, until_s)

    async def oldest_raw_s(self) -> float | None:
        return await self._readers.run(raw.oldest_s, "result")

    async def pings(self, target: str, *, limit: int) -> Sequence[Ping]:
        return await self._readers.run(read.pings, target, max(0, limit))

    async def document(self, name: str) -> bytes | None:
        return await self._readers.run(read.document, name)

    def metrics(self) -> Iterable[Family]:
        return self._meters.families(trouble=bool(self.trouble))

    # Ending

    async def close(self) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(), name="store-close")
        # Shielded: a caller that gives up must not leave the file half closed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._timer.cancel()
        try:
            async with asyncio.timeout(_CLOSE_S):
                if self._again:
                    self._again.cancel()
                    self._again = None
                await self._flush()
        except TimeoutError:
            self._abandon()
        # Blocks that wait to be sealed are in the journal: the next start seals them.
        self._ended = True
        if self._again:
            self._again.cancel()
        await self._readers.close()
        # The writer is last: the last connection folds the log into the file and removes it.
        await self._writer.call(self._disk.connection.close)
        await self._writer.stop()
        self._lock.release()

    def _abandon(self) -> None:
        for batch in (self._flying, self._retry, self._intake.collect()):
            if batch:
                self._intake.give_up(batch)
                self._done(batch)
        lost = {table: count for table, count in self._intake.lost.items() if count}
        _log.error("closed a store that could not be written (%s); lost in all: %s", self._trouble, lost)
        self._flying = self._retry = None


def _sentence(error: BaseException) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return "the database is locked by another process; results wait in memory, and are lost when it is full"
    if "full" in text:
        return "the disk is full; results wait in memory, and are lost when it is full"
    return f"the database cannot be written: {text or type(error).__name__}"


async def open_store(path: str | Path, clock: Clock, limits: StoreLimits, *, wait_s: float = 0.0) -> SqliteStore:
    """Open the store, making or migrating its file.

    wait_s: how long to wait for another Dogwatch to let go of it: a restart hands over.
    Raises: StoreNewer, StoreLocked, PermanentError (damaged, or no store), Unreachable.
    """
    loop = asyncio.get_running_loop()
    path = Path(path)
    lock = files.FileLock(path)
    writer = WriterThread(loop)
    try:
        await writer.call(lambda: _check(path))
        deadline = loop.time() + wait_s
        while True:
            try:
                lock.acquire()
                break
            except StoreLocked:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(0.02)
        make: Callable[[], _Disk] = lambda: _Disk(path, clock.monotonic_s())  # noqa: E731
        disk = await writer.call(make)
    except BaseException:
        lock.release()
        await writer.stop()
        raise
    return SqliteStore(disk, writer, lock, clock, limits)


def _check(path: Path) -> None:
    files.check_file(path, files.migrations()[-1][0])
    files.prepare_folder(path)
