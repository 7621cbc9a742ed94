"""API tokens and sessions in the tables. What is secret of them is kept nowhere, only its digest."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.access.options import SessionOptions
from dogwatch.errors import NotFound
from dogwatch.store.database import Row, Tx

TOKEN_PREFIX = "dw_"  # noqa: S105 what tokens begin with
LOCAL_PREFIX = "dwl_"
_COLUMNS = "id, name, owner, digest, roles, labels, created_s, expires_s, used_s, used_from, revoked_s"


def new_secret(prefix: str = "") -> str:
    return prefix + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


def digest_of(secret: str) -> str:
    """A secret of 256 random bits needs no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One API token. owner: `user:ann`, or `local:root` for one made on this machine. roles: no more than its owner
    has now. labels: what everything it touches must carry.
    """

    id: str
    name: str
    owner: str
    roles: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    created_s: float = 0.0
    expires_s: float | None = None
    used_s: float | None = None
    used_from: str = ""
    revoked_s: float | None = None


def _token(row: Row) -> Token:
    id_, name, owner, _digest, roles, labels, created, expires, used, used_from, revoked = row
    return Token(
        id=str(id_),
        name=str(name),
        owner=str(owner),
        roles=tuple(msgspec.json.decode(str(roles), type=list[str])),
        labels=msgspec.json.decode(str(labels), type=dict[str, str]),
        created_s=float(created or 0),
        expires_s=None if expires is None else float(expires),
        used_s=None if used is None else float(used),
        used_from=str(used_from),
        revoked_s=None if revoked is None else float(revoked),
    )


def all_tokens(tx: Tx, owner: str | None = None) -> list[Token]:
    """Return tokens, newest first; owner: only this one's."""
    if owner is None:
        rows = tx.rows(f"SELECT {_COLUMNS} FROM tokens ORDER BY created_s DESC, id LIMIT 10000")  # noqa: S608 our own
    else:
        rows = tx.rows(
            f"SELECT {_COLUMNS} FROM tokens WHERE owner = :owner ORDER BY created_s DESC, id LIMIT 10000",  # noqa: S608
            owner=owner,
        )
    return [_token(row) for row in rows]


def token_of(tx: Tx, secret_digest: str) -> Token | None:
    """Return the token of a digest, if it holds now."""
    row = tx.one(
        f"SELECT {_COLUMNS} FROM tokens WHERE digest = :digest AND revoked_s IS NULL "  # noqa: S608 our own columns
        "AND (expires_s IS NULL OR expires_s > :now)",
        digest=secret_digest,
        now=tx.now_s,
    )
    return _token(row) if row else None


def add_token(
    actor: Actor,
    name: str,
    secret: str,
    *,
    owner: str,
    roles: Sequence[str],
    labels: Mapping[str, str],
    expires_after_s: float | None,
) -> Callable[[Tx], Token]:
    def work(tx: Tx) -> Token:
        digest = digest_of(secret)
        expires_s = None if expires_after_s is None else tx.now_s + expires_after_s
        tx.run(
            f"INSERT INTO tokens ({_COLUMNS}) VALUES (:id, :name, :owner, :digest, :roles, :labels, :now, :expires_s, "  # noqa: S608
            "NULL, '', NULL)",
            id=digest[:12],
            name=name,
            owner=owner,
            digest=digest,
            roles=msgspec.json.encode(roles).decode(),
            labels=msgspec.json.encode(labels).decode(),
            now=tx.now_s,
            expires_s=expires_s,
        )
        after = {"name": name, "owner": owner, "roles": roles, "labels": labels, "expires_s": expires_s}
        record(tx, actor, "create", Subject(noun="token", name=digest[:12]), after=after)
        return the_token(tx, digest[:12])

    return work


def the_token(tx: Tx, token_id: str) -> Token:
    row = tx.one(f"SELECT {_COLUMNS} FROM tokens WHERE id = :id", id=token_id)  # noqa: S608 our own columns
    if row is None:
        raise NotFound(f"there is no token '{token_id[:50]}'")
    return _token(row)


