"""The table of subscribers."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def status_tables() -> Tables:
    return tables_of("status", "dogwatch.status")
