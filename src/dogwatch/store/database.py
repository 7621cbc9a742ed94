"""Tables on SQLite or PostgreSQL behind one seam: a transaction is a plain function of a `Tx`.

Belongs here: how transactions run, and which tables exist. Does not: what the tables mean; each layer that has tables
keeps its own SQL and offers it as `Tables`.

SQL is written once, for both: named values (`:name`), standard types (TEXT, BIGINT, DOUBLE PRECISION, BYTEA), CAST()
instead of `::`, times as seconds since 1970 on the database's clock, JSON as TEXT. What differs is in `Tx`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Protocol, TypeVar

import msgspec

from dogwatch.core.metrics import Family

T = TypeVar("T")
# What a column can hold, both ways.
Value = str | int | float | bytes | bool | None
Row = tuple[Value, ...]
# More matches than these are not counted: a list says "10,000 or more".
MOST_COUNTED = 10_000


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of one layer. steps: (number, SQL) of its migrations, in order, from 1 without gaps."""

    name: str
    steps: tuple[tuple[int, str], ...]


def tables_of(name: str, package: str) -> Tables:
    """Return the tables whose migrations are the files `schema/001.sql`… of a package."""
    folder = resources.files(package).joinpath("schema")
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    steps = tuple((int(file.removesuffix(".sql")), folder.joinpath(file).read_text("utf-8")) for file in files)
    return Tables(name=name, steps=steps)


class Tx(Protocol):
    """One transaction. It belongs to the thread that runs it and ends with the function that was given it."""

    # What the functions that share a commit remember for each other about what they hold a lock on; emptied where one
    # of them is undone.
    memory: dict[str, object]

    @property
    def now_s(self) -> float:
        """The database's clock, seconds since 1970; the same for the whole transaction."""
        ...

    def run(self, query: str, **values: Value) -> int:
        """Return how many rows it changed."""
        ...

    def send(self, query: str, **values: Value) -> None:
        """Run a query without waiting for its answer, which saves a server's round trip. What it fails with is raised
        by a later call or the commit, and undoes this function's changes all the same.
        """
        ...

    def many(self, query: str, rows: Iterable[Mapping[str, Value]]) -> None:
        """Run a query once for each mapping, as `send` does."""
        ...

    def rows(self, query: str, **values: Value) -> list[Row]: ...

    def one(self, query: str, **values: Value) -> Row | None:
        """Return the first row, or None."""
        ...

    def lock(self, name: str) -> None:
        """Let no other transaction hold this name until this one ends. Take several in sorted order."""
        ...

    def hurry(self) -> None:
        """Commit as soon as this function is done: others wait for what it has locked."""
        ...

    def notify(self, topic: str) -> None:
        """Once committed, call every listener of the topic, in all processes on this database."""
        ...

    def after(self, call: Callable[[], None]) -> None:
        """Call in the event loop once this is on disk, before the caller is answered; never where it is undone.

        Where an answer was lost with the connection, nobody knows whether it is on disk: then it is not called.
        """
        ...


class Database(Protocol):
    """Transactions, committed in groups: what is returned is on disk.

    The function given to `write` and `read` runs in another thread, perhaps together with others in one commit (each
    in a savepoint of its own) and perhaps more than once: it must do nothing but use its Tx and compute. What it
    raises undoes its own changes only and reaches its caller.
    """

    kind: str
    # Another for each opening of a database that no second process can have open; "" where others can.
    opening: str

    async def write(self, work: Callable[[Tx], T], *, free: bool = False) -> T:
        """Return what work returned, once its changes are on disk.

        free: it locks no name (Tx.lock), as an audit event does, and so may run beside those that do.

        Raises: TransientError where the database cannot take it now (full disk, locked, gone); whether a commit that
        was cut off took place is then unknown, so that work must find out when it is tried again.
        """
        ...

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Return what work returned, over one snapshot.

        Raises: TransientError.
        """
        ...

    def listen(self, topic: str, call: Callable[[], None]) -> Callable[[], None]:
        """Call in the event loop after each commit that notified the topic; return what ends that.

        A notice can be late or, while the connection is gone, missing: a listener looks by itself now and then.
        """
        ...

    @property
    def trouble(self) -> str:
        """Why it cannot be used now, one sentence; "" while all is well."""
        ...

    def metrics(self) -> Iterable[Family]: ...

    async def close(self) -> None:
        """Finish what was given, then close."""
        ...


def pages(rows: Sequence[Row], limit: int) -> tuple[Sequence[Row], bool]:
    """Return the rows of one page out of `limit + 1` that were asked for, and whether there are more."""
    return rows[:limit], len(rows) > limit


def counted_rows(tx: Tx, table: str, where: str, **values: Value) -> int:
    """Return how many rows of a table match, at most MOST_COUNTED: what is shown must not cost a look at everything."""
    query = f"SELECT COUNT(*) FROM (SELECT 1 FROM {table} WHERE {where} LIMIT {MOST_COUNTED}) AS found"  # noqa: S608
    row = tx.one(query, **values)
    return int(row[0] or 0) if row is not None else 0
