"""The table of alerts that others raise."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def outside_tables() -> Tables:
    return tables_of("outside", "dogwatch.rules.outside")
