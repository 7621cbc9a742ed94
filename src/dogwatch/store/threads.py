"""The store's threads: one writer that owns its connection, and a few readers with one each."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dogwatch.errors import PermanentError, TransientError
from dogwatch.store.files import open_reader

T = TypeVar("T")
_Done = Callable[[Any, BaseException | None], None]


class WriterThread:
    """Runs jobs one after another in a thread of its own; each result comes back to the event loop.

    Not an executor: what it opened must be closed in the same thread, and its end must not be waited for by blocking.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], _Done] | None] = queue.SimpleQueue()
        self._ended = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="dogwatch-store-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run a job; call done(result, error) in the event loop."""
        self._jobs.put((job, done))

    async def call(self, job: Callable[[], T]) -> T:
        """Run a job and return its result, or raise what it raised."""
        waiter: asyncio.Future[T] = self._loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if waiter.done():
                return
            if error is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(result)  # type: ignore[arg-type]

        self.submit(job, done)
        return await waiter

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result, error = None, None
            try:
                result = job()
            except BaseException as caught:  # noqa: BLE001 - handed to the loop, which decides
                error = caught
            try:
                self._loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:
                return  # the loop was closed without closing the store: there is nobody left to tell
        self._loop.call_soon_threadsafe(self._ended.set_result, None)

    async def stop(self) -> None:
        """End the thread after the jobs that it has."""
        self._jobs.put(None)
        await self._ended
        self._thread.join()


class Readers:
    """A few read-only connections, each in its own thread."""

    def __init__(self, path: Path, count: int = 2) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._running = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="dogwatch-store-reader")

    async def run(self, query: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return query(connection, …), over one snapshot of the file.

        Raises: TransientError where the file cannot be read now; PermanentError where it is damaged or closed.
        """
        if self._closed:
            raise PermanentError("the store is closed")
        self._running += 1
        self._idle.clear()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._pool, partial(self._query, query, arguments, options))
        # Counted until it ended, not until nobody waits for it: close must not end a thread in mid-query.
        running.add_done_callback(self._ended)
        return await running

    def _ended(self, done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            done.exception()
        self._running -= 1
        if not self._running:
            self._idle.set()

    def _query(self, query: Callable[..., T], arguments: tuple[Any, ...], options: dict[str, Any]) -> T:
        try:
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                return query(connection, *arguments, **options)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise TransientError(f"cannot read the store {self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise PermanentError(f"the store {self._path} is damaged: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self._path)
            self._connections.append(connection)
        return connection

    async def close(self) -> None:
        self._closed = True
        await self._idle.wait()
        # Every query ended, so that this only joins idle threads.
        self._pool.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._connections.clear()
