"""What every database of state is, whatever its server: lanes that write and read, listeners, trouble, metrics."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from dogwatch.core.metrics import Family
from dogwatch.store.database import Tx
from dogwatch.store.group import Lane, Lanes, Session
from dogwatch.store.migrate import families

T = TypeVar("T")


class LanedDatabase:
    """The part of database.Database that is the same everywhere. free: None where there is one writer for all."""

    kind: str

    def __init__(self, opening: str) -> None:
        self.opening = opening
        # Of each kind of lane: that reading goes well must not hide that nothing can be written.
        self._troubles: dict[str, str] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}

    def _open(self, *, writers: Lanes, readers: Lanes, free: Lanes | None = None) -> None:
        self._writers, self._readers, self._free = writers, readers, free or writers

    def _lanes(self, name: str, count: int, connect: Callable[[], Session]) -> Lanes:
        def say(text: str) -> None:
            self._troubles[name] = text

        def lanes(jobs: queue.SimpleQueue[Any]) -> list[Lane]:
            return [
                Lane(f"dogwatch-state-{name}-{number}", connect, jobs, told=self._tell, trouble=say)
                for number in range(count)
            ]

        return Lanes(lanes)

    def _every(self) -> list[Lanes]:
        """Return all lanes, in the order in which they are closed."""
        return list(dict.fromkeys((self._readers, self._writers, self._free)))

    async def write(self, work: Callable[[Tx], T], *, free: bool = False) -> T:
        return await (self._free if free else self._writers).run(work)

    async def read(self, work: Callable[[Tx], T]) -> T:
        return await self._readers.run(work)

    def listen(self, topic: str, call: Callable[[], None]) -> Callable[[], None]:
        listeners = self._listeners.setdefault(topic, [])
        listeners.append(call)

        def stop() -> None:
            listeners.remove(call)
            if not listeners and self._listeners.get(topic) is listeners:
                del self._listeners[topic]

        return stop

    def _tell(self, topics: Sequence[str]) -> None:
        """Tell of a commit of this process."""
        self._told(topics)

    def _told(self, topics: Sequence[str] | None) -> None:
        """topics: None after a gap, in which anything can have happened."""
        for topic in tuple(self._listeners) if topics is None else dict.fromkeys(topics):
            for call in tuple(self._listeners.get(topic, ())):
                call()

    @property
    def trouble(self) -> str:
        return next(filter(None, self._troubles.values()), "")

    def metrics(self) -> Iterable[Family]:
        writing = dict.fromkeys((self._writers, self._free))
        commits, waiting = sum(lanes.commits for lanes in writing), sum(lanes.waiting for lanes in writing)
        return families(self.kind, commits, waiting, bool(self.trouble))

    async def close(self) -> None:
        for lanes in self._every():
            await lanes.close()
