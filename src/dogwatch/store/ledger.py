"""Rows and bytes of every bounded table, kept exact by changing in the same transaction as the table."""

from __future__ import annotations

import sqlite3

# What a row takes on disk beside its variable content, by measurement: key, header, index entries.
ROW_BYTES = {
    "results": 64,
    "samples": 48,
    "results_5m": 88,
    "results_1h": 96,
    "samples_5m": 60,
    "samples_1h": 60,
    "transitions": 48,
    "failures": 32,
    "pings": 32,
}


class Ledger:
    """Owned by the writer's thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.rows = dict.fromkeys(ROW_BYTES, 0)
        self.bytes = dict.fromkeys(ROW_BYTES, 0)
        self._dirty: set[str] = set()
        self._before: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for name, rows, size in connection.execute("SELECT name, rows, bytes FROM ledger"):
            self.rows[name] = rows
            self.bytes[name] = size

    def begin(self) -> None:
        self._before = (dict(self.rows), dict(self.bytes))
        self._dirty.clear()

    def add(self, name: str, rows: int, content_bytes: int) -> None:
        """Count rows that were added, or removed where negative, with the bytes of their variable content."""
        self.rows[name] += rows
        self.bytes[name] += rows * ROW_BYTES[name] + content_bytes
        self._dirty.add(name)

    def save(self, connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT OR REPLACE INTO ledger (name, rows, bytes) VALUES (?, ?, ?)",
            [(name, self.rows[name], self.bytes[name]) for name in self._dirty],
        )

    def undo(self) -> None:
        self.rows, self.bytes = self._before
