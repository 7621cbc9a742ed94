"""Users in the tables: functions of a transaction, each with its audit event."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.errors import Conflict, NotFound, UsageError
from dogwatch.store.database import Row, Tx

_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")
_COLUMNS = (
    "name, title, email, source, identity, password, roles, user_groups, disabled, version, created_s, "
    "password_s, login_s"
)


class User(msgspec.Struct, frozen=True, kw_only=True):
    """One user. source: local or oidc. roles: given by name; bindings give further ones. groups: as the provider said
    at the last login. version: changes whenever sessions must end.
    """

    name: str
    title: str = ""
    email: str = ""
    source: str = "local"
    identity: str | None = None
    password: str = ""
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    disabled: bool = False
    version: int = 1
    created_s: float = 0.0
    password_s: float = 0.0
    login_s: float | None = None


def subject(name: str) -> Subject:
    return Subject(noun="user", name=name)


def _user(row: Row) -> User:
    name, title, email, source, identity, password, roles, groups, disabled, version, created, changed, login = row
    return User(
        name=str(name),
        title=str(title),
        email=str(email),
        source=str(source),
        identity=None if identity is None else str(identity),
        password=str(password),
        roles=tuple(msgspec.json.decode(str(roles), type=list[str])),
        groups=tuple(msgspec.json.decode(str(groups), type=list[str])),
        disabled=bool(disabled),
        version=int(version or 0),
        created_s=float(created or 0),
        password_s=float(changed or 0),
        login_s=None if login is None else float(login),
    )


def all_users(tx: Tx) -> list[User]:
    return [_user(row) for row in tx.rows(f"SELECT {_COLUMNS} FROM users ORDER BY name")]  # noqa: S608 our own columns


def any_user(tx: Tx) -> bool:
    return tx.one("SELECT name FROM users LIMIT 1") is not None


def find_user(tx: Tx, name: str) -> User | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM users WHERE name = :name", name=name)  # noqa: S608 our own columns
    return _user(row) if row else None


def by_identity(tx: Tx, identity: str) -> User | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM users WHERE identity = :identity", identity=identity)  # noqa: S608 our own
    return _user(row) if row else None


def the_user(tx: Tx, name: str) -> User:
    user = find_user(tx, name)
    if user is None:
        raise NotFound(f"there is no user '{name[:100]}'")
    return user


def proper_name(name: str) -> str:
    """Return a name in the form it is kept in. Raises: UsageError."""
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise UsageError(
            "a user's name is letters, digits and . _ @ + -, and begins with a letter or digit", hint="such as ann"
        )
    return name


def add_user(actor: Actor, user: User) -> Callable[[Tx], User]:
    """Raises (inside): Conflict where there is one of that name."""

    def work(tx: Tx) -> User:
        if find_user(tx, user.name) is not None:
            raise Conflict(f"there is a user '{user.name}' already")
        kept = msgspec.structs.replace(user, created_s=tx.now_s, password_s=tx.now_s)
        tx.run(
            f"INSERT INTO users ({_COLUMNS}) VALUES (:name, :title, :email, :source, :identity, :password, "  # noqa: S608
            ":roles, :groups, :disabled, 1, :now, :now, NULL)",
            name=kept.name,
            title=kept.title,
            email=kept.email,
            source=kept.source,
            identity=kept.identity,
            password=kept.password,
            roles=msgspec.json.encode(kept.roles).decode(),
            groups=msgspec.json.encode(kept.groups).decode(),
            disabled=int(kept.disabled),
            now=tx.now_s,
        )
        record(tx, actor, "create", subject(kept.name), after={"source": kept.source, "roles": kept.roles})
        tx.notify("access")
        return kept

    return work


def first_user(actor: Actor, user: User) -> Callable[[Tx], User]:
    """As add_user, but only while there are none: of two who set up at once, one does."""

    def work(tx: Tx) -> User:
        tx.lock("first user")
        if any_user(tx):
            raise Conflict("there are users already", hint="log in, or ask who runs this Dogwatch")
        return add_user(actor, user)(tx)

    return work


def set_password(actor: Actor, name: str, password: str) -> Callable[[Tx], User]:
    """Put a new hash in place; all sessions of the user end."""

    def work(tx: Tx) -> User:
        user = the_user(tx, name)
        if user.source != "local":
            raise Conflict(f"{name} logs in at the OpenID provider, not with a password")
        tx.run(
            "UPDATE users SET password = :password, password_s = :now, version = version + 1 WHERE name = :name",
            password=password,
            now=tx.now_s,
            name=name,
        )
        record(tx, actor, "change", subject(name), after={"password": "changed"})
        tx.notify("access")
        return the_user(tx, name)

    return work


def renew_hash(name: str, before: str, password: str) -> Callable[[Tx], int]:
    """Put the same password's hash at another cost in place: nobody notices."""
    return lambda tx: tx.run(
        "UPDATE users SET password = :password WHERE name = :name AND password = :before",
        password=password,
        name=name,
        before=before,
    )


