"""The tables of fleet runs."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def fleet_tables() -> Tables:
    return tables_of("fleet_runs", "dogwatch.fleet.book")
