"""What was answered to changes that came with an idempotency key, so that sending one again changes nothing again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from dogwatch.store.database import Tx

KEPT_S = 86_400.0
_MOST = 100_000
# Larger answers are not kept: that the change was made is.
_ANSWER_BYTES = 64 * 1024


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """How a change ended. age_s: since it was asked for. same: whether that is what was sent then, too. status: 0 while
    nobody knows. answer: None where it is not kept.
    """

    age_s: float
    same: bool
    status: int
    headers: Mapping[str, str]
    answer: bytes | None


def scope_of(*parts: str) -> str:
    """Return what stands for who asks for what under which key."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


def claim(scope: str, body: bytes, *, trim: bool = False) -> Callable[[Tx], Repeat | None]:
    """Return None where this change is to be made now, else what is known of the first time.

    trim: see that there are not too many keys, too; that reads them all.
    """
    digest = hashlib.sha256(body).hexdigest()

    def work(tx: Tx) -> Repeat | None:
        tx.run("DELETE FROM repeats WHERE at_s < :before", before=tx.now_s - KEPT_S)
        if trim:
            tx.run(
                "DELETE FROM repeats WHERE at_s < (SELECT at_s FROM repeats ORDER BY at_s DESC LIMIT 1 OFFSET :most)",
                most=_MOST,
            )
        made = tx.run(
            "INSERT INTO repeats (scope, at_s, body, status, headers) VALUES (:scope, :at_s, :body, 0, '{}') "
            "ON CONFLICT (scope) DO NOTHING",
            scope=scope,
            at_s=tx.now_s,
            body=digest,
        )
        if made:
            return None
        row = tx.one("SELECT at_s, body, status, headers, answer FROM repeats WHERE scope = :scope", scope=scope)
        assert row is not None
        at_s, known, status, headers, answer = row
        return Repeat(
            age_s=tx.now_s - float(at_s or 0.0),
            same=known == digest,
            status=int(status or 0),
            headers=msgspec.json.decode(str(headers), type=dict[str, str]),
            answer=bytes(answer) if isinstance(answer, bytes) else None,
        )

    return work


def keep(scope: str, status: int, headers: Mapping[str, str], answer: bytes | None) -> Callable[[Tx], int]:
    """Write down how a change ended. answer: None for one that must not be kept."""
    kept = answer if answer is not None and len(answer) <= _ANSWER_BYTES else None
    text = msgspec.json.encode(headers).decode()
    return lambda tx: tx.run(
        "UPDATE repeats SET status = :status, headers = :headers, answer = :answer WHERE scope = :scope",
        scope=scope,
        status=status,
        headers=text,
        answer=kept,
    )


def forget(scope: str) -> Callable[[Tx], int]:
    """Let the key be used again: nothing was changed."""
    return lambda tx: tx.run("DELETE FROM repeats WHERE scope = :scope", scope=scope)