def set_roles(
    actor: Actor, name: str, roles: Sequence[str], *, admins_left: Callable[[Tx], bool]
) -> Callable[[Tx], User]:
    """admins_left: whether somebody can still administer, asked after the change."""

    def work(tx: Tx) -> User:
        before, had = the_user(tx, name), admins_left(tx)
        tx.run(
            "UPDATE users SET roles = :roles WHERE name = :name", roles=msgspec.json.encode(roles).decode(), name=name
        )
        _keep_an_admin(tx, admins_left, had=had)
        record(tx, actor, "change", subject(name), before={"roles": before.roles}, after={"roles": roles})
        tx.notify("access")
        return the_user(tx, name)

    return work


def set_disabled(actor: Actor, name: str, disabled: bool, *, admins_left: Callable[[Tx], bool]) -> Callable[[Tx], User]:
    """A disabled user cannot log in; sessions end, and tokens are void while it lasts."""

    def work(tx: Tx) -> User:
        before, had = the_user(tx, name), admins_left(tx)
        if before.disabled == disabled:
            return before
        tx.run(
            "UPDATE users SET disabled = :disabled, version = version + 1 WHERE name = :name",
            disabled=int(disabled),
            name=name,
        )
        _keep_an_admin(tx, admins_left, had=had)
        verb = "disable" if disabled else "enable"
        record(tx, actor, verb, subject(name), before={"disabled": before.disabled}, after={"disabled": disabled})
        tx.notify("access")
        return the_user(tx, name)

    return work


def delete_user(actor: Actor, name: str, *, admins_left: Callable[[Tx], bool]) -> Callable[[Tx], None]:
    """Its sessions and tokens go with it."""

    def work(tx: Tx) -> None:
        before, had = the_user(tx, name), admins_left(tx)
        tx.run("DELETE FROM sessions WHERE user_name = :name", name=name)
        tx.run("DELETE FROM tokens WHERE owner = :name", name=f"user:{name}")
        tx.run("DELETE FROM users WHERE name = :name", name=name)
        _keep_an_admin(tx, admins_left, had=had)
        record(tx, actor, "delete", subject(name), before={"source": before.source, "roles": before.roles})
        tx.notify("access")

    return work


def _keep_an_admin(tx: Tx, admins_left: Callable[[Tx], bool], *, had: bool) -> None:
    if had and not admins_left(tx):
        raise Conflict("nobody would be left who may administer users", hint="give another user the role admin first")


def seen_at_provider(actor: Actor, user: User) -> Callable[[Tx], User]:
    """Keep what the OpenID provider said at a login: make the user, or renew title, email and groups.

    Raises (inside): Conflict where the name is a local user's, or another identity's.
    """

    def work(tx: Tx) -> User:
        known = by_identity(tx, user.identity or "")
        if known is None:
            if find_user(tx, user.name) is not None:
                raise Conflict(f"there is another user '{user.name}' already", hint="rename one of them")
            return add_user(actor, user)(tx)
        groups = msgspec.json.encode(user.groups).decode()
        tx.run(
            "UPDATE users SET title = :title, email = :email, user_groups = :groups WHERE name = :name",
            title=user.title,
            email=user.email,
            groups=groups,
            name=known.name,
        )
        if set(known.groups) != set(user.groups):
            before, after = {"groups": known.groups}, {"groups": user.groups}
            record(tx, actor, "change", subject(known.name), reason="as the provider says", before=before, after=after)
        tx.notify("access")
        return the_user(tx, known.name)

    return work
