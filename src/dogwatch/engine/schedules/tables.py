"""The tables of schedules."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def schedule_tables() -> Tables:
    return tables_of("schedules", "dogwatch.engine.schedules")
