"""The tables on the users' PostgreSQL: several writers, notices by LISTEN, and a connection that comes back."""

from __future__ import annotations

import contextlib
import queue
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dogwatch.errors import Conflict, PermanentError, TransientError, Unreachable
from dogwatch.store.database import Row, Tables, Tx, Value
from dogwatch.store.group import Broken, GroupTx, News, Repeatable
from dogwatch.store.laned import LanedDatabase
from dogwatch.store.migrate import apply_tables

if TYPE_CHECKING:
    import psycopg

_FREE, _READERS = 3, 2
_CONNECT_S = 5
# The server ends what takes longer: a transaction of ours is short.
_STATEMENT_S = 30
_NAME = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")
_CHANNEL = "dogwatch"
# Our tables live in a schema of their own, so that the database can be shared.
_SCHEMA = "dogwatch"


@lru_cache(maxsize=1024)
def _native(query: str) -> bytes:
    return _NAME.sub(r"%(\1)s", query.replace("%", "%%")).encode()


class _PostgresTx(GroupTx):
    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        super().__init__()
        self._connection = connection
        self._now_s: float | None = None
        self._locked: set[str] = set()
        # Sent with the next query that is waited for.
        self._pending: list[tuple[bytes, Mapping[str, Value]]] = []
        self.hurried = False

    def start(self, begin: str) -> None:
        self._now_s = None
        self._locked.clear()
        # Begins with the first query: that saves a round trip.
        self._pending = [(begin.encode(), {})]
        self.hurried = False
        self.anew()

    def undone(self, mark: tuple[int, int]) -> None:
        self._locked.clear()
        self._pending.clear()
        super().undone(mark)

    @property
    def now_s(self) -> float:
        if self._now_s is None:
            row = self.one("SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)")
            self._now_s = float(row[0] or 0.0) if row else 0.0
        return self._now_s

    def run(self, query: str, **values: Value) -> int:
        return self._execute(query, values).rowcount

    def send(self, query: str, **values: Value) -> None:
        self._pending.append((_native(query), values))

    def many(self, query: str, rows: Iterable[Mapping[str, Value]]) -> None:
        native = _native(query)
        self._pending += [(native, row) for row in rows]

    def rows(self, query: str, **values: Value) -> list[Row]:
        with translated():
            return self._execute(query, values).fetchall()

    def one(self, query: str, **values: Value) -> Row | None:
        with translated():
            return self._execute(query, values).fetchone()

    def lock(self, name: str) -> None:
        if name not in self._locked:
            # Nobody waits for the answer: what follows on the connection waits for the lock.
            self.send("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:name AS TEXT), 4673))", name=name)
            self._locked.add(name)

    def hurry(self) -> None:
        self.hurried = True

    def _execute(self, query: str, values: Mapping[str, Value]) -> psycopg.Cursor[Row]:
        with translated():
            if not self._pending:
                return self._connection.execute(_native(query), values)
            with self._connection.pipeline():
                self._send_pending()
                return self._connection.execute(_native(query), values)

    def commit(self) -> None:
        if self.begun or len(self._pending) > 1:
            self._execute("COMMIT", {})

    @property
    def begun(self) -> bool:
        return self._connection.info.transaction_status != 0  # IDLE

    def _send_pending(self) -> None:
        pending, self._pending = self._pending, []
        for query, values in pending:
            self._connection.execute(query, values)


