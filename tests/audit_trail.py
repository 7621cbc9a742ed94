"""An audit trail with its key and its task."""

from __future__ import annotations

from pathlib import Path

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.access.chain import Head, Verdict
from dogwatch.access.keeper import AuditKeeper
from dogwatch.access.options import AuditOptions
from dogwatch.core.clock import ManualClock
from dogwatch.store.database import Database, Tx

ANN = Actor(kind="user", name="ann", address="192.0.2.7")


async def write(database: Database, count: int = 1, *, actor: Actor = ANN, verb: str = "pause") -> None:
    def work(tx: Tx) -> None:
        for number in range(count):
            labels = {"team": "shop" if number % 2 else "blog"}
            record(tx, actor, verb, Subject(noun="probe", name=f"p{number}", labels=labels), reason=f"why {number}")

    await database.write(work)


class Trail:
    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.clock = ManualClock()
        self.keeper = AuditKeeper(database, folder, self.clock, AuditOptions(head_every=10, head_after=60.0))
        self.folder = folder

    async def verify(self, *further: Head) -> Verdict:
        return await self.keeper.verify(further)

    async def sql(self, *queries: str) -> None:
        def work(tx: Tx) -> None:
            for query in queries:
                tx.run(query)

        await self.database.write(work)

    async def links(self) -> list[tuple[int, str, str]]:
        rows = await self.database.read(
            lambda tx: tx.rows("SELECT number, body, digest FROM audit_events ORDER BY number")
        )
        return [(int(n or 0), str(body), str(digest)) for n, body, digest in rows]
