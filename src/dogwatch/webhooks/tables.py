"""The tables of webhooks."""

from __future__ import annotations

from dogwatch.store.database import Tables, tables_of


def webhook_tables() -> Tables:
    return tables_of("webhooks", "dogwatch.webhooks")
