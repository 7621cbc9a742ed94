"""The seam of every source: its options, and the intake that takes its blocks."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from dogwatch.core.clock import Clock
from dogwatch.core.component import Component
from dogwatch.logs.block import Block, Position
from dogwatch.logs.tail.identity import Saved

T = TypeVar("T")


class Intake(Protocol):
    """What a source sees of the sinks behind its routes; one lane for each."""

    @property
    def source(self) -> str: ...

    @property
    def lanes(self) -> tuple[str, ...]: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def wants_counts(self) -> bool:
        """Whether blocks must come with the number of their lines; otherwise it is found out on the way."""
        ...

    def ready(self) -> frozenset[str]:
        """Return the lanes that have room now."""
        ...

    async def room(self) -> None:
        """Wait until a lane that had none has room again."""
        ...

    async def put(self, block: Block, lanes: Iterable[str], after: Position | None = None) -> None:
        """Hand a block to lanes; waits for those that are full and neither drop nor buffer on disk.

        after: where the source would go on once the lane has accepted it; None where it cannot go back.
        """
        ...

    async def put_several(self, blocks: Sequence[tuple[Block, Position]], lanes: Iterable[str]) -> None:
        """Do the same for small blocks of several streams, at little more than the cost of one."""
        ...

    async def deliver(self, block: Block) -> None:
        """Hand a block to all lanes and return once each has accepted it (or dropped it, and counted). What was
        accepted is durable after the next `save`.
        """
        ...

    def saved(self) -> tuple[Saved, ...]:
        """Return the streams of the last checkpoint."""
        ...

    def horizon_s(self) -> float | None: ...

    def generations(self) -> Mapping[str, int]: ...

    def begin(self, stream: str, lane: str, position: Position) -> None:
        """Say from where a stream is read for a lane."""
        ...

    def cursors(self) -> Mapping[str, Position]:
        """Return the last checkpoint's position of each lane, of a source with one stream."""
        ...

    def accepted(self, stream: str) -> bool:
        """Return whether everything handed out of a stream is accepted by all lanes."""
        ...

    def forget(self, stream: str) -> None:
        """Say that a stream needs no checkpoint any more."""
        ...

    def describe(self, streams: Callable[[], Iterable[Saved]], horizon_s: Callable[[], float | None]) -> None:
        """Give what the checkpoint asks for the streams that are followed; the positions are the intake's own."""
        ...

    def note_generations(self, generations: Mapping[str, int]) -> None: ...

    async def save(self) -> bool:
        """Write the checkpoint now; return whether it is on disk."""
        ...

    async def thread(self, call: Callable[[], T]) -> T:
        """Run blocking work in this source's own thread, one after the other."""
        ...

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter that is shown beside the source."""
        ...

    def trouble(self, text: str) -> None:
        """Say what keeps the source from reading; "" once it reads again."""
        ...


class Source(Component, frozen=True, kw_only=True):
    """Where lines come from."""

    @abc.abstractmethod
    async def run(self, intake: Intake) -> None:
        """Read until cancelled, or until there is nothing more. What fails for a while is tried again inside.

        Raises: PermanentError where it can never work.
        """

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        """Find what types cannot say: (path below the options, message, hint). No I/O."""
        return ()
