"""Reload: parse and validate, build, start the new, swap, stop the old. Any error leaves the old in force."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dogwatch.config.background import Lane, no_collection
from dogwatch.config.changes import changes
from dogwatch.config.deadlines import Deadlines
from dogwatch.config.inotify import Inotify
from dogwatch.config.load import Loaded, Loader
from dogwatch.config.part import Part, Prepared
from dogwatch.config.planning import planned
from dogwatch.config.status import ReloadPlan, ReloadRecord
from dogwatch.config.trace import History, Trace
from dogwatch.config.watch import Timing, Watcher, follow
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family
from dogwatch.core.values import Event
from dogwatch.errors import ConfigError, DogwatchError, Problem

log = logging.getLogger(__name__)

REMIND_S = 600.0
STOPPING = "Dogwatch is stopping"


class _Request:
    """Everybody who asked for the same, still coming, reload."""

    def __init__(self, trigger: str, asked_s: float, loaded: Loaded | None) -> None:
        self.trigger = trigger
        self.asked_s = asked_s
        self.loaded = loaded
        self.future: asyncio.Future[ReloadRecord] = asyncio.get_running_loop().create_future()


_Built = list[tuple[Part, Prepared]]


class Reloader:
    """Keeps a list of parts at the configuration on disk; `config.status.ReloadControl`.

    parts: in the order in which they start. The first configuration arrives by `start`, in the same way as every
    later one. Owned by the event loop; `close` ends what it began.
    """

    def __init__(
        self,
        loader: Loader,
        parts: Sequence[Part],
        *,
        clock: Clock,
        bus: Bus,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._loader = loader
        self._parts = tuple(parts)
        self._clock = clock
        self._bus = bus
        self._deadlines = deadlines or Deadlines()
        self._history = History()
        self._lane = Lane("config-load")
        # One at a time, plans too: what a plan undoes must not meet what a reload stops.
        self._turn = asyncio.Lock()
        self._waiting: _Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._committed = False
        self._error: Exception | None = None
        self._watched: tuple[Path, ...] = loader.paths
        self._watcher: Watcher | None = None
        self.current: Loaded | None = None

    @property
    def failing(self) -> ReloadRecord | None:
        """The failure that stands: what is on disk is bad, and what was in force before still is."""
        return self._history.failing

    def history(self) -> Sequence[ReloadRecord]:
        """Return the newest reloads, newest first, bounded."""
        return self._history.records()

    def families(self) -> list[Family]:
        return self._history.families()

    def use(self, *parts: Part) -> None:
        """Add parts before the start; some are given this reloader when they are made."""
        self._parts += parts

    async def start(self, loaded: Loaded | None = None) -> Loaded:
        """Bring the first configuration into force. loaded: where the caller has read it already.

        Raises: ConfigError; whatever a part could not be built or started for.
        """
        record = await self._ask("start", self._clock.monotonic_s(), loaded)
        if self.current is None:
            raise self._error or DogwatchError("; ".join(record.problems) or "the start was cancelled")
        return self.current

    async def reload(self, trigger: str) -> ReloadRecord:
        """Reload now and return how it ended; a bad configuration is a record, not an exception.

        Whoever asks while a reload runs gets the next one, together with everybody else who does: the one that runs
        may have read the files before they changed. A caller that is cancelled leaves the reload running.
        """
        return await self._ask(trigger, self._clock.monotonic_s())

    async def plan(self) -> ReloadPlan:
        """Read, validate and build as a reload does, undo all of it, and return what a reload would do."""
        async with self._turn:
            return await planned(self._loader, self._lane, self._parts, self.current, self._deadlines)

    async def watch(self, *, timing: Timing | None = None, make: Callable[[], Inotify] = Inotify) -> None:
        """Reload on every change of the files, until cancelled. To be run as a supervised task."""
        self._watcher = watcher = Watcher(lambda: self._watched, timing=timing, make=make)
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(watcher, self._on_change), name="config-watch")
            group.create_task(self._remind(), name="config-remind")
            group.create_task(self._catch_up(watcher), name="config-catch-up")

    async def close(self) -> None:
        """Stop reloading. One that has swapped ends by itself, within its deadline; an earlier one is undone."""
        self._closing = True
        task = self._task
        if task is not None:
            if not self._committed:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._release(self._waiting)

    def _on_change(self, waited_s: float) -> None:
        self._enqueue("file", self._clock.monotonic_s() - waited_s)

    async def _catch_up(self, watcher: Watcher) -> None:
        """Reload where the files were changed between their reading and the first look of the watcher."""
        await watcher.looking.wait()
        if self.current is None:
            return
        try:
            parsed = await self._lane.run(self._loader.parse, timeout_s=self._deadlines.load_s)
        except (OSError, TimeoutError, DogwatchError) as error:
            log.warning("the configuration cannot be compared with the one in force: %s", error)
            return
        if parsed.problems or parsed.digest != self.current.digest:
            self._on_change(0.0)

    async def _remind(self) -> None:
        """Say again, now and then, that a bad configuration waits to be mended."""
        while True:
            await asyncio.sleep(REMIND_S)
            if self.failing is not None:
                count = len(self.failing.problems)
                log.warning("the configuration on disk is still not in force: %d problem(s)", count)

    async def _ask(self, trigger: str, asked_s: float, loaded: Loaded | None = None) -> ReloadRecord:
        if self._closing:
            return self._stopping(trigger).end("failed", problems=[STOPPING])
        return await asyncio.shield(self._enqueue(trigger, asked_s, loaded).future)

    def _enqueue(self, trigger: str, asked_s: float, loaded: Loaded | None = None) -> _Request:
        if self._waiting is None:
            self._waiting = _Request(trigger, asked_s, loaded)
        request = self._waiting
        if (self._task is None or self._task.done()) and not self._closing:
            self._task = asyncio.get_running_loop().create_task(self._drain(), name="config-reload")
        return request

    async def _drain(self) -> None:
        while self._waiting is not None and not self._closing:
            request, self._waiting = self._waiting, None
            try:
                async with self._turn:
                    request.future.set_result(await self._once(request))
            finally:
                self._release(request)

    def _release(self, request: _Request | None) -> None:
        """Let nobody wait for a reload that will not come any more."""
        if request is not None and not request.future.done():
            trace = self._history.running or self._stopping(request.trigger)
            request.future.set_result(trace.end("failed", problems=[STOPPING]))

    def _stopping(self, trigger: str) -> Trace:
        return Trace(self._clock, number=self._history.started, trigger=trigger, since_s=0.0)

    async def _once(self, request: _Request) -> ReloadRecord:
        since_s = max(0.0, self._clock.monotonic_s() - request.asked_s)
        trace = Trace(self._clock, number=self._history.started + 1, trigger=request.trigger, since_s=since_s)
        self._history.begin(trace)
        self._publish(trace.record)
        self._error = None
        try:
            with no_collection():
                loaded = await self._load(request, trace)
                changed = await self._changes(loaded) if loaded is not None else ()
            if loaded is None:
                record = trace.end("unchanged")
            else:
                problems = await self._apply(loaded, trace)
                record = trace.end("applied", problems=problems, changed=changed)
        except ConfigError as error:
            self._error = error
            record = trace.end("failed", problems=[str(problem) for problem in error.problems])
        except Exception as error:  # noqa: BLE001 - a part's mistake must not end the watch: the old stays, it is told
            self._error = error
            record = trace.end("failed", problems=[_explain(error)])
        self._history.end(record)
        self._tell(record)
        return record

    async def _load(self, request: _Request, trace: Trace) -> Loaded | None:
        """Return the validated configuration, or None if it means what is in force already."""
        loaded = request.loaded
        if loaded is not None:
            self._watch_also(loaded.parsed.watched)
            trace.reached("parsed")
            trace.reached("validated")
            return loaded
        timeout_s = self._deadlines.load_s
        with _phase("reading the configuration", timeout_s):
            parsed = await self._lane.run(self._loader.parse, timeout_s=timeout_s)
        self._watch_also(parsed.watched)
        trace.reached("parsed")
        if self.current is not None and not parsed.problems and parsed.digest == self.current.digest:
            return None
        with _phase("validating the configuration", timeout_s):
            loaded = await self._lane.run(lambda: self._loader.validate(parsed), timeout_s=timeout_s)
        trace.reached("validated")
        return loaded

    async def _changes(self, loaded: Loaded) -> tuple[str, ...]:
        if self.current is None:
            return ()
        before, after = self.current.parsed.tree, loaded.parsed.tree
        return await self._lane.run(lambda: changes(before, after), timeout_s=self._deadlines.load_s)

    def _watch_also(self, paths: tuple[Path, ...]) -> None:
        if paths != self._watched:
            self._watched = paths
            if self._watcher is not None:
                self._watcher.refresh()

    async def _apply(self, loaded: Loaded, trace: Trace) -> list[str]:
        """Build, start, swap and stop the old; return what went wrong after the swap, which is not undone."""
        built: _Built = []
        try:
            await self._build(loaded, built)
            trace.reached("built")
            with _phase("starting the new configuration", self._deadlines.start_s):
                async with asyncio.timeout(self._deadlines.start_s):
                    for part, prepared in built:
                        await _started(part, prepared)
            trace.reached("started")
        except BaseException:
            await self._discard(built)
            raise
        self._committed = True
        try:
            problems = _swap(built)
            self.current = loaded
            trace.reached("swapped")
            problems += await self._finish(built)
            trace.reached("stopped")
        finally:
            self._committed = False
        return problems

    async def _build(self, loaded: Loaded, built: _Built) -> None:
        """Let every part prepare, and raise all their complaints together."""
        problems: list[Problem] = []
        began_s = self._clock.monotonic_s()
        for part in self._parts:
            if self._clock.monotonic_s() - began_s > self._deadlines.build_s:
                raise TimeoutError(f"building took longer than {self._deadlines.build_s:g} s, at {part.name}")
            try:
                built.append((part, part.prepare(loaded)))
            except ConfigError as error:
                problems += error.problems
            except DogwatchError as error:
                problems.append(Problem(f"{part.name}: {error}", hint=error.hint))
            # Probes go on being asked between the building of one part and the next.
            await asyncio.sleep(0)
        if problems:
            raise ConfigError(problems)

    async def _discard(self, built: _Built) -> None:
        for part, prepared in reversed(built):
            try:
                async with asyncio.timeout(self._deadlines.stop_s):
                    await prepared.discard()
            except Exception:
                log.exception("reload: %s could not undo what it prepared", part.name)

    async def _finish(self, built: _Built) -> list[str]:
        problems = []
        for part, prepared in built:
            try:
                with _phase(f"stopping the old of {part.name}", self._deadlines.stop_s):
                    async with asyncio.timeout(self._deadlines.stop_s):
                        await prepared.finish()
            except Exception as error:
                log.exception("reload: %s could not stop what was replaced", part.name)
                problems.append(f"{part.name}: the old was not stopped: {_explain(error)}")
        return problems

    def _tell(self, record: ReloadRecord) -> None:
        took_s = sum(step.duration_s for step in record.steps)
        if record.outcome == "failed":
            kept = "the old configuration stays in force" if self.current is not None else "nothing is in force"
            log.error(
                "reload %d (%s) failed, %s: %d problem(s)", record.number, record.trigger, kept, len(record.problems)
            )
            for line in record.problems:
                log.error("reload %d: %s", record.number, line)
        elif record.outcome == "applied":
            names = " ".join(record.changed[:10])
            log.info("reload %d (%s) applied in %.3f s %s", record.number, record.trigger, took_s, names)
        else:
            log.info("reload %d (%s): nothing changed", record.number, record.trigger)
        self._publish(record)

    def _publish(self, record: ReloadRecord) -> None:
        self._bus.publish(Event(topic="reload", time_s=self._clock.now_s(), data=record))


@contextmanager
def _phase(what: str, timeout_s: float) -> Iterator[None]:
    """Name the phase in a TimeoutError, which otherwise says nothing."""
    try:
        yield
    except TimeoutError as error:
        if str(error):
            raise
        raise TimeoutError(f"{what} took longer than {timeout_s:g} s") from error


async def _started(part: Part, prepared: Prepared) -> None:
    try:
        await prepared.start()
    except ConfigError:
        raise
    except DogwatchError as error:
        raise type(error)(f"{part.name}: {error}", hint=error.hint) from error
    except OSError as error:
        raise DogwatchError(f"{part.name}: cannot start: {error}") from error


def _swap(built: _Built) -> list[str]:
    problems = []
    for part, prepared in built:
        try:
            prepared.swap()
        except Exception as error:
            # A swap must not fail. There is no way back from here, so the others follow.
            log.exception("reload: %s could not swap", part.name)
            problems.append(f"{part.name}: the new is not in force: {_explain(error)}")
    return problems


def _explain(error: Exception) -> str:
    if isinstance(error, DogwatchError | TimeoutError) and str(error):
        hint = getattr(error, "hint", "")
        return f"{error}; {hint}" if hint else str(error)
    log.error("reload: unexpected", exc_info=error)
    return f"internal error: {error!r}"
