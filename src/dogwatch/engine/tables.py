"""The tables of the engine."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def engine_tables() -> Tables:
    return tables_of("engine", "dogwatch.engine")
