"""The tables of remediation."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def remedy_tables() -> Tables:
    return tables_of("remedies", "dogwatch.rules.remedy")
