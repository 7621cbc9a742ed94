"""Open connections, kept for the next command to the same host: a login costs a server far more than a command."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from dogwatch.core.deadline import cancel_and_wait
from dogwatch.fleet.connection import Connection, Ended, HostFailed, NotBegun, Output, RemoteCommand, State
from dogwatch.fleet.connections.local import DockerConnection, LocalConnection
from dogwatch.fleet.login import Login

IDLE_S = 60.0
MOST = 1000
# So many are closed at the same time.
_CLOSING = 100


class Dialer(Protocol):
    """Opens connections; `connections.ssh.SshDialer` is one, and so is the pool over it."""

    async def open(self, login: Login) -> Connection: ...

    async def close(self) -> None: ...


async def reach(login: Login, dialer: Dialer) -> Connection:
    """Open a connection as the login says: here, in a container, or through the dialer. Raises: HostFailed."""
    if login.connection == "local":
        return LocalConnection()
    if login.connection == "docker":
        return DockerConnection(login.address or login.host, user=login.user or "")
    return await dialer.open(login)


class _Idle(msgspec.Struct):
    """A connection that nobody uses. until_s: when it is closed."""

    key: bytes
    connection: Connection
    until_s: float


class Pool:
    """Lends connections, each to one user at a time; who closes what was lent gives it back.

    idle_s: how long an unused one is kept; 0 for not at all. most: unused ones that are kept; beyond that the one that
    was unused longest is closed.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        idle_s: float = IDLE_S,
        most: int = MOST,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dialer = dialer
        self.opened = 0
        self.reused = 0
        self._idle_s, self._most, self._now_s = idle_s, most, now_s
        self._idle: OrderedDict[int, _Idle] = OrderedDict()
        self._by_key: dict[bytes, list[int]] = {}
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self, login: Login) -> Connection:
        """Return a connection to the host, a kept one where there is one. Raises: HostFailed."""
        key = msgspec.msgpack.encode(login)
        kept = self._take(key)
        if kept is not None:
            self.reused += 1
            return _Lent(self, key, login, kept, fresh=False)
        return _Lent(self, key, login, await self.dial(login), fresh=True)

    @contextlib.asynccontextmanager
    async def connection(self, login: Login) -> AsyncIterator[Connection]:
        """Lend a connection for a block. Raises: HostFailed."""
        lent = await self.open(login)
        try:
            yield lent
        finally:
            await lent.close()

    async def close(self) -> None:
        """Close what is kept, and the dialer. What is lent is closed when it comes back."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.empty()
        while self._closing:
            await asyncio.wait(list(self._closing))
        await self.dialer.close()

    async def empty(self) -> None:
        """Close all that nobody uses now."""
        rest = [one.connection for one in self._idle.values()]
        self._idle.clear()
        self._by_key.clear()
        for at in range(0, len(rest), _CLOSING):
            await asyncio.gather(*(one.close() for one in rest[at : at + _CLOSING]))

    @property
    def idle(self) -> int:
        """How many are kept unused."""
        return len(self._idle)

    async def dial(self, login: Login) -> Connection:
        self.opened += 1
        return await reach(login, self.dialer)

    def give_back(self, key: bytes, connection: Connection) -> None:
        """Keep it for the next one, or close it where that is not to be."""
        if self._closed or self._idle_s <= 0 or not connection.alive:
            self._close_soon(connection)
            return
        self._number += 1
        self._idle[self._number] = _Idle(key, connection, self._now_s() + self._idle_s)
        self._by_key.setdefault(key, []).append(self._number)
        while len(self._idle) > self._most:
            self._drop(next(iter(self._idle)))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._expire)

    def _take(self, key: bytes) -> Connection | None:
        while numbers := self._by_key.get(key):
            number = numbers[-1]  # the one that was used last: its server is the most likely to be there
            found = self._idle[number]
            if found.connection.alive and found.until_s > self._now_s():
                self._forget(number)
                return found.connection
            self._drop(number)
        return None

    def _forget(self, number: int) -> _Idle:
        found = self._idle.pop(number)
        numbers = self._by_key[found.key]
        numbers.remove(number)
        if not numbers:
            del self._by_key[found.key]
        return found

    def _drop(self, number: int) -> None:
        self._close_soon(self._forget(number).connection)

    def _close_soon(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(connection.close(), name="fleet-pool-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _expire(self) -> None:
        now_s = self._now_s()
        self._timer = None
        while self._idle:
            number, first = next(iter(self._idle.items()))
            if first.until_s > now_s:
                wait_s = first.until_s - now_s
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._expire)
                return
            self._drop(number)


class _Lent(Connection):
    """A connection in use. A kept one that turns out to be dead before the command began is replaced, once."""

    def __init__(self, pool: Pool, key: bytes, login: Login, connection: Connection, *, fresh: bool) -> None:
        self._pool, self._key, self._login = pool, key, login
        self._connection: Connection | None = connection
        self._fresh = fresh
        self._good = True

    @property
    def alive(self) -> bool:
        return self._connection is not None and self._connection.alive

    async def run(self, command: RemoteCommand, output: Output | None = None) -> Ended:
        connection = self._connection
        if connection is None:
            raise HostFailed(State.LOST, f"the connection to {self._login.host} was given back")
        self._good = False
        try:
            ended = await connection.run(command, output)
        except NotBegun:
            if self._fresh:
                raise
            self._fresh = True
            self._connection = None
            await cancel_safe(connection)
            self._connection = await self._pool.dial(self._login)
            return await self.run(command, output)
        self._fresh = True  # it has carried something: what fails from here on is news
        self._good = ended.state in (State.SUCCEEDED, State.NON_ZERO)
        return ended

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._good:
            self._pool.give_back(self._key, connection)
        else:
            await connection.close()


async def cancel_safe(connection: Connection) -> None:
    """Close a connection to its end, also where the caller is cancelled meanwhile."""
    task = asyncio.get_running_loop().create_task(connection.close(), name="fleet-pool-close")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await cancel_and_wait([task])
        raise
