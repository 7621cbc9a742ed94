"""The whole watch as a load for bench/http_probes.py: schedule, attempt, expectation, state, history, counters.

Everything is what the daemon runs, but for two things. The schedule's clock stands still and is moved to the next due
target whenever an attempt has ended, so that there are always as many attempts in flight as wanted. And the store's
writer rests while we measure: rows go to its buffer; what writing costs is bench/store_write.py's to say.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import msgspec

import dogwatch.probes.runner
from dogwatch.core.bus import Bus
from dogwatch.core.clock import SystemClock
from dogwatch.core.component import Registry
from dogwatch.daemon.heap import SettledHeap
from dogwatch.probes.engine import Engine, EngineOptions
from dogwatch.probes.env import new_env
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.probe import Probe
from dogwatch.probes.spec import ProbeSpec, probes_section
from dogwatch.probes.watch import Watch
from dogwatch.store.limits import StoreLimits
from dogwatch.store.protocol import ResultRow
from dogwatch.store.sqlite import SqliteStore, open_store
from dogwatch.store.successes import Successes

# What the Go reference looks for, too.
EXPECT = """status == 200 && body.matches('"status":\\\\s*"ok"')"""
TIMEOUT_S = 5.0
EVERY_S = 15.0
# The schedule's clock moves at most this far at once: more would be a stall.
STEP_S = 0.9
# For each attempt in flight so many targets: the one that is due next has ended long ago.
TARGETS_PER_WORKER = 2
WARM_UP_ROUNDS = 3
WRITER_RESTS_S = 60.0


class SteppedClock(SystemClock):
    """A monotonic clock that moves when told to; the wall clock runs."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def monotonic_s(self) -> float:  # type: ignore[override]
        return self.at_s


class CountingStore:
    """The real store, and a word to the load for every result."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.ended = 0
        self.failed = 0
        self.on_result: Any = None

    def add_result(self, row: ResultRow) -> None:
        self._store.add_result(row)
        self.failed += not row.success
        self.ended += 1
        self.on_result()

    def add_successes(self, ended: Successes) -> None:
        self._store.add_successes(ended)
        self.ended += len(ended.targets)
        self.on_result()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Specs:
    """A configuration that has nothing but targets."""

    def __init__(self, specs: list[ProbeSpec]) -> None:
        self._specs = specs

    def get(self, _section: Any) -> Any:
        return self._specs


class WatchLoad:
    """Keeps `workers` attempts in flight until `count` have ended, by letting targets come due."""

    def __init__(self, watch: Watch, store: CountingStore, clock: SteppedClock) -> None:
        self.watch = watch
        self.store = store
        self.clock = clock
        self._gap_s = EVERY_S / len(watch.all)
        self._loop = asyncio.get_running_loop()
        self._left = self._workers = self._until = 0
        self._refilling = False
        self.folder: Any = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        store.on_result = self._on_result
        for place, target in enumerate(watch.all.values()):
            target.settle_s = None
            watch.schedule.put(target, clock.at_s + place * self._gap_s)

    @property
    def failed(self) -> int:
        return self.store.failed

    async def run(self, count: int, workers: int) -> None:
        self.store.failed = 0
        self._left, self._workers, self._until = count, workers, self.store.ended + count
        self._ended = self._loop.create_future()
        self._refill()
        await self._ended

    def _on_result(self) -> None:
        # Called within the engine's turn: the schedule's turn comes after it, as it would by its timer.
        if not self._refilling:
            self._refilling = True
            self._loop.call_soon(self._refill)

    def _refill(self) -> None:
        self._refilling = False
        watch = self.watch
        while (room := min(self._left, self._workers - watch.running)) > 0:
            before = watch.running
            self.clock.at_s += min(room * self._gap_s, STEP_S)
            watch.turn()
            self._left -= watch.running - before
        if self.store.ended >= self._until and not self._ended.done():
            self._ended.set_result(None)


async def watch_load(probe: HttpProbe, workers: int, tls: str = "auto") -> WatchLoad:
    """Return a load of targets that all ask what `probe` asks, each with a memory of its own.

    tls: the library to use.
    """
    clock = SteppedClock()
    # On a clock that hurries, an attempt of some milliseconds looks as if it never ended.
    dogwatch.probes.runner.OVERDUE_S = 1e9
    folder = tempfile.TemporaryDirectory(prefix="dogwatch-bench-", ignore_cleanup_errors=True)
    store = CountingStore(
        await open_store(Path(folder.name) / "watch.db", SystemClock(), StoreLimits(batch=WRITER_RESTS_S))
    )
    engine = Engine(EngineOptions(tls=tls))
    engine.open()
    registry: Registry[Probe] = Registry("probe", *PROBES)
    watch = Watch(
        env=new_env(engine),
        store=store,  # type: ignore[arg-type]
        bus=Bus(),
        clock=clock,
        section=probes_section(registry),
        concurrency=workers * TARGETS_PER_WORKER,
    )
    check = msgspec.structs.replace(probe, expect=EXPECT)
    count = workers * TARGETS_PER_WORKER
    specs = [ProbeSpec(name=f"target-{n}", check=check, every=EVERY_S, timeout=TIMEOUT_S) for n in range(count)]
    change = watch.prepare(Specs(specs))  # type: ignore[arg-type]
    await change.start()
    change.swap()
    load = WatchLoad(watch, store, clock)
    load.folder = folder  # removed at the end of the process
    # Every target is up and settled before anything is measured.
    await load.run(count * WARM_UP_ROUNDS, workers)
    await watch.drain()
    watch.stopping = False
    await SettledHeap().finish()  # as the daemon does once a configuration is in force
    return load