def revoke_token(actor: Actor, token_id: str, owner: str | None) -> Callable[[Tx], Token]:
    """owner: only this one's; another's is not found."""

    def work(tx: Tx) -> Token:
        token = the_token(tx, token_id)
        if owner is not None and token.owner != owner:
            raise NotFound(f"there is no token '{token_id[:50]}'")
        if token.revoked_s is None:
            tx.run("UPDATE tokens SET revoked_s = :now WHERE id = :id", now=tx.now_s, id=token_id)
            record(tx, actor, "revoke", Subject(noun="token", name=token_id), before={"name": token.name})
            tx.notify("access")
        return the_token(tx, token_id)

    return work


# -- sessions ----------------------------------------------------------------------------------------------------------


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One login of a browser. version: the user's at the time."""

    digest: str
    user: str
    version: int
    csrf: str
    address: str
    agent: str
    created_s: float
    seen_s: float


_SESSION = "digest, user_name, version, csrf, address, agent, created_s, seen_s"


def _session(row: Row) -> Session:
    digest, user, version, csrf, address, agent, created, seen = row
    return Session(
        digest=str(digest),
        user=str(user),
        version=int(version or 0),
        csrf=str(csrf),
        address=str(address),
        agent=str(agent),
        created_s=float(created or 0),
        seen_s=float(seen or 0),
    )


def begin_session(
    actor: Actor, secret: str, user: str, version: int, agent: str, options: SessionOptions, old: str = ""
) -> Callable[[Tx], Session]:
    """Make a session of a user who has just proved who it is; the browser's old one ends. Oldest ones make room."""

    def work(tx: Tx) -> Session:
        now = tx.now_s
        tx.run("DELETE FROM sessions WHERE digest = :old", old=old)
        tx.run(
            "DELETE FROM sessions WHERE seen_s < :idle OR created_s < :longest",
            idle=now - options.idle,
            longest=now - options.longest,
        )
        kept = tx.rows("SELECT digest FROM sessions WHERE user_name = :user ORDER BY seen_s DESC", user=user)
        for row in kept[options.per_user - 1 :]:
            tx.run("DELETE FROM sessions WHERE digest = :digest", digest=row[0])
        session = Session(
            digest=digest_of(secret),
            user=user,
            version=version,
            csrf=new_secret(),
            address=actor.address,
            agent=agent[:200],
            created_s=now,
            seen_s=now,
        )
        tx.run(
            f"INSERT INTO sessions ({_SESSION}) VALUES "  # noqa: S608 our own columns
            "(:digest, :user, :version, :csrf, :address, :agent, :created_s, :seen_s)",
            **msgspec.structs.asdict(session),
        )
        tx.run("UPDATE users SET login_s = :now WHERE name = :user", now=now, user=user)
        record(tx, actor, "login", Subject(noun="user", name=user))
        tx.notify("access")
        return session

    return work


def session_of(tx: Tx, secret_digest: str, options: SessionOptions) -> Session | None:
    row = tx.one(
        f"SELECT {_SESSION} FROM sessions WHERE digest = :digest AND seen_s > :idle AND created_s > :longest",  # noqa: S608
        digest=secret_digest,
        idle=tx.now_s - options.idle,
        longest=tx.now_s - options.longest,
    )
    return _session(row) if row else None


def sessions_of(tx: Tx, user: str) -> list[Session]:
    rows = tx.rows(f"SELECT {_SESSION} FROM sessions WHERE user_name = :user ORDER BY seen_s DESC", user=user)  # noqa: S608
    return [_session(row) for row in rows]


def end_session(actor: Actor, secret_digest: str, user: str) -> Callable[[Tx], None]:
    def work(tx: Tx) -> None:
        if tx.run("DELETE FROM sessions WHERE digest = :digest", digest=secret_digest):
            record(tx, actor, "logout", Subject(noun="user", name=user))
            tx.notify("access")

    return work


def keep_use(tokens: Mapping[str, tuple[float, str]], sessions: Mapping[str, float]) -> Callable[[Tx], None]:
    """Write when tokens (by id: time, address) and sessions (by digest) were last used."""

    def work(tx: Tx) -> None:
        for token_id, (used_s, address) in tokens.items():
            tx.run(
                "UPDATE tokens SET used_s = :used_s, used_from = :address WHERE id = :id",
                used_s=used_s,
                address=address,
                id=token_id,
            )
        for digest, seen_s in sessions.items():
            tx.run("UPDATE sessions SET seen_s = :seen_s WHERE digest = :digest", seen_s=seen_s, digest=digest)

    return work
