"""The intake of one source: implements source.Intake over the agent's outlets, progress and checkpoint."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from dogwatch.core.clock import Clock
from dogwatch.core.deadline import finished
from dogwatch.logs.block import Block, Position
from dogwatch.logs.checkpoint import Checkpoint
from dogwatch.logs.outlet import Outlet
from dogwatch.logs.progress import Progress, Receipt, Ticket
from dogwatch.logs.route import Routing
from dogwatch.logs.tail.identity import Saved

T = TypeVar("T")
_log = logging.getLogger(__name__)


class SourceIntake:
    """counts: lines, bytes and what the source counts itself."""

    def __init__(
        self,
        source: str,
        outlets: Mapping[str, Outlet],
        *,
        routing: Routing,
        checkpoint: Checkpoint,
        clock: Clock,
        save: Callable[[], Coroutine[Any, Any, bool]],
    ) -> None:
        self.source = source
        self.lanes = routing.lanes(source)
        self.clock = clock
        self.progress = Progress()
        self.counts: Counter[str] = Counter()
        self.failing = ""
        self.known_generations: Mapping[str, int] = {}
        self.save = save
        self._outlets = {lane: outlets[lane] for lane in self.lanes}
        self._routing = routing
        self._heavy = routing.changes(source)
        self.wants_counts = not self._heavy
        self._checkpoint = checkpoint
        self._room = asyncio.Event()
        self._full: set[str] = set()
        self._streams: Callable[[], Iterable[Saved]] = tuple
        self._horizon: Callable[[], float | None] = lambda: None
        self._threads = ThreadPoolExecutor(1, f"dogwatch-log-{source}")
        # Positions of what is finished or not described yet; kept as they were until somebody knows better.
        self._described = False
        for lane, position in self.cursors().items():
            self.progress.begin("", lane, position)

    # -- for sources

    def ready(self) -> frozenset[str]:
        ready = frozenset(lane for lane, outlet in self._outlets.items() if outlet.has_room())
        self._full = set(self.lanes) - ready
        if self._full:
            self._room.clear()
        return ready

    async def room(self) -> None:
        await (self._room.wait() if self._full else asyncio.Event().wait())

    def made_room(self) -> None:
        self._room.set()

    async def put(self, block: Block, lanes: Iterable[str], after: Position | None = None) -> None:
        wanted = tuple(lanes)
        stream = self._track(block)
        tickets = {lane: None if after is None else self.progress.ticket(stream, lane, after) for lane in wanted}
        await self._hand_out([block], wanted, tickets)

    async def put_several(self, blocks: Sequence[tuple[Block, Position]], lanes: Iterable[str]) -> None:
        wanted = tuple(lanes)
        places = [(self._track(block), after) for block, after in blocks]
        tickets = {lane: self.progress.tickets(places, lane) for lane in wanted}
        await self._hand_out([block for block, _after in blocks], wanted, tickets)

    async def deliver(self, block: Block) -> None:
        loop = asyncio.get_running_loop()
        told: dict[str, asyncio.Future[None]] = {lane: loop.create_future() for lane in self.lanes}
        await self._hand_out([block], self.lanes, {lane: Receipt(partial(_tell, one)) for lane, one in told.items()})
        await asyncio.gather(*told.values())

    async def _hand_out(
        self, blocks: Sequence[Block], wanted: tuple[str, ...], tickets: Mapping[str, Ticket | None]
    ) -> None:
        self.counts["bytes"] += sum([len(block.data) for block in blocks])
        if self._heavy:
            found, lines = await self.thread(lambda: self._routing.apply(blocks, wanted))
        else:
            found, lines = self._routing.apply(blocks, wanted)
        self.counts["lines"] += lines
        if len(wanted) == 1:
            await self._outlets[wanted[0]].put(found[wanted[0]], tickets[wanted[0]])
            return
        # Side by side: one that waits for room does not keep the others from having it.
        await asyncio.gather(*(self._outlets[lane].put(found[lane], tickets[lane]) for lane in wanted))

    def _track(self, block: Block) -> str:
        return block.stream if self._described else ""

    def saved(self) -> tuple[Saved, ...]:
        return tuple(one for one in self._checkpoint.streams if one.source == self.source)

    def horizon_s(self) -> float | None:
        return self._checkpoint.horizons.get(self.source)

    def generations(self) -> Mapping[str, int]:
        return self._checkpoint.generations

    def begin(self, stream: str, lane: str, position: Position) -> None:
        self.progress.begin(stream, lane, position)

    def cursors(self) -> Mapping[str, Position]:
        return self._checkpoint.cursors.get(self.source, {})

    def accepted(self, stream: str) -> bool:
        return self.progress.idle(stream, self.lanes)

    def forget(self, stream: str) -> None:
        self.progress.forget(stream, self.lanes)

    def describe(self, streams: Callable[[], Iterable[Saved]], horizon_s: Callable[[], float | None]) -> None:
        self._streams, self._horizon, self._described = streams, horizon_s, True

    def note_generations(self, generations: Mapping[str, int]) -> None:
        self.known_generations = generations

    async def thread(self, call: Callable[[], T]) -> T:
        return await finished(asyncio.get_running_loop().run_in_executor(self._threads, call))

    def count(self, name: str, amount: int = 1) -> None:
        self.counts[name] += amount

    def trouble(self, text: str) -> None:
        if text and text != self.failing:
            _log.warning("log source %s: %s", self.source, text)
        self.failing = text

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- for checkpoints

    def streams(self) -> list[Saved]:
        """Return the streams with what every lane has accepted of them."""
        if not self._described:
            return list(self.saved())
        found = []
        for one in self._streams():
            lanes = {lane: self.progress.position(one.stream, lane) or position for lane, position in one.lanes.items()}
            found.append(msgspec.structs.replace(one, lanes=lanes))
        return found

    def freeze(self) -> None:
        """Keep the description of now: the source is about to close what it would be asked about."""
        if self._described:
            streams, horizon_s = list(self._streams()), self._horizon()
            self._streams, self._horizon = (lambda: streams), (lambda: horizon_s)

    def horizon_now(self) -> float | None:
        return self._horizon() if self._described else self.horizon_s()

    def cursors_now(self) -> dict[str, Position]:
        if self._described:
            return {}
        found = {lane: self.progress.position("", lane) for lane in self.lanes}
        return {lane: position for lane, position in found.items() if position is not None}


def _tell(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
