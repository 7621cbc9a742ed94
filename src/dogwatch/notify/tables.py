"""The tables of notify."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def notify_tables() -> Tables:
    return tables_of("notify", "dogwatch.notify")
