"""Signed heads of the audit trail in its tables: making them, reading them, and telling false ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from dogwatch.access.chain import GENESIS, Head, Link, Verification
from dogwatch.access.keys import Signer, signed_by
from dogwatch.errors import PermanentError
from dogwatch.store.database import Row, Tx

HEADS_FILE = "audit-heads.jsonl"
# As rsyslog and syslog-ng write our messages: `… dogwatch[4711]: {…}`, `… dogwatch 4711 audit - {…}`.
_TOLD = re.compile(r"\bdogwatch(?:\[\d+\]:?| \d+ audit -)\s*\{")
_AT_ONCE = 2000


def sign_head(signer: Signer, kind: str, number: int, digest: str, time_s: float) -> Head:
    head = Head(kind=kind, number=number, digest=digest, time_s=time_s, signer=signer.public, signature="")
    return msgspec.structs.replace(head, signature=signer.sign(head.signed()))


def links_after(tx: Tx, number: int, limit: int = _AT_ONCE) -> list[Link]:
    """Return the next events after a number, with what verification looks at."""
    rows = tx.rows(
        "SELECT number, body, digest, time_s, actor, verb, noun, name, outcome FROM audit_events "
        "WHERE number > :number ORDER BY number LIMIT :limit",
        number=number,
        limit=limit,
    )
    return [_link(row) for row in rows]


class _Core(msgspec.Struct):
    """The part of an event's body that columns repeat."""

    class Who(msgspec.Struct):
        kind: str
        name: str

    class What(msgspec.Struct):
        noun: str
        name: str

    time_s: float
    actor: Who
    verb: str
    subject: What
    outcome: str


_CORE = msgspec.json.Decoder(_Core)


def _link(row: Row) -> Link:
    number, body, digest = int(row[0] or 0), str(row[1]), str(row[2])
    try:
        core = _CORE.decode(body)
    except msgspec.MsgspecError:
        return Link(number, body, digest)  # then its digest is wrong, too
    said = (
        core.time_s,
        f"{core.actor.kind}:{core.actor.name}",
        core.verb,
        core.subject.noun,
        core.subject.name,
        core.outcome,
    )
    names = ("time_s", "actor", "verb", "noun", "name", "outcome")
    twisted = [
        name
        for name, shown, value in zip(names, row[3:], said, strict=True)
        if shown != (value.replace("\0", "\ufffd") if isinstance(value, str) else value)
    ]
    return Link(number, body, digest, twisted[0] if twisted else "")


def tail(tx: Tx) -> tuple[int, str]:
    row = tx.one("SELECT number, digest FROM audit_tail WHERE id = 1")
    return (int(row[0] or 0), str(row[1])) if row else (0, GENESIS)


def heads_after(tx: Tx, number: int, kind: str, limit: int) -> list[Head]:
    """Return heads and cuts after the one of that number and kind, oldest first."""
    rows = tx.rows(
        "SELECT kind, number, digest, time_s, signer, signature FROM audit_heads "
        "WHERE number > :number OR (number = :number AND kind > :kind) ORDER BY number, kind LIMIT :limit",
        number=number,
        kind=kind,
        limit=limit,
    )
    return [_head(row, "") for row in rows]


def newest_heads(tx: Tx, limit: int) -> list[Head]:
    rows = tx.rows(
        "SELECT kind, number, digest, time_s, signer, signature FROM audit_heads ORDER BY number DESC LIMIT :limit",
        limit=limit,
    )
    return [_head(row, "") for row in rows]


def _head(row: Row, origin: str) -> Head:
    kind, number, digest, time_s, signer, signature = row
    return Head(
        kind=str(kind),
        number=int(number or 0),
        digest=str(digest),
        time_s=float(time_s or 0),
        signer=str(signer),
        signature=str(signature),
        origin=origin,
    )


