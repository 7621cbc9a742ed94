"""What `dogwatch database move` does."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import click

from dogwatch.access.keeper import AuditKeeper
from dogwatch.access.options import AuditOptions
from dogwatch.cli.client import ask_admin
from dogwatch.core.clock import SystemClock
from dogwatch.errors import Conflict, DogwatchError, PermanentError, StoreLocked
from dogwatch.features import state_tables
from dogwatch.store.files import FileLock
from dogwatch.store.move import Moved, move
from dogwatch.store.state_postgres import open_postgres

# Between two looks at a daemon that comes to rest.
_LOOK_S = 0.5
# A daemon that was told to stop does so within its own grace period.
_STOP_S = 120.0


def come_to_rest(state: Path, socket: str, most_s: float, *, quiet: bool) -> None:
    """Let the daemon there take no new run, wait until it has none, and stop it. No daemon: nothing is done.

    Raises: Conflict where runs still go on after most_s; the daemon goes on as before then.
    """
    lock = FileLock(state)
    try:
        lock.acquire()
    except StoreLocked:
        pass
    else:
        lock.release()
        return
    try:
        _drained(socket, most_s, quiet=quiet)
    except BaseException:
        with contextlib.suppress(DogwatchError):
            ask_admin("drain", path=socket, on=False)
        raise
    ask_admin("stop", path=socket)
    until = time.monotonic() + _STOP_S
    while True:
        try:
            lock.acquire()
        except StoreLocked as error:
            if time.monotonic() > until:
                raise Conflict(f"the daemon was told to stop and still runs: {error}") from None
            time.sleep(_LOOK_S)
        else:
            lock.release()
            return


def _drained(socket: str, most_s: float, *, quiet: bool) -> None:
    until = time.monotonic() + most_s
    while busy := ask_admin("drain", path=socket, on=True)["data"]["busy"]:
        if time.monotonic() > until:
            raise Conflict(
                f"runs still at work after {most_s:g} s: {busy}; the daemon goes on as before",
                hint="wait longer with --wait, or cancel them: dogwatch run list --state running",
            )
        if not quiet and sys.stderr.isatty():
            click.echo(f"\rruns at work: {busy}\x1b[K", nl=False, err=True)
        time.sleep(_LOOK_S)
    if not quiet and sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)


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
