"""Brings the tables of each layer to the version that this program knows; refuses those of a newer one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dogwatch.core.metrics import Family, series
from dogwatch.errors import StoreNewer
from dogwatch.store.database import Tables
from dogwatch.store.group import Session


def statements(sql: str) -> list[str]:
    """Return the statements of a migration, its comments left out. A semicolon ends each; none holds one inside."""
    lines = [line.split("--", 1)[0] for line in sql.splitlines()]
    return [text for statement in "\n".join(lines).split(";") if (text := statement.strip())]


def refuse_newer(one: Tables, version: int, where: str) -> None:
    """Raises: StoreNewer where tables have a version that this program does not know."""
    newest = one.steps[-1][0]
    if version > newest:
        raise StoreNewer(
            f"{where}: the tables of {one.name} have version {version}; this Dogwatch knows up to {newest}",
            hint="run the newer Dogwatch; nothing was changed",
        )


def apply_tables(session: Session, tables: Sequence[Tables], where: str) -> None:
    """Apply what is missing, in one transaction: all of it or nothing.

    Raises: StoreNewer.
    """
    tx = session.begin()
    try:
        tx.lock("migrations")
        versions = {str(name): int(version or 0) for name, version in tx.rows("SELECT name, version FROM tables")}
        for one in tables:
            newest, version = one.steps[-1][0], versions.get(one.name, 0)
            refuse_newer(one, version, where)
            for number, sql in one.steps:
                if number > version:
                    for statement in statements(sql):
                        tx.run(statement)
            tx.run(
                "INSERT INTO tables (name, version) VALUES (:name, :version) "
                "ON CONFLICT (name) DO UPDATE SET version = excluded.version",
                name=one.name,
                version=newest,
            )
        session.commit()
    except BaseException:
        session.rollback()
        raise


def families(kind: str, commits: int, waiting: int, trouble: bool) -> Iterable[Family]:
    labels = {"database": kind}
    for name, type_, text, value in (
        ("dogwatch_state_commits_total", "counter", "Commits of state, each of a group of transactions.", commits),
        ("dogwatch_state_waiting", "gauge", "Transactions that wait for the database.", waiting),
        ("dogwatch_state_trouble", "gauge", "1 while the database of state cannot be used.", trouble),
    ):
        yield Family(name, type_, text, [(series(name, labels), float(value))])
