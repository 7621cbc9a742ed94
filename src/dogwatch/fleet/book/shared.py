"""A daemon's book of fleet runs together with that of command lines beside its data, which it only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from dogwatch.errors import Conflict, DogwatchError, NotFound
from dogwatch.fleet.book.book import FleetBook
from dogwatch.fleet.book.values import FleetRunRow, Kept, Key, RunState
from dogwatch.store.database import Database

T = TypeVar("T")
_LOST = "whoever carried it out is gone; where it was begun: dogwatch fleet run --resume"


class SharedBook(FleetBook):
    """What is written goes to the daemon's database. folder: the data folder that command lines use, too.

    A run without a step is one of a command line.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        super().__init__(database, audited=False)
        self._folder = folder

    async def resolve(self, given: str) -> Key:
        try:
            found = await super().resolve(given)
        except NotFound as missing:
            return await self._else(lambda book: book.resolve(given), missing)
        other = await self._maybe(lambda book: book.resolve(given))
        if other is not None and other != found:
            raise Conflict(f"'{given[:60]}' may be several: {found}, {other}", hint="write more of it")
        return found

    async def show(self, key: Key) -> FleetRunRow:
        if key.step:
            return await super().show(key)
        return await self._else(lambda book: self._seen(book, key), NotFound(f"there is no fleet run '{key}'"))

    async def find(self, *, limit: int = 50, cursor: str = "", run_id: str = "") -> tuple[Sequence[FleetRunRow], str]:
        rows, following = await super().find(limit=limit, cursor=cursor, run_id=run_id)
        # Only what a command line of this kind of data folder wrote; a run of the engine has steps.
        found = await self._maybe(lambda book: book.find(limit=limit, cursor=cursor, run_id=run_id))
        if found is None or not found[0]:
            return rows, following
        own = [self._alive(row) for row in found[0]]
        merged = sorted([*rows, *own], key=lambda row: row.key.run_id, reverse=True)
        more = len(merged) > limit or following or found[1]
        return merged[:limit], str(merged[:limit][-1].key) if more else ""

    async def hosts(self, key: Key, *, after: int = -1, limit: int = 1_000_000) -> list[Kept]:
        if key.step:
            return await super().hosts(key, after=after, limit=limit)
        return await self._maybe(lambda book: book.hosts(key, after=after, limit=limit)) or []

    async def states(self, key: Key) -> list[tuple[str, str, Mapping[str, str]]]:
        if key.step:
            return await super().states(key)
        return await self._maybe(lambda book: book.states(key)) or []

    async def labels(self, keys: Sequence[Key]) -> dict[Key, list[Mapping[str, str]]]:
        found = await super().labels([key for key in keys if key.step])
        beside = [key for key in keys if not key.step]
        if beside:
            found |= await self._maybe(lambda book: book.labels(beside)) or {}
        return found

    async def _seen(self, book: FleetBook, key: Key) -> FleetRunRow:
        return self._alive(await book.show(key))

    def _alive(self, row: FleetRunRow) -> FleetRunRow:
        """Return a run as stopped where no process carries it out any more."""
        from dogwatch.fleet.book.own import FOLDER, is_held

        if row.state is not RunState.RUNNING or is_held(self._folder / FOLDER, row.key):
            return row
        return replace(row, state=RunState.STOPPED, reason=_LOST)

    async def _maybe(self, ask: Callable[[FleetBook], Awaitable[T]]) -> T | None:
        try:
            async with self._own() as book:
                return await ask(book)
        except DogwatchError:
            # There is none, or it is another user's: the daemon's own runs are told all the same.
            return None

    async def _else(self, ask: Callable[[FleetBook], Awaitable[T]], missing: NotFound) -> T:
        found = await self._maybe(ask)
        if found is None:
            raise missing
        return found

    @asynccontextmanager
    async def _own(self) -> AsyncIterator[FleetBook]:
        from dogwatch.fleet.book.own import own_book

        async with own_book(self._folder, make=False) as book:
            yield book
