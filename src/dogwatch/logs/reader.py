"""Reads the daemon's log store for pages and the API, beside the loop and a few queries at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from dogwatch.errors import NotFound
from dogwatch.logs.store.layout import Index
from dogwatch.logs.store.query import Answer, Limits, LogStore, Meant, Query

_AT_ONCE = 2
_POLL_S = 0.5
_MOST_TOGETHER = 200


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps a source from reading or a sink from writing. waiting_bytes: for a sink. labels: of a source."""

    kind: Literal["source", "sink"]
    name: str
    text: str
    waiting_bytes: int = 0
    labels: Mapping[str, str] = {}


class Logs(Protocol):
    """What pages and the API see of the logs."""

    async def sources(self) -> Mapping[str, Mapping[str, str]]:
        """Return every source that is configured or in the store, with its labels."""
        ...

    async def troubles(self) -> Sequence[Trouble]:
        """Return what the agent of this daemon suffers from now."""
        ...

    async def run(self, query: Query) -> Answer:
        """Answer a query. Raises: QueryError, TooLong, NotFound where there is no store."""
        ...

    def tail(self, query: Query) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield what comes from now on and is meant; also, now and then, nothing. At most 200 at once, the newest."""
        ...


class LogReader:
    """Implements Logs. folder: asked anew each time, because a reload may move it; None without a store."""

    def __init__(
        self,
        folder: Callable[[], Path | None],
        configured: Callable[[], Mapping[str, Mapping[str, str]]],
        limits: Limits | None = None,
        troubles: Callable[[], Sequence[Trouble]] = tuple,
    ) -> None:
        self._folder = folder
        self._configured = configured
        self._troubles = troubles
        self._limits = limits or Limits(time_s=10.0)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._store: tuple[Path, LogStore, Index] | None = None

    def _opened(self) -> tuple[Path, LogStore, Index]:
        folder = self._folder()
        if folder is None:
            raise NotFound("no log store is configured", hint="a sink `store: {}` in `logs.sinks` makes one")
        if self._store is None or self._store[0] != folder:
            self._store = (folder, LogStore(folder, self._limits, expected=True), Index(folder))
        return self._store

    async def sources(self) -> Mapping[str, Mapping[str, str]]:
        _folder, _store, index = self._opened()
        contents = await asyncio.to_thread(index.contents)
        stored = {one.meta.source: dict[str, str]() for one in contents.segments}
        return {**stored, **self._configured()}

    async def troubles(self) -> Sequence[Trouble]:
        return self._troubles()

    async def run(self, query: Query) -> Answer:
        _folder, store, _index = self._opened()
        async with self._turns:
            gone = False
            work = asyncio.ensure_future(asyncio.to_thread(store.run, query, lambda: gone))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                gone = True
                await asyncio.wait([work])
                raise

    async def tail(self, query: Query) -> AsyncIterator[list[dict[str, Any]]]:
        from dogwatch.logs.store.follow import Follow

        folder, _store, _index = self._opened()
        meant = Meant(query)
        follow = await asyncio.to_thread(Follow, folder)
        try:
            while True:
                found = await asyncio.to_thread(lambda: [one for one in follow.read() if meant.holds(one)])
                yield found[-_MOST_TOGETHER:]
                await asyncio.sleep(_POLL_S)
        finally:
            follow.close()
