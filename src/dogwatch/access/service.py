"""Access as the rest of the program uses it: who is it, what may that one do, and everything that changes either."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from dogwatch.access import lockout, tokens, users
from dogwatch.access.actor import SYSTEM, Actor, Subject
from dogwatch.access.identity import Identity, local
from dogwatch.access.keeper import AuditKeeper
from dogwatch.access.oidc import Provider
from dogwatch.access.options import AccessOptions, CertificateBinding
from dogwatch.access.passwords import Passwords
from dogwatch.access.permissions import Permission, Rights, Role
from dogwatch.access.recording import Recorder
from dogwatch.access.tokens import LOCAL_PREFIX, TOKEN_PREFIX, Session, Token, digest_of, new_secret
from dogwatch.access.users import User
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.errors import Conflict, DogwatchError, NotAllowed, TransientError, UsageError
from dogwatch.store.database import Database, Tx

log = logging.getLogger(__name__)
T = TypeVar("T")
# Other processes tell of their changes at once; should one notice be lost, this is how long it goes unseen.
_FRESH_S = 5.0
_KEPT = 10_000
_USE_EVERY_S = 30.0
_LOCAL_S = 600.0
_LOCAL_KEPT = 200
_ADMINISTER = Permission("user", "change")
_SETUP = Actor(kind="setup", name="first user")


_MOST_SEEN = 10_000


class Access(Recorder):
    """Users, tokens, sessions and the audit trail over the state database. folder: of the data, for keys."""

    def __init__(self, database: Database, folder: Path, clock: Clock, options: AccessOptions | None = None) -> None:
        self.options = options or AccessOptions()
        self.folder = folder
        super().__init__(database, clock, AuditKeeper(database, folder, clock, self.options.audit))
        self.passwords = Passwords(self.options.password)
        self.has_users = False
        self.setup_code = ""
        self._known: OrderedDict[str, tuple[float, Identity]] = OrderedDict()
        self._rights: dict[tuple[str, ...], Rights] = {}
        # Of those who asked lately: who decides has asked.
        self._seen_in: dict[str, frozenset[str]] = {}
        self._local: OrderedDict[str, tuple[float, Identity]] = OrderedDict()
        self._used_tokens: dict[str, tuple[float, str]] = {}
        self._used_sessions: dict[str, float] = {}
        self._provider: Provider | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Learn whether there are users. Raises: DogwatchError."""
        self.has_users = await self.database.read(users.any_user)

    def use(self, options: AccessOptions) -> None:
        """Put other options in force."""
        if options.password != self.options.password:
            self.passwords = Passwords(options.password)
        self.options = options
        self.keeper.options = options.audit
        self._forget()
        self.keeper.wake()

    async def run(self, bus: Bus | None = None) -> None:
        """Hear of changes, write down uses, keep the trail; until cancelled. bus: tells of reloads."""
        stop_listening = self.database.listen("access", self._forget)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.keeper.run(), name="audit trail")
                if bus is not None:
                    group.create_task(self.note_reloads(bus), name="audit of reloads")
                while True:
                    await asyncio.sleep(_USE_EVERY_S)
                    try:
                        await self.flush()
                        self.has_users = await self.database.read(users.any_user)
                    except DogwatchError as error:
                        log.debug("uses of tokens and sessions are written later: %s", error)
        finally:
            stop_listening()

    async def flush(self) -> None:
        """Write down what was used."""
        used, self._used_tokens = self._used_tokens, {}
        seen, self._used_sessions = self._used_sessions, {}
        if used or seen:
            await self.database.write(tokens.keep_use(used, seen))

    def _forget(self) -> None:
        self._known.clear()
        self._rights.clear()

    # -- who -----------------------------------------------------------------------------------------------------------

    def rights_of(self, roles: Iterable[str]) -> Rights:
        """Return what roles allow; a name that no longer means a role allows nothing."""
        names = tuple(roles)
        found = self._rights.get(names)
        if found is None:
            found = self._rights[names] = Rights(role for name in names if (role := self.options.role(name)))
        return found

    def roles_of(self, user: User) -> tuple[str, ...]:
        """Return a user's roles: given by name, and bound to the user or a group."""
        bound = [
            role
            for binding in self.options.bindings
            if binding.user == user.name or (binding.group and binding.group in user.groups)
            for role in binding.roles
        ]
        names = list(dict.fromkeys((*user.roles, *bound)))
        if not names and user.source == "oidc" and self.options.oidc is not None:
            names = list(self.options.oidc.default_roles)
        return tuple(names)

    def is_in(self, actor: Actor, who: str) -> bool:
        """Return whether who asked lately has a role (`role:ops`) or is in a group (`group:ops`); this machine itself
        has all. Safe in every thread.
        """
        return actor.kind == "local" or who in self._seen_in.get(str(actor), ())

    def roles(self) -> list[Role]:
        return [role for name in self.options.role_names() if (role := self.options.role(name))]

    async def by_token(self, secret: str, address: str, *, counts: bool = True) -> Identity | None:
        """Return who a token stands for, None where it does not hold (any more). counts: whether it is used by this."""
        digest = digest_of(secret)
        if secret.startswith(LOCAL_PREFIX):
            entry = self._local.get(digest)
            return entry[1] if entry is not None and self.clock.monotonic_s() < entry[0] else None
        if not secret.startswith(TOKEN_PREFIX):
            return None
        found = self._remembered(digest)
        if found is None:
            found = await self._token_identity(digest)
            if found is None:
                return None
            self._remember(digest, found)
        if counts:
            self._used_tokens[found.key] = (self.clock.now_s(), address)
        return _at(found, address)

    async def _token_identity(self, digest: str) -> Identity | None:
        def work(tx: Tx) -> tuple[Token | None, User | None]:
            token = tokens.token_of(tx, digest)
            name = token.owner.removeprefix("user:") if token and token.owner.startswith("user:") else ""
            return token, users.find_user(tx, name) if name else None

        token, owner = await self.database.read(work)
        if token is None:
            return None
        scope = Rights([role for name in token.roles if (role := self.options.role(name))], token.labels)
        name = ""
        if token.owner.startswith("user:"):
            if owner is None or owner.disabled:
                return None
            name = owner.name
            scope = scope.within(self.rights_of(self.roles_of(owner)))
        # Names are their owners' choice, and two may be the same: who it was must not be in doubt.
        actor = Actor(kind="token", name=f"{token.name}#{token.id}")
        self._see(actor, [role for role in token.roles if self._covers(scope, role)], ())
        return Identity(actor=actor, rights=scope, how="token", user=name, key=token.id)

    def _covers(self, rights: Rights, role: str) -> bool:
        whole = self.rights_of((role,)).table()
        return bool(whole) and rights.within(self.rights_of((role,))).table() == whole

    def _see(self, actor: Actor, roles: Sequence[str], groups: Sequence[str]) -> None:
        if len(self._seen_in) >= _MOST_SEEN:
            self._seen_in.clear()
        named = (*(f"role:{name}" for name in roles), *(f"group:{name}" for name in groups))
        self._seen_in[str(actor)] = frozenset(named)

    async def by_certificate(self, names: Sequence[str], address: str) -> Identity | None:
        """Return whom a client's certificate stands for. names: of one that a trusted authority has signed."""
        binding = next((one for one in self.options.certificates if one.fits(names)), None)
        if binding is None:
            return None
        digest = digest_of("\0".join((*names, binding.user, *binding.roles)))
        found = self._remembered(digest)
        if found is None:
            found = await self._certificate_identity(binding, names)
            if found is None:
                return None
            self._remember(digest, found)
        return _at(found, address)

    async def _certificate_identity(self, binding: CertificateBinding, names: Sequence[str]) -> Identity | None:
        roles: tuple[str, ...] = binding.roles
        groups: Sequence[str] = ()
        if binding.user:
            user = await self.database.read(lambda tx: users.find_user(tx, binding.user))
            if user is None or user.disabled:
                return None
            roles, groups = self.roles_of(user), user.groups
        name = next((one[3:] for one in names if one.startswith("CN:")), names[0] if names else "")
        actor = Actor(kind="certificate", name=f"{binding.user} by {name}" if binding.user else name)
        self._see(actor, roles, groups)
        return Identity(actor=actor, rights=self.rights_of(roles), how="certificate", user=binding.user)

    async def by_session(self, secret: str, address: str, *, counts: bool = True) -> Identity | None:
        """Return who a browser's session stands for. counts: whether that keeps it from ending unused."""
        digest = digest_of(secret)
        found = self._remembered(digest)
        if found is None:
            found = await self._session_identity(digest)
            if found is None:
                return None
            self._remember(digest, found)
        if counts:
            self._used_sessions[digest] = self.clock.now_s()
        return _at(found, address)

    async def _session_identity(self, digest: str) -> Identity | None:
        def work(tx: Tx) -> tuple[Session | None, User | None]:
            session = tokens.session_of(tx, digest, self.options.sessions)
            return session, users.find_user(tx, session.user) if session else None

        session, user = await self.database.read(work)
        if session is None or user is None or user.disabled or user.version != session.version:
            return None
        actor = Actor(kind="user", name=user.name)
        self._see(actor, self.roles_of(user), user.groups)
        return Identity(
            actor=actor,
            rights=self.rights_of(self.roles_of(user)),
            how="session",
            user=user.name,
            csrf=session.csrf,
            key=digest,
        )

    def _remembered(self, digest: str) -> Identity | None:
        entry = self._known.get(digest)
        return entry[1] if entry is not None and self.clock.monotonic_s() < entry[0] else None

    def _remember(self, digest: str, identity: Identity) -> None:
        self._known[digest] = (self.clock.monotonic_s() + _FRESH_S, identity)
        self._known.move_to_end(digest)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)

    def local_token(self, name: str) -> str:
        """Return a token for the operating system's user `name`, who has asked over the admin socket. It holds for ten
        minutes, in this process only.
        """
        secret = new_secret(LOCAL_PREFIX)
        self._local[digest_of(secret)] = (self.clock.monotonic_s() + _LOCAL_S, local(name))
        while len(self._local) > _LOCAL_KEPT:
            self._local.popitem(last=False)
        return secret

    # -- logging in ----------------------------------------------------------------------------------------------------

    async def login(
        self, name: str, password: str, *, address: str, agent: str, old: str = "", device: str = ""
    ) -> tuple[str, Session]:
        """Return a new session's secret, and the session.

        old: the digest of the session that the browser had, which ends. device: as of authenticate.
        Raises: NotAllowed; TransientError (retry_after_s) while nothing is tried.
        """
        user = await self.authenticate(name, password, address=address, device=device)
        return await self.begin(user, address=address, agent=agent, old=old)

    async def authenticate(self, name: str, password: str, *, address: str, device: str = "") -> User:
        """Return the user whose name and password these are. Takes as long for one who does not exist.

        device: the secret that the browser was given at its last login.
        """
        name = name.strip().lower()[:200]
        place = lockout.Place(address, device)
        wait_s = await self.database.write(lockout.attempt(name, place, self.options.lockout))
        if wait_s > 0:
            raise TransientError(
                "too many failed logins; nothing is tried now", hint=f"wait {wait_s:.0f} s", retry_after_s=wait_s
            )
        user = await self.database.read(lambda tx: users.find_user(tx, name))
        known = user.password if user is not None and not user.disabled and user.source == "local" else ""
        fine = await self.passwords.matches(password, known)
        if user is None or not fine:
            # What was typed is no event: it may be a password in the wrong field.
            shown = user.name if user is not None else "unknown"
            await self.note_refusal(
                Actor(kind="anonymous", name="", address=address),
                "login",
                Subject(noun="user", name=shown),
                "wrong name or password",
            )
            raise NotAllowed("the name or the password is wrong")
        renewed = await self.passwords.hash(password) if self.passwords.outdated(known) else ""

        def work(tx: Tx) -> None:
            lockout.succeeded(tx, name, place)
            if renewed:
                users.renew_hash(name, known, renewed)(tx)

        await self.database.write(work)
        return user

    async def know(self, name: str, device: str) -> None:
        """Remember that this user has logged in with a browser that was given this secret."""
        await self.database.write(lambda tx: lockout.remember(tx, name, lockout.Place(device=device)))

    async def begin(self, user: User, *, address: str, agent: str, old: str = "") -> tuple[str, Session]:
        """Return a session's secret and the session, for somebody who has proved to be this user."""
        secret = new_secret()
        actor = Actor(kind="user", name=user.name, address=address)
        session = await self.database.write(
            tokens.begin_session(actor, secret, user.name, user.version, agent, self.options.sessions, old)
        )
        self._forget()
        return secret, session

    async def logout(self, identity: Identity) -> None:
        await self.database.write(tokens.end_session(identity.actor, identity.key, identity.user))
        self._forget()

    def identity_of(self, user: User, address: str) -> Identity:
        """Return a user who has just proved who it is, without a session."""
        actor = Actor(kind="user", name=user.name, address=address)
        return Identity(actor=actor, rights=self.rights_of(self.roles_of(user)), how="session", user=user.name)

    def provider(self) -> Provider | None:
        """Return the OpenID provider of the options in force, None where there is none."""
        options = self.options.oidc
        if options is None:
            return None
        if self._provider is None or self._provider.options != options:
            self._provider = Provider(options, self.database, self.clock)
        return self._provider

    # -- the first user ------------------------------------------------------------------------------------------------

    def need_setup(self) -> str:
        """Return the one-time code with which the first user can be made; "" where there are users."""
        if self.has_users:
            return ""
        self.setup_code = self.setup_code or new_secret()[:20]
        return self.setup_code

    async def set_up(self, code: str, name: str, password: str, *, address: str) -> User:
        """Make the first user, an admin. Raises: NotAllowed for a wrong code, Conflict where there is a user."""
        if not self.setup_code or not hmac.compare_digest(code.encode(), self.setup_code.encode()):
            await self.note_refusal(
                Actor(kind="anonymous", name="", address=address),
                "create",
                Subject(noun="user", name="first"),
                "wrong code",
            )
            raise NotAllowed("the code is wrong", hint="it stands in the terminal or log where Dogwatch was started")
        actor = msgspec.structs.replace(_SETUP, address=address)
        user = await self._new_user(name, password, ("admin",))
        kept = await self._changed(users.first_user(actor, user))
        self.setup_code = ""
        return kept

    # -- users ---------------------------------------------------------------------------------------------------------

    async def _new_user(self, name: str, password: str, roles: Sequence[str], title: str = "", email: str = "") -> User:
        name = users.proper_name(name)
        self.passwords.require(password, name)
        self.require_roles(roles)
        hashed = await self.passwords.hash(password)
        return User(name=name, title=title[:200], email=email[:200], password=hashed, roles=tuple(roles))

    def require_roles(self, roles: Sequence[str]) -> None:
        """Raises: UsageError for a role that there is not."""
        known = self.options.role_names()
        for role in roles:
            if role not in known:
                raise UsageError(f"there is no role '{role}'", hint=f"known: {', '.join(known)}")

    def require_giveable(self, identity: Identity, roles: Sequence[str]) -> None:
        """Raises: NotAllowed where somebody would give, or get hold of, rights that it has not itself."""
        given = self.rights_of(roles)
        if identity.rights.within(given).table() != given.table():
            raise NotAllowed("you cannot give rights that you do not have yourself")

    async def _changed(self, work: Callable[[Tx], T]) -> T:
        result = await self.database.write(work)
        self._forget()
        self.has_users = await self.database.read(users.any_user)
        return result

    def _admins_left(self, tx: Tx) -> bool:
        """Return whether some user may administer."""
        return any(
            not user.disabled and self.rights_of(self.roles_of(user)).may(_ADMINISTER) for user in users.all_users(tx)
        )

    async def add_user(
        self, actor: Actor, name: str, password: str, roles: Sequence[str], *, title: str = "", email: str = ""
    ) -> User:
        """Raises: UsageError (name, password, role), Conflict."""
        user = await self._new_user(name, password, roles, title, email)

        def work(tx: Tx) -> User:
            if not users.any_user(tx) and not self.rights_of(self.roles_of(user)).may(_ADMINISTER):
                raise Conflict("the first user must be an admin: nobody else could make others", hint="--role admin")
            return users.add_user(actor, user)(tx)

        return await self._changed(work)

    async def set_password(self, actor: Actor, name: str, password: str) -> User:
        self.passwords.require(password, name)
        return await self._changed(users.set_password(actor, name, await self.passwords.hash(password)))

    async def set_roles(self, actor: Actor, name: str, roles: Sequence[str]) -> User:
        self.require_roles(roles)
        return await self._changed(users.set_roles(actor, name, roles, admins_left=self._admins_left))

    async def set_disabled(self, actor: Actor, name: str, *, disabled: bool) -> User:
        return await self._changed(users.set_disabled(actor, name, disabled, admins_left=self._admins_left))

    async def delete_user(self, actor: Actor, name: str) -> None:
        await self._changed(users.delete_user(actor, name, admins_left=self._admins_left))

    async def keep_oidc_user(self, user: User, address: str) -> User:
        """Return the user that an OpenID provider vouches for, made at the first login."""
        actor = Actor(kind="oidc", name=user.name, address=address)
        return await self._changed(users.seen_at_provider(actor, user))

    # -- tokens --------------------------------------------------------------------------------------------------------

    async def add_token(
        self,
        identity: Identity,
        name: str,
        roles: Sequence[str],
        *,
        labels: Mapping[str, str],
        expires_after_s: float | None,
    ) -> tuple[str, Token]:
        """Return a new token's secret, shown this once, and the token. It can do what its owner can, at most.

        Raises: UsageError, NotAllowed for rights that its owner has not.
        """
        if not 1 <= len(name) <= 100:
            raise UsageError("a token's name is 1 to 100 characters")
        if identity.how == "token" and not identity.user:
            raise NotAllowed("a token of this machine cannot make others", hint="log in as a user")
        roles = tuple(roles) or identity.rights.roles
        self.require_roles(roles)
        scope = Rights([role for one in roles if (role := self.options.role(one))], labels)
        if identity.rights.within(scope).table() != scope.table():
            raise NotAllowed("a token cannot do more than who makes it", hint="ask for fewer roles, or for more labels")
        owner = f"user:{identity.user}" if identity.user else str(identity.actor)
        secret = new_secret(TOKEN_PREFIX)
        token = await self.database.write(
            tokens.add_token(
                identity.actor,
                name,
                secret,
                owner=owner,
                roles=roles,
                labels=labels,
                expires_after_s=expires_after_s,
            )
        )
        return secret, token

    async def revoke_token(self, identity: Identity, token_id: str, *, anyones: bool) -> Token:
        owner = None if anyones else f"user:{identity.user}" if identity.user else str(identity.actor)
        return await self._changed(tokens.revoke_token(identity.actor, token_id, owner))


def _at(identity: Identity, address: str) -> Identity:
    if identity.actor.address == address:
        return identity
    return msgspec.structs.replace(identity, actor=msgspec.structs.replace(identity.actor, address=address))


__all__ = ["SYSTEM", "Access"]
