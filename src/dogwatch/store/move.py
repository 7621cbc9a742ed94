"""Takes all state from the file to PostgreSQL, in one transaction there; the file is only read."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from dogwatch.errors import Conflict, NotFound, PermanentError, StoreLocked
from dogwatch.store import files
from dogwatch.store.database import Database, Row, Tables, Tx, Value

# Rows that are in memory at once.
CHUNK = 1000
# Made by whoever opens a database.
_OWN = frozenset({"tables"})
Tell = Callable[[str, int], None]


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied: rows by table. replaced: characters that PostgreSQL's text cannot hold (NUL)."""

    rows: Mapping[str, int]
    replaced: int


class _Table(msgspec.Struct, frozen=True):
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    needs: frozenset[str]


async def move(source: Path, target: Database, tables: Sequence[Tables], tell: Tell = lambda *_: None) -> Moved:
    """Copy everything, compare it, and commit: all of it is there then, or nothing.

    source: the file. It is locked meanwhile, so that no Dogwatch can use it. target: open, with these tables, empty.
    Raises: NotFound (no file), StoreLocked (a daemon runs), Conflict (target not empty; versions differ),
    TransientError, PermanentError (what arrived is not what was sent).
    """
    if not files.check_file(source, 1):
        raise NotFound(f"there is no state at {source}", hint="name the data folder with --data")
    if target.kind != "postgresql":
        raise Conflict("state moves to PostgreSQL only", hint="write --to postgresql://user@host/database")
    lock = files.FileLock(source)
    try:
        lock.acquire()
    except StoreLocked as error:
        raise StoreLocked(
            str(error), hint="stop that Dogwatch first, or say --drain: the state must stand still to be moved"
        ) from None
    try:
        # One transaction, however long: it is the only one there.
        return await target.write(lambda tx: _copy(source, tx, tables, tell))
    finally:
        lock.release()


def _copy(source: Path, tx: Tx, tables: Sequence[Tables], tell: Tell) -> Moved:
    with contextlib.closing(files.open_reader(source)) as reader:
        reader.execute("BEGIN")
        _same_versions(reader, tx)
        tx.lock("migrations")
        found = _ordered(_tables(reader))
        _clear(tx, found, tables)
        counts, replaced = {}, 0
        for table in found:
            count, changed = _copy_table(reader, tx, table, tell)
            counts[table.name] = count
            replaced += changed
        for table in found:
            _compare(reader, tx, table, counts[table.name])
        return Moved(rows=counts, replaced=replaced)


