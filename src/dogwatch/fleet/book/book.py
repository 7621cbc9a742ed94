"""The book of fleet runs over a database: who begins a run, goes on with it, and writes down what its hosts do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.engine.book.ids import Mint
from dogwatch.errors import NotFound, TransientError
from dogwatch.fleet.book import rows
from dogwatch.fleet.book.values import FleetRunRow, Kept, Key, Opening, RunState, end_state
from dogwatch.fleet.results import HostResult
from dogwatch.store.database import Database, Tx

T = TypeVar("T")
# A file that several processes write may be busy for a moment; a full disk is given this long to get room.
_TRIES_S = (0.1, 0.3, 1.0, 3.0)
# What hosts have to say is gathered for so long: nothing beside a login.
_GROUP_S = 0.005


class _Write(Protocol):
    def __call__(self, work: Callable[[Tx], T], *, free: bool = False) -> Awaitable[T]: ...


class FleetBook:
    """What the rest asks of fleet runs. audited: each has audit events of its own."""

    def __init__(self, database: Database, *, audited: bool) -> None:
        self._database = database
        self._audited = audited
        self._mint = Mint()

    async def open(self, opening: Opening, key: Key | None = None) -> Key:
        """Write a new run and its hosts; return its key. Raises: TransientError, PermanentError."""

        def work(tx: Tx) -> Key:
            new = key or Key(self._mint.next(tx.now_s))
            rows.open_run(tx, new, opening, audited=self._audited)
            return new

        return await self._write(work)

    async def reopen(self, key: Key, actor: Actor, *, attempt: int | None = None) -> FleetRunRow:
        """Take a run up again. Raises: NotFound."""
        return await self._write(lambda tx: rows.reopen(tx, key, actor, attempt=attempt, audited=self._audited))

    async def close(self, key: Key, results: Sequence[HostResult], reason: str, actor: Actor) -> RunState:
        """Write how the whole ended."""
        state = end_state(results, reason)
        await self._write(lambda tx: rows.close(tx, key, state, reason, actor, audited=self._audited))
        return state

    async def note(
        self,
        actor: Actor,
        verb: str,
        subject: Subject,
        *,
        outcome: str,
        reason: str = "",
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an audit event of something that is no run of the book, such as a plan that is applied."""
        await self._write(lambda tx: record(tx, actor, verb, subject, outcome=outcome, reason=reason, after=after))

    async def resolve(self, given: str) -> Key:
        """Return the run of `RUN`, `RUN/STEP` or a beginning. Raises: NotFound, Conflict."""
        return await self._database.read(lambda tx: rows.resolve(tx, given))

    async def known(self, key: Key) -> bool:
        return await self._database.read(lambda tx: rows.exists(tx, key))

    async def show(self, key: Key) -> FleetRunRow:
        """Raises: NotFound."""
        return await self._database.read(lambda tx: rows.show(tx, key))

    async def find(self, *, limit: int = 50, cursor: str = "", run_id: str = "") -> tuple[Sequence[FleetRunRow], str]:
        return await self._database.read(lambda tx: rows.find(tx, limit=limit, cursor=cursor, run_id=run_id))

    async def hosts(self, key: Key, *, after: int = -1, limit: int = 1_000_000) -> list[Kept]:
        return await self._database.read(lambda tx: rows.hosts(tx, key, after=after, limit=limit))

    async def states(self, key: Key) -> list[tuple[str, str, Mapping[str, str]]]:
        """Return each host of a run with its state and labels, in its order, without what it said."""
        return await self._database.read(lambda tx: rows.states(tx, key))

    async def labels(self, keys: Sequence[Key]) -> dict[Key, list[Mapping[str, str]]]:
        """Return which labels the hosts of these runs carry, each set once."""
        return await self._database.read(lambda tx: rows.labels(tx, keys))

    async def last_seen(self, names: Sequence[str]) -> dict[str, tuple[float, str, str]]:
        return await self._database.read(lambda tx: rows.last_seen(tx, names))

    def recorder(
        self, key: Key, hosts: Sequence[Kept], *, attempt: int, mask: Callable[[str], str] | None = None
    ) -> Recorder:
        """Return what writes down the hosts of a run. mask: hides secrets in what they say."""
        return Recorder(self._write, key, {one.host: one.place for one in hosts}, attempt=attempt, mask=mask)

    async def _write(self, work: Callable[[Tx], T], *, free: bool = False) -> T:
        for wait_s in _TRIES_S:
            try:
                return await self._database.write(work, free=free)
            except TransientError:
                await asyncio.sleep(wait_s)
        return await self._database.write(work, free=free)


class Recorder:
    """Implements run.HostLedger for one run."""

    def __init__(
        self,
        write: _Write,
        key: Key,
        places: Mapping[str, int],
        *,
        attempt: int,
        mask: Callable[[str], str] | None,
    ) -> None:
        self._write, self._key, self._places, self._attempt, self._mask = write, key, places, attempt, mask
        self._pending: list[Callable[[Tx], None]] = []
        self._group: asyncio.Task[None] | None = None

    async def begun(self, host: str, batch: int) -> None:
        place = self._place(host)
        await self._do(lambda tx: rows.begin(tx, self._key, place, attempt=self._attempt, batch=batch))

    async def ended(self, result: HostResult) -> None:
        place, masked = self._place(result.host), self._masked(result)
        await self._do(lambda tx: rows.end(tx, self._key, place, masked, attempt=self._attempt))

    async def _do(self, work: Callable[[Tx], None]) -> None:
        """Return once it is on disk, with what other hosts have to say at about the same time: a commit costs more."""
        self._pending.append(work)
        if self._group is None:
            self._group = asyncio.get_running_loop().create_task(self._commit(), name=f"fleet-book-{self._key}")
        # One host that is cancelled takes nothing from the others.
        await asyncio.shield(self._group)

    async def _commit(self) -> None:
        await asyncio.sleep(_GROUP_S)
        works, self._pending, self._group = self._pending, [], None

        def all_of_it(tx: Tx) -> None:
            for work in works:
                work(tx)

        await self._write(all_of_it, free=True)

    def _place(self, host: str) -> int:
        if host not in self._places:
            raise NotFound(f"{host} is no host of fleet run {self._key}")
        return self._places[host]

    def _masked(self, result: HostResult) -> HostResult:
        mask = self._mask
        if mask is None:
            return result

        def hidden(data: bytes) -> bytes:
            text = data.decode(errors="surrogateescape")
            told = mask(text)
            return data if told == text else told.encode(errors="surrogateescape")

        return replace(result, stdout=hidden(result.stdout), stderr=hidden(result.stderr), message=mask(result.message))
