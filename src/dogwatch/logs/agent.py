"""The agent: sources, routes, outlets and the checkpoint that ties them together."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec

from dogwatch.core.channel import WhenFull
from dogwatch.core.clock import Clock, SystemClock
from dogwatch.core.metrics import Family, series
from dogwatch.errors import Conflict, DogwatchError, reason_of
from dogwatch.logs.block import Position
from dogwatch.logs.checkpoint import GENERATIONS, Checkpoint, CheckpointFile
from dogwatch.logs.disk import DiskBuffer
from dogwatch.logs.intake import SourceIntake
from dogwatch.logs.outlet import Limits, Outlet
from dogwatch.logs.route import Routing
from dogwatch.logs.section import Batch, LogsSpec, SinkSpec
from dogwatch.logs.source import Source
from dogwatch.logs.sources.file import FileSource
from dogwatch.logs.tools import SinkTools
from dogwatch.logs.transform import EVENTS, EVENTS_HELP

_log = logging.getLogger(__name__)
_LINES = 1000
_LEAST_S = 0.5
_FEW_FILES = 4096


class SinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a sink does. failing: why the last write failed, "" where it did not. dropped_of: by source."""

    name: str
    written: int
    dropped: int
    dropped_of: dict[str, int] = {}
    dead: int
    retries: int
    waiting_bytes: int
    damaged: int
    failing: str


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    counts: dict[str, int]
    failing: str = ""