def keep_head(tx: Tx, head: Head) -> None:
    tx.run(
        "INSERT INTO audit_heads (kind, number, digest, time_s, signer, signature) "
        "VALUES (:kind, :number, :digest, :time_s, :signer, :signature) ON CONFLICT (kind, number) DO NOTHING",
        kind=head.kind,
        number=head.number,
        digest=head.digest,
        time_s=head.time_s,
        signer=head.signer,
        signature=head.signature,
    )


def read_heads(text: str, origin: str) -> list[Head]:
    """Return the heads of exported JSON Lines, or of a file in which a syslog server wrote them among others; other
    lines (events) are passed over.

    Raises: PermanentError for a line of ours that is no JSON.
    """
    found, strange = [], 0
    for number, written in enumerate(text.splitlines(), 1):
        line = _ours(written)
        if not line:
            strange = strange or (number if written.strip() else 0)
            continue
        try:
            parsed = msgspec.json.decode(line)
            if isinstance(parsed, dict) and "signature" in parsed:
                head = msgspec.convert(parsed, Head)
                found.append(msgspec.structs.replace(head, origin=origin))
        except msgspec.MsgspecError as error:
            raise PermanentError(f"{origin}:{number} is not a head: {error}") from error
    if strange and not found:
        raise PermanentError(f"{origin}:{strange} is not a head, and no other line is one")
    return found


def _ours(line: str) -> str:
    """Return what is JSON of a line, "" for a line of others. A syslog server writes names and numbers before ours, and
    may have cut an event; never a head, which is short.
    """
    told = line.strip()
    if told.startswith("{"):
        return told
    found = _TOLD.search(told)
    json = told[found.end() - 1 :] if found else ""
    return json if '"signature"' in json else ""


def file_heads(path: Path) -> list[Head]:
    """Return the heads of the file beside the tables. A line that a crash has cut off is none."""
    try:
        text = path.read_text("utf-8")
        return read_heads(text[: text.rfind("\n") + 1], path.name)
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise PermanentError(f"{path} was changed: it is not UTF-8") from error
    except OSError as error:
        raise PermanentError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error


def sort_heads(heads: Iterable[Head], trusted: Sequence[str]) -> tuple[list[Head], list[Head]]:
    """Return the heads that a trusted key signed, and those that none did."""
    good: list[Head] = []
    bad: list[Head] = []
    for head in heads:
        fine = head.signer in trusted and signed_by(head.signer, head.signed(), head.signature)
        (good if fine else bad).append(head)
    return good, bad


def verification(heads: Iterable[Head], trusted: Sequence[str]) -> Verification:
    """Return a verification over the heads that are signed; a false one breaks it at once."""
    good, bad = sort_heads(heads, trusted)
    found = Verification(good)
    if bad:
        first = min(bad, key=lambda head: head.number)
        where = f" ({first.origin})" if first.origin else ""
        found.broken = (first.number, f"the head at event {first.number}{where} is not signed by a trusted key")
    return found


def sign_newest(signer: Signer) -> Callable[[Tx], Head | None]:
    """Return work that signs the newest event, once the events since the last head have been followed; None where
    nothing is new.

    Raises (inside): PermanentError where the chain is broken: a broken chain is not vouched for.
    """

    def work(tx: Tx) -> Head | None:
        tx.lock("audit")
        number, digest = tail(tx)
        row = tx.one("SELECT number, digest FROM audit_heads ORDER BY number DESC LIMIT 1")
        start = (int(row[0] or 0), str(row[1])) if row else (0, GENESIS)
        if number == start[0]:
            return None
        at = Head(kind="cut", number=start[0], digest=start[1], time_s=0, signer="", signature="")
        walk = Verification([at] if start[0] else [])
        reached = start[0]
        while links := links_after(tx, reached):
            if not walk.feed(links):
                break
            reached = links[-1].number
        verdict = walk.finish((number, digest))
        if not verdict.ok:
            raise PermanentError(f"the audit trail is broken: {verdict.why}", hint="dogwatch audit verify")
        head = sign_head(signer, "head", number, digest, tx.now_s)
        keep_head(tx, head)
        return head

    return work
