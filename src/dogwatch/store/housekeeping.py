"""Retention by age and by size, in small slices between commits. Runs in the writer's thread.

A slice takes a few milliseconds, so that neither a transition nor a reader waits for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial

from dogwatch.store.ledger import ROW_BYTES, Ledger
from dogwatch.store.limits import DAY_S, StoreLimits

_BLOCKS = 256
_OWNERS = 64
_RECORDS = 256
# Free pages are given back to the file system beyond this many, this many at a time.
_FREE_PAGES, _VACUUM_PAGES = 256, 512
_OWNER_TABLES = {"result": "target", "sample": "series"}


class Housekeeping:
    """Deletes what is too old or too much. `step` does one slice."""

    def __init__(self, connection: sqlite3.Connection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._block_cursor = dict.fromkeys(_OWNER_TABLES, 0)
        # By roll-up table: the last owner that was looked at, and the bucket below which the size bound deletes.
        self._owner_cursor: dict[str, int] = {}
        self._floor_s: dict[str, int] = {}

    def step(self, limits: StoreLimits, believed_s: float | None) -> bool:
        """Do one slice of everything; return whether more waits.

        believed_s: now, or None while the clock is not believed: then nothing is deleted for its age.
        Raises: sqlite3.Error, with nothing of the slice that failed changed.
        """
        more = False
        for kind in _OWNER_TABLES:
            age_s = None if believed_s is None else believed_s - limits.keep.raw
            most = getattr(limits.max_size, f"{kind}s")
            more |= self._transaction(partial(self._blocks, kind, age_s, most))
            for level, keep_s in (("5m", limits.keep.five_minutes), ("1h", limits.keep.hours)):
                age_s = None if believed_s is None else believed_s - keep_s
                most = getattr(limits.max_size, f"{kind}s_{level}")
                more |= self._transaction(partial(self._roll_ups, kind, level, age_s, most))
        more |= self._transaction(partial(self._transitions, limits.max_size.transitions))
        more |= self._transaction(partial(self._evidence, "failures", limits.max_size.failures))
        more |= self._transaction(partial(self._evidence, "pings", limits.max_size.pings))
        if believed_s is not None:
            self._connection.execute("DELETE FROM alive WHERE until_s < ?", (believed_s - limits.keep.hours,))
        return self._shrink() or more

    def _transaction(self, work: Callable[[], bool]) -> bool:
        self._ledger.begin()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            more = work()
            self._ledger.save(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            self._ledger.undo()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return more

    def _blocks(self, kind: str, before_s: float | None, most: int) -> bool:
        over = self._ledger.bytes[f"{kind}s"] - most
        if over > 0:
            rows = self._connection.execute(
                f"SELECT id, end_ms, start_ms, length(data) FROM {kind}_block ORDER BY id LIMIT ?",  # noqa: S608
                (_BLOCKS,),
            ).fetchall()
            gone = []
            for row in rows:
                if over <= 0:
                    break
                gone.append(row)
                over -= row[3] + ROW_BYTES[f"{kind}s"]
            self._drop_blocks(kind, gone)
            return over > 0 and bool(gone)
        return before_s is not None and self._expired_blocks(kind, before_s)

    def _expired_blocks(self, kind: str, before_s: float) -> bool:
        cursor = self._block_cursor[kind]
        rows = self._connection.execute(
            f"SELECT id, end_ms, start_ms, length(data) FROM {kind}_block WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
            (cursor, _BLOCKS),
        ).fetchall()
        before_ms = int(before_s * 1000)
        gone = [row for row in rows if row[1] < before_ms]
        if gone:
            # Blocks are in order of sealing: one stamped in the future, by a clock that was wrong, goes with them.
            far_ms, newest = before_ms + int(3650 * DAY_S * 1000), gone[-1][0]
            gone += [row for row in rows if row[2] > far_ms and row[0] < newest]
        self._drop_blocks(kind, gone)
        # A slice without anything expired: the rest is newer. Begin again at the next step.
        self._block_cursor[kind] = rows[-1][0] if gone and len(rows) == _BLOCKS else 0
        return bool(gone) and len(rows) == _BLOCKS

    def _drop_blocks(self, kind: str, gone: list[tuple[int, int, int, int]]) -> None:
        if gone:
            self._connection.executemany(f"DELETE FROM {kind}_block WHERE id = ?", [(row[0],) for row in gone])  # noqa: S608
            self._ledger.add(f"{kind}s", -len(gone), -sum(row[3] for row in gone))

    def _roll_ups(self, kind: str, level: str, before_s: float | None, most: int) -> bool:
        name, table = f"{kind}s_{level}", f"{kind}_{level}"
        over = self._ledger.bytes[name] > most
        if over and name not in self._floor_s:
            self._floor_s[name] = self._next_floor(kind, table)
        elif not over:
            self._floor_s.pop(name, None)
        floor_s = max(self._floor_s.get(name, 0), int(before_s or 0))
        if not floor_s:
            return False
        cursor = self._owner_cursor.get(name, 0)
        owners = self._connection.execute(
            f"SELECT id FROM {_OWNER_TABLES[kind]} WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
            (cursor, _OWNERS),
        ).fetchall()
        for (owner_id,) in owners:
            gone = self._connection.execute(
                f"DELETE FROM {table} WHERE owner_id = ? AND bucket_s < ?",  # noqa: S608
                (owner_id, floor_s),
            ).rowcount
            if gone:
                self._ledger.add(name, -gone, 0)
        done = len(owners) < _OWNERS
        self._owner_cursor[name] = 0 if done else owners[-1][0]
        if done:
            # A whole round was made; if that was not enough, the next round has a higher floor.
            self._floor_s.pop(name, None)
        return self._ledger.bytes[name] > most

    def _next_floor(self, kind: str, table: str) -> int:
        """Return a time below which a hundredth of the table's span lies, at most a day.

        At most a day: a bucket stamped by a clock that was years ahead must not stretch the span.
        """
        least, largest = None, None
        for (owner_id,) in self._connection.execute(f"SELECT id FROM {_OWNER_TABLES[kind]}").fetchall():  # noqa: S608
            first, last = self._connection.execute(
                f"SELECT (SELECT min(bucket_s) FROM {table} WHERE owner_id = ?1), "  # noqa: S608
                f"(SELECT max(bucket_s) FROM {table} WHERE owner_id = ?1)",
                (owner_id,),
            ).fetchone()
            if first is not None:
                least = first if least is None else min(least, first)
                largest = last if largest is None else max(largest, last)
        if least is None or largest is None:
            return 0
        return int(least) + max(1, min(int(DAY_S), (int(largest) - int(least)) // 100))

    def _transitions(self, most: int) -> bool:
        over = self._ledger.bytes["transitions"] - most
        if over <= 0:
            return False
        rows = self._connection.execute(
            "SELECT id, 2 * length(target) + length(reason) FROM transitions AS one WHERE EXISTS (SELECT 1 FROM "
            "transitions AS newer WHERE newer.target = one.target AND (newer.time_s, newer.id) > (one.time_s, one.id)) "
            "ORDER BY id LIMIT ?",
            (_RECORDS,),
        ).fetchall()
        return self._drop_records("transitions", rows, over)

    def _evidence(self, table: str, most: int) -> bool:
        over = self._ledger.bytes[table] - most
        if over <= 0:
            return False
        rows = self._connection.execute(
            f"SELECT id, length(data) + 2 * length(target) FROM {table} ORDER BY id LIMIT ?",  # noqa: S608
            (_RECORDS,),
        ).fetchall()
        return self._drop_records(table, rows, over)

    def _drop_records(self, table: str, rows: list[tuple[int, int]], over: int) -> bool:
        gone = []
        for row in rows:
            if over <= 0:
                break
            gone.append(row)
            over -= row[1] + ROW_BYTES[table]
        self._connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(row[0],) for row in gone])  # noqa: S608
        self._ledger.add(table, -len(gone), -sum(row[1] for row in gone))
        return over > 0 and bool(gone)

    def _shrink(self) -> bool:
        """Give free pages back, some at a time; a few stay, for what is written next."""
        free = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        if free <= _FREE_PAGES:
            return False
        # executescript: the pragma moves one page per step, and execute() steps a statement without columns once.
        self._connection.executescript(f"PRAGMA incremental_vacuum({min(_VACUUM_PAGES, free - _FREE_PAGES)})")
        return bool(free - _FREE_PAGES > _VACUUM_PAGES)
