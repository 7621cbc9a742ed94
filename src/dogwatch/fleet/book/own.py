"""The book of command lines: a state database of one's own, which several processes write, and who carries out what."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

from dogwatch.access.sealing import FileSealer
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.errors import Conflict, NotFound, Unreachable
from dogwatch.fleet.book.book import FleetBook
from dogwatch.fleet.book.tables import fleet_tables
from dogwatch.fleet.book.values import Key
from dogwatch.store.database import Database
from dogwatch.store.state_sqlite import open_sqlite

FOLDER = "fleet"


class OwnBook(FleetBook):
    """The book in a folder. sealer: for what must not be read there."""

    def __init__(self, database: Database, folder: Path) -> None:
        super().__init__(database, audited=True)
        self.folder = folder
        self.sealer = FileSealer(folder / "state.key")


@contextlib.asynccontextmanager
async def own_book(data: Path, *, make: bool = True) -> AsyncIterator[OwnBook]:
    """Open the book beside the data of a user's daemon; several processes may. make: begin it where there is none.

    Raises: NotFound, Unreachable, StoreNewer, PermanentError.
    """
    folder = data / FOLDER
    path = folder / "state.db"
    if not make and not path.exists():
        raise NotFound(f"no fleet run is kept in {folder}", hint="`dogwatch fleet run` keeps one; or name a --server")
    database = await open_sqlite(path, (access_tables(), fleet_tables()), SystemClock(), shared=True)
    try:
        yield OwnBook(database, folder)
    finally:
        await database.close()


class Hold:
    """That this process carries out a run. The system lets go of it when the process dies, however it dies."""

    def __init__(self, folder: Path, key: Key) -> None:
        self._path = folder / f"{key.run_id}.lock"
        self._key = key
        self._descriptor = -1

    def __enter__(self) -> Hold:
        """Raises: Conflict where another process has it; Unreachable."""
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unreachable(f"cannot lock {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise Conflict(
                f"fleet run {self._key} is being carried out by process {holder or 'unknown'}",
                hint="wait for it, or end it with Ctrl-C there",
            ) from None
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_error: object) -> None:
        # Nobody waits for it, so that nobody can hold a file of this name that is no longer there.
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_held(folder: Path, key: Key) -> bool:
    """Return whether a process carries it out now."""
    try:
        descriptor = os.open(folder / f"{key.run_id}.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