def _clear(tx: Tx, found: Sequence[_Table], tables: Sequence[Tables]) -> None:
    """Remove what migrations themselves have written. Raises: Conflict where there is more."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        for one in tables:
            for _number, sql in one.steps:
                fresh.executescript(sql)
        held = []
        for table in reversed(found):
            query = f"SELECT {', '.join(table.columns)} FROM {table.name} LIMIT {CHUNK}"  # noqa: S608
            there = tx.rows(query)
            if sorted(map(repr, map(_plain, there))) == sorted(map(repr, map(_plain, fresh.execute(query)))):
                tx.run(f"DELETE FROM {table.name}")  # noqa: S608
            else:
                held.append(table.name)
    if held:
        raise Conflict(
            f"the database is not empty: {', '.join(sorted(held))}",
            hint="move to a new one, or empty the schema dogwatch",
        )


def _plain(row: Row) -> list[Value]:
    """Return a row as both databases have it: whole numbers can come as either kind."""
    return [float(value) if isinstance(value, int | float) else value for value in row]


def _same_versions(reader: sqlite3.Connection, tx: Tx) -> None:
    ours = dict(reader.execute("SELECT name, version FROM tables"))
    theirs = {str(name): int(version or 0) for name, version in tx.rows("SELECT name, version FROM tables")}
    wrong = [name for name, version in ours.items() if theirs.get(name) != version]
    if wrong:
        raise Conflict(
            f"the tables of {', '.join(wrong)} have another version there",
            hint="start this Dogwatch once on the file, so that both are of this version",
        )


def _tables(reader: sqlite3.Connection) -> list[_Table]:
    names = [
        row[0]
        for row in reader.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        if row[0] not in _OWN and not row[0].startswith("sqlite_")
    ]
    found = []
    for name in names:
        info = reader.execute(f"PRAGMA table_info({name})").fetchall()
        key = tuple(row[1] for row in sorted((row for row in info if row[5]), key=lambda row: row[5]))
        needs = frozenset(row[2] for row in reader.execute(f"PRAGMA foreign_key_list({name})")) - {name}
        found.append(_Table(name, tuple(row[1] for row in info), key or tuple(row[1] for row in info), needs))
    return found


def _ordered(tables: Sequence[_Table]) -> list[_Table]:
    """Return the tables so that each comes after those that its rows refer to."""
    left, done = list(tables), set[str]()
    out: list[_Table] = []
    while left:
        free = [table for table in left if table.needs <= done] or left[:1]
        out += free
        done |= {table.name for table in free}
        left = [table for table in left if table.name not in done]
    return out


def _read(reader: sqlite3.Connection, table: _Table) -> Iterator[list[Row]]:
    order = ", ".join(table.key)
    cursor = reader.execute(f"SELECT {', '.join(table.columns)} FROM {table.name} ORDER BY {order}")  # noqa: S608
    while rows := cursor.fetchmany(CHUNK):
        yield rows


def _copy_table(reader: sqlite3.Connection, tx: Tx, table: _Table, tell: Tell) -> tuple[int, int]:
    """Return how many rows were copied, and how many characters had to be replaced."""
    places = ", ".join(f":{column}" for column in table.columns)
    query = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({places})"  # noqa: S608
    count = replaced = 0
    for rows in _read(reader, table):
        replaced += sum(value.count("\0") for row in rows for value in row if isinstance(value, str))
        tx.many(query, [dict(zip(table.columns, map(_sendable, row), strict=True)) for row in rows])
        count += len(rows)
        tell(table.name, count)
    return count, replaced


def _sendable(value: Value) -> Value:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _compare(reader: sqlite3.Connection, tx: Tx, table: _Table, count: int) -> None:
    """Raises: PermanentError where a row is missing or another one arrived."""
    row = tx.one(f"SELECT COUNT(*) FROM {table.name}")  # noqa: S608
    arrived = int(row[0] or 0) if row else 0
    if arrived != count:
        raise PermanentError(f"{table.name}: {count} rows were sent, {arrived} arrived; nothing was moved")
    # In no order, because the two databases order text differently.
    sent, there = 0, 0
    for rows in _read(reader, table):
        sent ^= _mixed(tuple(map(_sendable, one)) for one in rows)
        there ^= _mixed(_fetch(tx, table, rows))
    if sent != there:
        raise PermanentError(f"{table.name}: what arrived is not what was sent; nothing was moved")


def _fetch(tx: Tx, table: _Table, rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of the target that have the keys of these."""
    places = [table.columns.index(column) for column in table.key]
    wanted = " OR ".join(
        "(" + " AND ".join(f"{column} = :k{number}_{place}" for place, column in enumerate(table.key)) + ")"
        for number in range(100)
    )
    query = f"SELECT {', '.join(table.columns)} FROM {table.name} WHERE {wanted}"  # noqa: S608
    for start in range(0, len(rows), 100):
        part = list(rows[start : start + 100])
        part += part[-1:] * (100 - len(part))
        values = {
            f"k{number}_{at}": _sendable(row[place])
            for number, row in enumerate(part)
            for at, place in enumerate(places)
        }
        yield from tx.rows(query, **values)


def _mixed(rows: Iterator[Row]) -> int:
    total = 0
    for row in rows:
        text = repr(_plain(row))
        total ^= int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    return total
