"""The tables of rules and incidents."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def incident_tables() -> Tables:
    return tables_of("incidents", "dogwatch.rules")
