"""The table of links."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def link_tables() -> Tables:
    return tables_of("links", "dogwatch.rules.links")
