"""The table of windows that people made."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def maintenance_tables() -> Tables:
    return tables_of("maintenance", "dogwatch.rules.planned")