class translated:  # noqa: N801 - reads as a statement
    """Turns the driver's errors into ours, at this edge only."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        import psycopg

        if not isinstance(error, psycopg.Error):
            return
        text = " ".join(str(error).split())
        if isinstance(error, psycopg.errors.IntegrityError):
            raise Conflict(f"the row is there already, or what it refers to is not: {text}") from error
        if isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
            raise Repeatable(TransientError(f"the database was too busy: {text}")) from error
        if isinstance(error, psycopg.errors.DiskFull | psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
            raise TransientError(f"the database cannot take it now: {text}") from error
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            raise Broken(TransientError(f"the database cannot be reached: {text}")) from error
        raise PermanentError(f"the database refuses: {text}") from error


class _PostgresSession:
    """connection: in autocommit; transactions are begun and ended by our own queries."""

    def __init__(self, connection: psycopg.Connection[Row], begin: str = "BEGIN") -> None:
        self._connection, self._begin = connection, begin
        self._tx = _PostgresTx(connection)

    def begin(self) -> Tx:
        self._tx.start(self._begin)
        return self._tx

    @property
    def hurried(self) -> bool:
        return self._tx.hurried

    def savepoint(self) -> None:
        self._mark = self._tx.news.mark()
        self._tx.run("SAVEPOINT job")

    def rollback_to(self) -> None:
        self._tx.undone(self._mark)
        self._tx.run("ROLLBACK TO SAVEPOINT job")

    def release(self) -> None:
        self._tx.run("RELEASE SAVEPOINT job")

    def commit(self) -> News:
        self._tx.commit()
        return self._tx.news

    def rollback(self) -> None:
        import psycopg

        try:
            if self._tx.begun:
                self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._connection.close()  # the next statement fails, and the lane connects again

    def close(self) -> None:
        self._connection.close()


class PostgresDatabase(LanedDatabase):
    """See database.Database; made by open_postgres."""

    kind = "postgresql"

    def __init__(self, url: str) -> None:
        super().__init__("")

        def connect(begin: str) -> _PostgresSession:
            try:
                return _PostgresSession(_connect(url), begin)
            except Broken as error:
                # Who uses the database tries again; only who opens it is told of the address.
                raise Broken(TransientError(str(error.error))) from error

        # Those that lock a name wait for each other in any case: they are grouped in one lane. Beside one that waited
        # for a name while it had rows of its group, others would have to wait for those rows in a circle.
        self._open(
            writers=self._lanes("writer", 1, lambda: connect("BEGIN")),
            free=self._lanes("free", _FREE, lambda: connect("BEGIN")),
            # One snapshot for all queries of a function, as the seam says.
            readers=self._lanes("reader", _READERS, lambda: connect("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")),
        )
        own = secrets.token_hex(4)
        self._notices = _Notices(url, self._told, own)
        self._teller = _Teller(url, own)

    def _tell(self, topics: Sequence[str]) -> None:
        """Tell listeners of a commit of this process: those here at once, others through the server."""
        self._told(topics)
        self._teller.tell(list(topics))

    async def close(self) -> None:
        await self._notices.close()
        await super().close()
        await self._teller.close()


class _Notices:
    """A thread that waits for the server's notices, and connects again when they end.

    own: begins what this database has told itself.
    """

    def __init__(self, url: str, told: Callable[[Sequence[str] | None], None], own: str) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._url, self._told, self._own = url, told, own
        self._closing = threading.Event()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="dogwatch-state-notices", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        import psycopg

        while not self._closing.is_set():
            try:
                with _connect(self._url) as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    self._tell(None)
                    while not self._closing.is_set():
                        # What was told from here has been heard.
                        topics = [
                            notice.payload.partition(" ")[2]
                            for notice in connection.notifies(timeout=0.2, stop_after=1)
                            if not notice.payload.startswith(self._own)
                        ]
                        if topics:
                            self._tell(topics)
            except (psycopg.Error, Broken, Unreachable):
                self._closing.wait(0.5)
        self._call(self._ended.set_result, None)

    def _tell(self, topics: Sequence[str] | None) -> None:
        self._call(self._told, topics)

    def _call(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return  # the loop was closed without closing the database

    async def close(self) -> None:
        self._closing.set()
        await self._ended
        self._thread.join()


class _Teller:
    """A thread that tells the other processes of commits.

    Not in the commit itself: a server lets only one transaction that notifies commit at a time, and has it wait for
    the disk meanwhile. A death between the two loses a notice, which listeners reckon with.
    """

    def __init__(self, url: str, own: str) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._url, self._own = url, own
        self._topics: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="dogwatch-state-teller", daemon=True)
        self._thread.start()

    def tell(self, topics: list[str]) -> None:
        self._topics.put(topics)

    def _run(self) -> None:
        import psycopg

        connection: psycopg.Connection[Row] | None = None
        last = False
        while not last:
            topics, last = self._take()
            if not topics:
                continue
            try:
                if connection is None:
                    connection = _connect(self._url)
                    connection.execute("SET synchronous_commit = off")
                connection.execute(
                    "SELECT pg_notify(%s, topic) FROM unnest(CAST(%s AS TEXT[])) AS topic",
                    (_CHANNEL, [f"{self._own} {topic}" for topic in topics]),
                )
            except (psycopg.Error, Broken):
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()
        with contextlib.suppress(RuntimeError):  # the loop was closed without closing the database
            self._loop.call_soon_threadsafe(self._ended.set_result, None)

    def _take(self) -> tuple[list[str], bool]:
        """Return what is to be told, each topic once, and whether that is all."""
        topics: dict[str, None] = {}
        more = self._topics.get()
        while more is not None:
            topics |= dict.fromkeys(more)
            try:
                more = self._topics.get_nowait()
            except queue.Empty:
                return list(topics), False
        return list(topics), True

    async def close(self) -> None:
        self._topics.put(None)
        await self._ended
        self._thread.join()


def _connect(url: str) -> psycopg.Connection[Row]:
    import psycopg

    try:
        connection: psycopg.Connection[Row] = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=_CONNECT_S,
            application_name="dogwatch",
            options=f"-c search_path={_SCHEMA} -c statement_timeout={_STATEMENT_S}s "
            "-c idle_in_transaction_session_timeout=60s",
        )
    except psycopg.Error as error:
        raise Broken(_unreachable(url, error)) from error
    return connection


def _unreachable(url: str, error: Exception) -> Unreachable:
    parts = urlsplit(url)
    where = f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    return Unreachable(f"cannot use the database {where}: {' '.join(str(error).split())}", hint="see database.url")


async def open_postgres(url: str, tables: Sequence[Tables]) -> PostgresDatabase:
    """Connect and bring the tables up to date.

    Raises: Unreachable, StoreNewer.
    """
    import asyncio

    await asyncio.to_thread(_prepare, url, tables)
    return PostgresDatabase(url)


def _prepare(url: str, tables: Sequence[Tables]) -> None:
    try:
        connection = _connect(url)
        with connection:
            session = _PostgresSession(connection)
            tx = session.begin()
            tx.lock("migrations")
            tx.run(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
            tx.run("CREATE TABLE IF NOT EXISTS tables (name TEXT PRIMARY KEY, version BIGINT NOT NULL)")
            session.commit()
            apply_tables(session, tables, "the database")
    except Broken as error:
        raise error.error from error
