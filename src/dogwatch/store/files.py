"""The store's file: what it is before it is opened, who holds it, and which migrations it lacks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from importlib import resources
from pathlib import Path

from dogwatch.errors import PermanentError, StoreLocked, StoreNewer, Unreachable

# "Dogw", in the file's header: told apart from other programs' databases, and by file(1).
APPLICATION_ID = 0x446F6777
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
# A database up to this size is checked as a whole when it is opened: it takes some 50 ms.
_CHECK_BYTES = 32 * 1024 * 1024
_BUSY_S = 1.0


def migrations() -> list[tuple[int, str]]:
    """Return (number, SQL) of every migration, in order."""
    folder = resources.files("dogwatch.store").joinpath("schema")
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.removesuffix(".sql")), folder.joinpath(name).read_text("utf-8")) for name in files]


def check_file(path: Path, newest: int) -> int:
    """Return the schema version of the file, 0 where there is none yet. Only reads its header: nothing is touched.

    Migrations run without a WAL, so that the header tells the version even after a crash.
    Raises: StoreNewer; PermanentError where it is no store of ours; Unreachable where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return 0
    except IsADirectoryError as error:
        raise PermanentError(f"{path} is a directory", hint="store.path names a file") from error
    except OSError as error:
        raise Unreachable(f"cannot open the store {path}: {error.strerror}") from error
    if not header:
        return 0
    # A death in the first transaction of all leaves a file without a mark, and the journal that takes it back.
    journal = path.with_name(path.name + "-journal").exists()
    if journal and not header.strip(b"\0"):
        return 0
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise PermanentError(f"{path} is not an SQLite database", hint="name another file in store.path")
    version = int.from_bytes(header[60:64], "big")
    application = int.from_bytes(header[68:72], "big")
    unfinished = journal and not application and not version
    if application != APPLICATION_ID and not unfinished:
        raise _foreign(path)
    if version > newest:
        raise StoreNewer(
            f"the store {path} has schema version {version}; this Dogwatch knows versions up to {newest}",
            hint="run the newer Dogwatch, or name another file in store.path; nothing was changed",
        )
    return version


class FileLock:
    """Keeps a second Dogwatch from the same store; the system releases it when its holder dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._store = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises: StoreLocked naming the holder; Unreachable where the lock file cannot be written."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unreachable(f"cannot open the store's lock {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreLocked(
                f"the store {self._store} is in use by process {holder or 'unknown'}",
                hint="stop that Dogwatch first, or give this one its own store.path",
            ) from None
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only its holder's number is not shown
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        # The file stays: removing it would let two processes lock two files of the same name.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def prepare_folder(path: Path) -> None:
    """Make the store's folder.

    Raises: Unreachable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unreachable(f"cannot make the store's folder {path.parent}: {error.strerror}") from error


def open_writer(path: Path, steps: list[tuple[int, str]] | None = None) -> sqlite3.Connection:
    """Open, check and migrate; the caller holds the lock. The connection belongs to the calling thread.

    steps: the migrations, where they are not ours.
    Raises: StoreNewer, StoreLocked, PermanentError, Unreachable.
    """
    steps = steps or migrations()
    version = check_file(path, steps[-1][0])
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Unreachable(f"cannot write the store {path}: {error.strerror}") from error
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, cached_statements=256)
    try:
        _set_up(connection, path, version, steps)
    except sqlite3.Error as error:
        connection.close()
        raise _refusal(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, path: Path, version: int, steps: list[tuple[int, str]]) -> None:
    if version and path.stat().st_size <= _CHECK_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _corrupt(path, found)
    if not version and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise _foreign(path)
    if version < steps[-1][0]:
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        for number, sql in steps:
            if number > version:
                _migrate(connection, number, sql)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise Unreachable(f"cannot keep a write-ahead log beside {path}", hint="network file systems cannot hold it")
    connection.execute("PRAGMA journal_size_limit = 16777216")
    connection.execute("PRAGMA cache_size = -4096")
    connection.execute("PRAGMA temp_store = MEMORY")


def _migrate(connection: sqlite3.Connection, number: int, sql: str) -> None:
    try:
        connection.executescript(
            f"BEGIN EXCLUSIVE;\n{sql}\nPRAGMA application_id = {APPLICATION_ID};\n"
            f"PRAGMA user_version = {number};\nCOMMIT;"
        )
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def open_reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA cache_size = -2048")
    return connection


def _foreign(path: Path) -> PermanentError:
    return PermanentError(f"{path} is another program's database", hint="name another file in store.path")


def _corrupt(path: Path, found: str) -> PermanentError:
    return PermanentError(
        f"the store {path} is damaged: {found}",
        hint="restore it from a backup, or move it away and start with an empty one",
    )


def _refusal(path: Path, error: sqlite3.Error) -> Exception:
    text = str(error)
    if "locked" in text:
        return StoreLocked(f"the store {path} is locked by another program", hint="close whatever has it open")
    if "malformed" in text or "not a database" in text:
        return _corrupt(path, text)
    return Unreachable(f"cannot open the store {path}: {text}")


def size_bytes(path: Path) -> int:
    """Return what the store takes on disk, its write-ahead log included."""
    total = 0
    for name in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(OSError):
            total += name.stat().st_size
    return total
