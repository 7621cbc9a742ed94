"""The state database as configuration names it: a file beside the store, or the users' PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from dogwatch.config.part import Configuration
from dogwatch.config.section import Fault, Section
from dogwatch.core.clock import Clock
from dogwatch.core.units import Secret
from dogwatch.errors import ConfigError, Problem
from dogwatch.store.database import Database, Tables
from dogwatch.store.files import check_file, open_reader
from dogwatch.store.migrate import refuse_newer

STATE_FILE = "state.db"


class DatabaseOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where runs, schedules, deliveries, accounts and the audit trail are kept.

    url: of a PostgreSQL, `postgresql://user:password@db-1/dogwatch`, which workers on other machines can use; "" for a
    file beside the store's. Needs a restart to change; `dogwatch database move` takes what is there along.
    """

    url: Secret = ""


def _check(options: DatabaseOptions) -> Iterable[Fault]:
    if not options.url:
        return
    try:
        parts = urlsplit(options.url)
        usable = parts.scheme in ("postgresql", "postgres") and bool(parts.path.strip("/")) and parts.port != 0
    except ValueError:
        usable = False
    # The address may hold a password: it is not shown.
    if not usable:
        yield Fault(("url",), "is not the address of a PostgreSQL database", "write postgresql://user@host/database")


DATABASE: Section[DatabaseOptions] = Section(
    key="database",
    type=DatabaseOptions,
    doc="Where runs, schedules, deliveries, accounts and the audit trail are kept.",
    default=DatabaseOptions,
    check=_check,
)


def state_path(store_path: str | Path) -> Path:
    """Return where the file is, where it is a file."""
    return Path(store_path).absolute().parent / STATE_FILE


def check_state(options: DatabaseOptions, store_path: str | Path, tables: Sequence[Tables]) -> None:
    """Look whether this program can use the file, and change nothing. A PostgreSQL is not asked.

    Raises: StoreNewer, PermanentError, Unreachable.
    """
    path = state_path(store_path)
    if options.url or not check_file(path, 1):
        return
    with contextlib.closing(open_reader(path)) as reader:
        versions = dict(reader.execute("SELECT name, version FROM tables"))
    for one in tables:
        refuse_newer(one, int(versions.get(one.name, 0)), str(path))


async def open_database(
    options: DatabaseOptions, store_path: str | Path, tables: Sequence[Tables], clock: Clock
) -> Database:
    """Open what the options name and bring its tables up to date.

    Raises: Unreachable, StoreNewer, StoreLocked, PermanentError.
    """
    if options.url:
        # psycopg is loaded only where it is used.
        from dogwatch.store.state_postgres import open_postgres

        return await open_postgres(options.url, tables)
    from dogwatch.store.state_sqlite import open_sqlite

    return await open_sqlite(state_path(store_path), tables, clock)


class _Same:
    """Nothing to change."""

    async def start(self) -> None:
        pass

    def swap(self) -> None:
        pass

    async def finish(self) -> None:
        pass

    async def discard(self) -> None:
        pass


class DatabasePart:
    """Refuses another database while one is in use. Whoever opened it closes it, after all parts have stopped."""

    name = "database"

    def __init__(self, options: DatabaseOptions) -> None:
        self._options = options

    def prepare(self, configuration: Configuration) -> _Same:
        """Raises: ConfigError where the address changed: state does not move by itself."""
        if configuration.get(DATABASE).url != self._options.url:
            problem = Problem(
                "cannot change while running",
                "database.url",
                hint="move the state, then restart: see docs/guide/runs.md",
                restart=True,
            )
            raise ConfigError([problem])
        return _Same()

    async def stop(self) -> None:
        pass
