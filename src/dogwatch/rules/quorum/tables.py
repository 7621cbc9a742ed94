"""The table of what other places see."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def quorum_tables() -> Tables:
    return tables_of("quorum", "dogwatch.rules.quorum")