class Agent:
    """Runs one `logs:` section. One at a time has a folder. checkpoint_problem: what was wrong with the last one.

    sleep: how sinks wait before they try again.
    """

    def __init__(
        self,
        spec: LogsSpec,
        folder: Path,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self.checkpoint_problem = ""
        self._file = CheckpointFile(folder / "checkpoint")
        self._checkpoint = Checkpoint()
        self._lock_fd = -1
        self._outlets: dict[str, Outlet] = {}
        self._tools: dict[str, SinkTools] = {}
        self._intakes: dict[str, SourceIntake] = {}
        self._failed: dict[str, str] = {}
        self._sources: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.Task[None]] = []
        self._saver: asyncio.Task[None] | None = None
        self._saving = asyncio.Lock()
        self._save_failed = ""
        self._started = False
        self._routing: Routing | None = None
        self._warned: set[tuple[int, int]] = set()

    async def start(self) -> None:
        """Take the folder, read the checkpoint, and begin.

        Raises: Conflict where another agent has the folder; OSError.
        """
        await asyncio.to_thread(self._take_folder)
        try:
            self._checkpoint, self.checkpoint_problem = await asyncio.to_thread(self._file.load)
            if self.checkpoint_problem:
                _log.error("%s", self.checkpoint_problem)
                self._without_checkpoint()
            await asyncio.to_thread(self._open)
        except BaseException:
            self._release_folder()
            raise
        self._started = True
        self._say_limit()
        loop = asyncio.get_running_loop()
        self._writers = [loop.create_task(one.run(), name=f"log sink {one.name}") for one in self._outlets.values()]
        for source in self._spec.sources:
            self._sources.append(loop.create_task(self._source(source.name, source.source), name=f"log {source.name}"))
        self._saver = loop.create_task(self._save_often(), name="log checkpoint")

    def _without_checkpoint(self) -> None:
        """Where none is good, what is there is read from its beginning: better twice than never."""
        if self._checkpoint == Checkpoint():
            _log.error("no checkpoint can be used: logs are read from their beginning")
            now_s = self._clock.now_s()
            self._checkpoint = Checkpoint(horizons={one.name: now_s for one in self._spec.sources})

    def _say_limit(self) -> None:
        """Say where few files may be open: whoever follows hundreds should hear it before they are there."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if 0 <= soft < _FEW_FILES and any(isinstance(one.source, FileSource) for one in self._spec.sources):
            _log.warning(
                "only %d files may be open at once, those that are followed among them; "
                "raise the limit for more (LimitNOFILE=, ulimit -Hn)",
                soft,
            )

    def _take_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DogwatchError(
                f"cannot use the log agent's folder {self._folder}: {reason_of(error).partition(':')[0]}",
                hint="logs.folder, or --folder of `logs run`, names another",
            ) from None
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._release_folder()
            raise Conflict(f"another agent uses {self._folder}", hint="each needs a folder of its own") from None

    def _release_folder(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _open(self) -> None:
        routing = self._routing = Routing(self._spec)
        for one in self._spec.sinks:
            self._outlets[one.name] = self._outlet(one)
        for source in self._spec.sources:
            intake = SourceIntake(
                source.name,
                self._outlets,
                routing=routing,
                checkpoint=self._checkpoint,
                clock=self._clock,
                save=self.save,
            )
            self._intakes[source.name] = intake
        for outlet in self._outlets.values():
            outlet.room_made = self._made_room

    def _outlet(self, one: SinkSpec) -> Outlet:
        retry = one.retry
        tools = SinkTools(one.name, self._folder, save=self.save, base_s=retry.base, cap_s=retry.cap, sleep=self._sleep)
        self._tools[one.name] = tools
        state = self._checkpoint.buffers.get(one.name)
        disk = None
        # Without a bound for it, what an earlier configuration left on disk is still sent.
        if one.buffer.disk or (state is not None and not state.empty):
            disk = DiskBuffer(self._folder / "buffers" / one.name, state)
        batch = one.batch
        if one.sink.batch_bytes and batch == Batch():
            batch = Batch(size=one.sink.batch_bytes, wait=one.sink.batch_wait_s)
        limits = Limits(
            memory_bytes=one.buffer.memory,
            disk_bytes=one.buffer.disk,
            batch_bytes=batch.size,
            wait_s=batch.wait,
            when_full=WhenFull(one.buffer.when_full),
            at_once=one.concurrency,
        )
        return Outlet(one.name, one.sink, limits, tools, disk, self._checkpoint.sinks.get(one.name))

    def _made_room(self) -> None:
        for intake in self._intakes.values():
            intake.made_room()

    async def _source(self, name: str, source: Source) -> None:
        try:
            await source.run(self._intakes[name])
        except DogwatchError as error:
            self._failed[name] = str(error)
            _log.error("log source %s ended: %s", name, error)
        except Exception as error:  # noqa: BLE001
            # One broken source must not end the others; it is shown, and the daemon's log has the place.
            self._failed[name] = f"{type(error).__name__}: {error}"
            _log.exception("log source %s failed", name)

    # -- checkpoints

    async def save(self) -> bool:
        """Write what is accepted now, with everything it speaks of made durable first; return whether it is on disk."""
        async with self._saving:
            if not self._started:
                return False  # what could not begin knows nothing, and must not overwrite what is known
            checkpoint = self.snapshot()
            outlets = list(self._outlets.values())
            try:
                await _whole(asyncio.to_thread(self._write, checkpoint, outlets))
                self._save_failed = ""
            except OSError as error:
                if not self._save_failed:
                    _log.error("cannot write the checkpoint: %s", reason_of(error))
                self._save_failed = str(error)
        return not self._save_failed

    def _write(self, checkpoint: Checkpoint, outlets: list[Outlet]) -> None:
        for outlet in outlets:
            outlet.sync()
        self._file.save(checkpoint)

    def snapshot(self) -> Checkpoint:
        """Return what is accepted at this instant."""
        streams = [one for intake in self._intakes.values() for one in intake.streams()]
        cursors: dict[str, dict[str, Position]] = {}
        horizons: dict[str, float] = {}
        generations = dict(self._checkpoint.generations)
        for name, intake in self._intakes.items():
            if positions := intake.cursors_now():
                cursors[name] = positions
            if (horizon_s := intake.horizon_now()) is not None:
                horizons[name] = horizon_s
            generations.update(intake.known_generations)
        return Checkpoint(
            streams=tuple(streams),
            cursors=cursors,
            horizons=horizons,
            generations=dict(list(generations.items())[-GENERATIONS:]),
            sinks={name: one.state for name, one in self._outlets.items() if one.state is not None},
            buffers={name: one.disk_state for name, one in self._outlets.items() if one.disk_state is not None},
        )

    async def _save_often(self) -> None:
        saved = self.moved()
        last_s = self._clock.monotonic_s()
        while True:
            self._warn()
            await asyncio.sleep(min(_LEAST_S, self._spec.checkpoint))
            moved, now_s = self.moved(), self._clock.monotonic_s()
            if moved - saved >= _LINES or (moved != saved and now_s - last_s >= self._spec.checkpoint):
                await self.save()
                saved, last_s = moved, now_s

    def moved(self) -> int:
        """Return how many records were settled since the start."""
        return sum(one.counts["written"] + one.counts["dropped"] for one in self._outlets.values())

    # -- ending

    async def finished(self) -> None:
        """Wait until every source has ended by itself."""
        if self._sources:
            await asyncio.wait(self._sources)

    async def stop(self) -> None:
        """End the sources, let sinks write what waits for `grace`, keep the rest on disk, write the checkpoint."""
        # Their positions are read before they close their files.
        await _cancel(self._sources, before=self._freeze)
        for outlet in self._outlets.values():
            outlet.drain()
        if self._writers:
            await asyncio.wait(self._writers, timeout=self._spec.grace)
        await _cancel(self._writers)
        if self._saver is not None:
            await _cancel([self._saver])
        for outlet in self._outlets.values():
            await outlet.park()
        await self.save()
        for tools in self._tools.values():
            await tools.close()
        for intake in self._intakes.values():
            intake.close()
        self._release_folder()

    def _freeze(self) -> None:
        for intake in self._intakes.values():
            intake.freeze()

    # -- looking

    def derived(self) -> Iterator[Family]:
        """Yield what transforms count, and the metrics that they make of what passes."""
        if self._routing is None:
            return
        lines = [
            (
                series(EVENTS, {"route": str(one.route), "step": str(one.step), "kind": one.kind, "event": one.event}),
                float(one.value),
            )
            for one in self._routing.counts()
        ]
        yield Family(EVENTS, "counter", EVENTS_HELP, lines)
        yield from self._routing.families()

    def _warn(self) -> None:
        """Say once of each condition that columns cannot judge: it costs many times as much."""
        for one in self._routing.counts() if self._routing is not None else ():
            place = (one.route, one.step)
            if one.event == "row_by_row" and one.value and place not in self._warned:
                self._warned.add(place)
                _log.warning("logs.routes[%d].do[%d].%s: is judged record by record, which is slow", *place, one.kind)

    def status(self) -> tuple[list[SourceStatus], list[SinkStatus]]:
        sources = [
            SourceStatus(name=name, counts=dict(intake.counts), failing=self._failed.get(name) or intake.failing)
            for name, intake in self._intakes.items()
        ]
        sinks = [
            SinkStatus(
                name=name,
                written=one.counts["written"],
                dropped=one.counts["dropped"],
                dropped_of=dict(one.dropped_of),
                dead=self._tools[name].dead_count,
                retries=one.counts["retries"],
                waiting_bytes=one.waiting_bytes,
                damaged=one.counts["damaged"],
                failing=one.failing,
            )
            for name, one in self._outlets.items()
        ]
        return sources, sinks


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work that cannot be cancelled: a thread goes on, and the next checkpoint must not meet it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _cancel(tasks: list[asyncio.Task[None]], before: Callable[[], None] = lambda: None) -> None:
    before()
    for task in tasks:
        task.cancel()
    for task in tasks:
        try:
            await task
        except asyncio.CancelledError:
            pass
        except Exception:  # noqa: BLE001
            # What follows, the last checkpoint above all, must not depend on it.
            _log.exception("a task of the log agent failed")
