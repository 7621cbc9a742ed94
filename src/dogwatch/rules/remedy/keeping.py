"""Evidence in the state database, for actions that look at machines."""

from __future__ import annotations

from dogwatch.rules.remedy import records
from dogwatch.rules.remedy.evidence import Found
from dogwatch.store.database import Database


class EvidenceKeeper:
    """Implements evidence.Keeper."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, found: Found, key: str) -> None:
        await self._database.write(lambda tx: records.keep_evidence(tx, found, key), free=True)
