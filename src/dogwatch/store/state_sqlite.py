"""The tables on one SQLite file: state, runs, access. One writer, whose commits are on disk before it answers."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dogwatch.core.clock import Clock
from dogwatch.errors import Conflict, StoreLocked, TransientError
from dogwatch.store import files
from dogwatch.store.database import Row, Tables, Tx, Value
from dogwatch.store.group import GroupTx, News, Repeatable
from dogwatch.store.laned import LanedDatabase
from dogwatch.store.migrate import apply_tables

_READERS = 2
# So long one waits for another who makes or migrates a shared file.
_SHARED_S = 10.0
_BASE = [(1, "CREATE TABLE tables (name TEXT PRIMARY KEY, version BIGINT NOT NULL) WITHOUT ROWID;")]


class _SqliteTx(GroupTx):
    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        super().__init__()
        self._connection = connection
        self._clock = clock
        self.now_s = 0.0

    def run(self, query: str, **values: Value) -> int:
        return self._execute(query, values).rowcount

    def send(self, query: str, **values: Value) -> None:
        self._execute(query, values)

    def many(self, query: str, rows: Iterable[Mapping[str, Value]]) -> None:
        try:
            self._connection.executemany(query, rows)
        except sqlite3.Error as error:
            raise _translated(error) from error

    def rows(self, query: str, **values: Value) -> list[Row]:
        return self._execute(query, values).fetchall()

    def one(self, query: str, **values: Value) -> Row | None:
        row: Row | None = self._execute(query, values).fetchone()
        return row

    def lock(self, name: str) -> None:
        """There is one writer: nobody else holds anything."""

    def hurry(self) -> None:
        """Nobody waits: there is one writer."""

    def _execute(self, query: str, values: Mapping[str, Value]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(query, values)
        except sqlite3.Error as error:
            raise _translated(error) from error


class _SqliteSession:
    def __init__(self, connection: sqlite3.Connection, clock: Clock, begin: str) -> None:
        self._connection, self._clock, self._begin = connection, clock, begin
        self._tx = _SqliteTx(connection, clock)

    def begin(self) -> Tx:
        self._tx.anew()
        self._plain(self._begin)
        self._tx.now_s = self._clock.now_s()
        return self._tx

    @property
    def hurried(self) -> bool:
        return False

    def savepoint(self) -> None:
        self._mark = self._tx.news.mark()
        self._plain("SAVEPOINT job")

    def rollback_to(self) -> None:
        self._tx.undone(self._mark)
        # A full disk can end the whole transaction by itself; then the commit fails, and all are told.
        self._plain("ROLLBACK TO job")
        self._plain("RELEASE job")

    def release(self) -> None:
        self._plain("RELEASE job")

    def commit(self) -> News:
        self._plain("COMMIT")
        return self._tx.news

    def rollback(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                return  # it undid the transaction by itself

    def close(self) -> None:
        self._connection.close()

    def _plain(self, query: str) -> None:
        try:
            self._connection.execute(query)
        except sqlite3.Error as error:
            raise _translated(error) from error


def _translated(error: sqlite3.Error) -> Exception:
    if isinstance(error, sqlite3.IntegrityError):
        return Conflict(f"the row is there already, or what it refers to is not: {error}")
    if isinstance(error, sqlite3.OperationalError) and "syntax" not in str(error) and "no such" not in str(error):
        told = TransientError(f"the state cannot be written: {error}", hint="see that its disk has room")
        return Repeatable(told) if "locked" in str(error) or "busy" in str(error) else told
    return error


class SqliteDatabase(LanedDatabase):
    """See database.Database; made by open_sqlite. There is one writer, also for what locks no name.

    lock: that keeps others out; None where other processes write, too.
    """

    kind = "sqlite"

    def __init__(self, path: Path, clock: Clock, lock: files.FileLock | None) -> None:
        super().__init__("" if lock is None else secrets.token_hex(8))
        self._lock = lock
        self._open(
            writers=self._lanes("writer", 1, lambda: _SqliteSession(_write_connection(path), clock, "BEGIN IMMEDIATE")),
            readers=self._lanes("reader", _READERS, lambda: _SqliteSession(files.open_reader(path), clock, "BEGIN")),
        )

    async def close(self) -> None:
        await super().close()
        if self._lock is not None:
            self._lock.release()


def _write_connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, cached_statements=512)
    # FULL: what was answered survives the loss of power, too. The group shares the cost.
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "cache_size = -4096", "journal_size_limit = 16777216"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


async def open_sqlite(path: Path, tables: Sequence[Tables], clock: Clock, *, shared: bool = False) -> SqliteDatabase:
    """Open the file, making or migrating it.

    shared: other processes may have it open, too (command lines that each write a little); notices do not reach them.
    Raises: StoreNewer, StoreLocked, PermanentError (damaged, or no database of ours), Unreachable.
    """
    files.check_file(path, _BASE[-1][0])
    files.prepare_folder(path)
    lock = files.FileLock(path)
    await _acquire(lock, patience_s=_SHARED_S if shared else 0.0)
    try:
        connection = files.open_writer(path, _BASE)
        try:
            session = _SqliteSession(connection, clock, "BEGIN IMMEDIATE")
            apply_tables(session, tables, str(path))
        except Repeatable as error:
            raise StoreLocked(f"{path} is locked by another program", hint="close whatever has it open") from error
        finally:
            connection.close()
        if shared:
            lock.release()
        return SqliteDatabase(path, clock, None if shared else lock)
    except BaseException:
        lock.release()
        raise


async def _acquire(lock: files.FileLock, *, patience_s: float) -> None:
    """Raises: StoreLocked where another holds it for longer."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            return lock.acquire()
        except StoreLocked:
            if time.monotonic() >= until_s:
                raise
        await asyncio.sleep(0.02)
