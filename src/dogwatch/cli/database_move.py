"""What `dogwatch database move` does."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dogwatch.access.keeper import AuditKeeper
from dogwatch.access.options import AuditOptions
from dogwatch.app import state_tables
from dogwatch.core.clock import SystemClock
from dogwatch.errors import PermanentError
from dogwatch.store.move import Moved, move
from dogwatch.store.state_postgres import open_postgres


async def move_state(source: Path, url: str, *, quiet: bool) -> Moved:
    """Move, and verify the audit trail where it arrived.

    Raises: DogwatchError.
    """

    def tell(table: str, count: int) -> None:
        if not quiet and sys.stderr.isatty():
            click.echo(f"\r{table}: {count} rows\x1b[K", nl=False, err=True)

    database = await open_postgres(url, state_tables())
    try:
        moved = await move(source, database, state_tables(), tell)
        if not quiet and sys.stderr.isatty():
            click.echo("\r\x1b[K", nl=False, err=True)
        keeper = AuditKeeper(database, source.parent, SystemClock(), AuditOptions())
        try:
            verdict = await keeper.verify()
        finally:
            await keeper.close()
        if not verdict.ok:
            # It was so before: what arrived is what was sent.
            raise PermanentError(
                f"everything was moved, but the audit trail is broken at event {verdict.broken}: {verdict.why}",
                hint="it was so in the file, too: dogwatch audit verify",
            )
        return moved
    finally:
        await database.close()
