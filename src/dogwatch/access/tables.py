"""The tables of access."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def access_tables() -> Tables:
    return tables_of("access", "dogwatch.access")
