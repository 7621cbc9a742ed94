"""The audit trail as a whole: search, export, verification, and retention that leaves it verifiable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import AuditEvent, record
from dogwatch.access.chain import Head, Verdict
from dogwatch.access.heads import heads_after, keep_head, links_after, sign_head, tail, verification
from dogwatch.access.keys import Signer
from dogwatch.store.database import Database, Row, Tx, Value, counted_rows

_AT_ONCE = 1000
Sees = Callable[[Mapping[str, str]], bool]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it is shown. event: as it was written, byte for byte, so that its digest can be made again."""

    number: int
    digest: str
    event: AuditEvent


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for; "" and None for all. actor: `user:ann`, or the beginning of one. name: of the subject.

    text: anywhere in the event. before: only events with a lower number. since_s and until_s: [since, until).
    """

    actor: str = ""
    verb: str = ""
    noun: str = ""
    name: str = ""
    outcome: str = ""
    text: str = ""
    since_s: float | None = None
    until_s: float | None = None
    before: int | None = None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _where(wanted: AuditFilter) -> tuple[str, dict[str, Value]]:
    clauses, values = ["number < :before"], dict[str, Value](before=wanted.before or 2**62)
    for column in ("verb", "noun", "name", "outcome"):
        if text := getattr(wanted, column):
            clauses.append(f"{column} = :{column}")
            values[column] = text
    if wanted.actor:
        clauses.append("actor LIKE :actor ESCAPE '\\'")
        values["actor"] = f"{_escaped(wanted.actor)}%"
    if wanted.text:
        # As JSON writes it, which is how it is kept.
        written = msgspec.json.encode(wanted.text.encode("utf-8", "replace").decode()).decode()[1:-1]
        clauses.append("LOWER(body) LIKE LOWER(CAST(:text AS TEXT)) ESCAPE '\\'")
        values["text"] = f"%{_escaped(written)}%"
    if wanted.since_s is not None:
        clauses.append("time_s >= :since_s")
        values["since_s"] = wanted.since_s
    if wanted.until_s is not None:
        clauses.append("time_s < :until_s")
        values["until_s"] = wanted.until_s
    return " AND ".join(clauses), values


def _entry(row: Row) -> Entry:
    return Entry(
        number=int(row[0] or 0), digest=str(row[1]), event=msgspec.json.decode(str(row[2]).encode(), type=AuditEvent)
    )


def find(wanted: AuditFilter, limit: int, sees: Sees | None = None) -> Callable[[Tx], list[Entry]]:
    """Return work that finds events, newest first. sees: whether events on a subject with such labels may be seen."""

    def work(tx: Tx) -> list[Entry]:
        where, values = _where(wanted)
        found: list[Entry] = []
        while len(found) < limit:
            rows = tx.rows(
                f"SELECT number, digest, body FROM audit_events WHERE {where} "  # noqa: S608 our own clauses
                "ORDER BY number DESC LIMIT :limit",
                limit=limit,
                **values,
            )
            entries = map(_entry, rows)
            found += [one for one in entries if sees is None or sees(one.event.subject.labels)]
            if len(rows) < limit:
                break
            values["before"] = rows[-1][0]
        return found[:limit]

    return work


def total(wanted: AuditFilter) -> Callable[[Tx], int]:
    """Return work that counts the events that match, on all pages."""
    where, values = _where(msgspec.structs.replace(wanted, before=None))
    return lambda tx: counted_rows(tx, "audit_events", where, **values)


async def lines(database: Database, wanted: AuditFilter, sees: Sees | None = None) -> AsyncIterator[bytes]:
    """Yield events as JSON Lines, newest first, a page at a time."""
    while True:
        found = await database.read(find(wanted, _AT_ONCE, sees))
        if found:
            yield b"".join(event_line(one) for one in found)
        if len(found) < _AT_ONCE:
            return
        wanted = msgspec.structs.replace(wanted, before=found[-1].number)


def event_line(entry: Entry) -> bytes:
    return msgspec.json.encode(entry) + b"\n"


async def verify(database: Database, trusted: Sequence[str], further: Iterable[Head] = ()) -> Verdict:
    """Follow the whole chain and return the verdict.

    trusted: public keys. further: heads that were kept elsewhere (files, other machines); those in the tables are
    taken into account anyway.
    """
    heads: list[Head] = []
    at = (0, "")
    while page := await database.read(lambda tx, at=at: heads_after(tx, at[0], at[1], _AT_ONCE)):  # type: ignore[misc]
        heads += page
        at = (page[-1].number, page[-1].kind)
    walk = verification([*heads, *further], trusted)
    reached = -(2**62)  # also what should not be there
    while True:
        # The end in the same snapshot: what is appended meanwhile is part of the next page.
        links, end = await database.read(lambda tx, at=reached: (links_after(tx, at), tail(tx)))  # type: ignore[misc]
        if walk.broken is not None or not links or not walk.feed(links):
            return walk.finish(end)
        reached = links[-1].number


def cut(signer: Signer, actor: Actor, before_s: float) -> Callable[[Tx], int]:
    """Return work that removes the events older than before_s, and signs where the chain begins now.

    It removes whole beginnings only, never the newest event; the removal itself is an event. Returns how many.
    """

    def work(tx: Tx) -> int:
        tx.lock("audit")
        row = tx.one("SELECT MIN(number) FROM audit_events WHERE time_s >= :before_s", before_s=before_s)
        end = int(row[0]) if row and row[0] is not None else tail(tx)[0]
        last = tx.one(
            "SELECT number, digest FROM audit_events WHERE number < :end ORDER BY number DESC LIMIT 1", end=end
        )
        if last is None:
            return 0
        number, digest = int(last[0] or 0), str(last[1])
        keep_head(tx, sign_head(signer, "cut", number, digest, tx.now_s))
        removed = tx.run("DELETE FROM audit_events WHERE number <= :number", number=number)
        tx.run("DELETE FROM audit_heads WHERE number < :number", number=number)
        after = {"removed": removed, "up_to": number}
        record(tx, actor, "cut", Subject(noun="audit", name="trail"), reason="older than is kept", after=after)
        return removed

    return work


def events_after(tx: Tx, number: int, limit: int) -> list[Entry]:
    """Return the events after a number, oldest first: for exporters."""
    rows = tx.rows(
        "SELECT number, digest, body FROM audit_events WHERE number > :number ORDER BY number LIMIT :limit",
        number=number,
        limit=limit,
    )
    return [_entry(row) for row in rows]
