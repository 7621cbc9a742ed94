"""The `access:` section: roles, who has them, how people log in, and how the audit trail is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from dogwatch.access.exporters import EXPORTERS, Exporter
from dogwatch.access.permissions import BUILT_IN, NOUNS, VERBS, Role, Rule
from dogwatch.config.section import Fault, Section
from dogwatch.core.component import nearest
from dogwatch.core.units import Bytes, Seconds, Secret

_DAY_S = 86400.0
_KEY_CHARS = 64


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """Gives roles to one user, or to all members of a group (a group claim of the OpenID provider).

    user: name of a user; "" for none. group: name of a group; "" for none. roles: names of roles, built in or of
    access.roles.
    """

    user: str = ""
    group: str = ""
    roles: tuple[str, ...] = ()


class CertificateBinding(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a client's certificate stands for, once server.tls.client_ca vouches for it; the first that fits counts.

    subject: its common name, with * and ?; "" for any. san: one of its other names, `DNS:agent-*.example`,
    `URI:spiffe://example/agent/*`, `email:ann@example.org`; "" for any. user: a user of this Dogwatch, whose roles it
    has; "" for none. roles: of a program that is no user.
    """

    subject: str = ""
    san: str = ""
    user: str = ""
    roles: tuple[str, ...] = ()

    def fits(self, names: Sequence[str]) -> bool:
        """Return whether it is for a certificate of these names: `CN:agent-1`, `DNS:agent-1.example`…"""
        common = [name[3:] for name in names if name.startswith("CN:")]
        others = [name for name in names if not name.startswith("CN:")]
        subject = not self.subject or any(fnmatchcase(name, self.subject) for name in common)
        return subject and (not self.san or any(fnmatchcase(name, self.san) for name in others))


class PasswordPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What passwords must be, and what checking one may cost.

    least: characters at least. memory, passes: of argon2id; more makes guessing and logging in slower.
    """

    least: Annotated[int, msgspec.Meta(ge=8, le=200)] = 12
    memory: Bytes = 19 * 1024 * 1024
    passes: Annotated[int, msgspec.Meta(ge=1, le=20)] = 2


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How long a login lasts.

    idle: without a request. longest: in all. per_user: sessions of one user at once; the oldest ends.
    """

    idle: Seconds = 12 * 3600.0
    longest: Seconds = 7 * _DAY_S
    per_user: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20


class Lockout(msgspec.Struct, frozen=True, kw_only=True):
    """What failed logins cost. After `failures` of one account (four times as many of one address) each further one
    doubles the time in which nothing is tried.

    failures: that are free. first: the first wait. most: the longest wait. forget: after so long without a failure all
    is forgotten.
    """

    failures: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    first: Seconds = 2.0
    most: Seconds = 900.0
    forget: Seconds = _DAY_S


class OidcOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Login at an OpenID Connect provider: code flow with PKCE.

    issuer: its address, as its configuration document names it. client_id, client_secret: what it knows this Dogwatch
    by. title: on the button. scopes: asked for. name: claim that becomes the user's name. groups: claim with the list
    of groups. allow_groups: only members of one of these may log in; none for everyone. default_roles: of whoever no
    binding names. ca: file with the certificates that vouch for the provider; "" for the machine's own.
    """

    issuer: str
    client_id: str
    client_secret: Secret = ""
    title: str = "Single sign-on"
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    name: str = "preferred_username"
    groups: str = "groups"
    allow_groups: tuple[str, ...] = ()
    default_roles: tuple[str, ...] = ()
    ca: str = ""


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One way off this machine.

    to: file, webhook or syslog. events: send every event, too, not only the signed heads. name: what its progress is
    kept under; "" for what it is and where it goes.
    """

    to: Exporter
    events: bool = False
    name: str = ""

    @property
    def key(self) -> str:
        return self.name or f"{self.to.kind} {getattr(self.to, self.to.short)}"


class AuditOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the audit trail is kept.

    head_every: a head is signed after so many events. head_after: and so long after an event where there are fewer.
    export: where heads go. keep: how long events are kept; 0 for ever. trusted_keys: public keys (audit.pub) of other
    servers on the same database, and of former ones.
    """

    head_every: Annotated[int, msgspec.Meta(ge=1)] = 100
    head_after: Seconds = 60.0
    export: tuple[Export, ...] = ()
    keep: Seconds = 0.0
    trusted_keys: tuple[str, ...] = ()


class AccessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what.

    roles: name → what it allows, beside viewer, operator and admin. bindings: who has which roles, beside those given
    to a user by name. public: what needs no login: `status` (badges), `metrics` (`/metrics`, `/probe`). oidc: login
    elsewhere; none for local users only. certificates: whom clients' certificates stand for (mutual TLS).
    """

    roles: dict[str, tuple[Rule, ...]] = {}
    bindings: tuple[Binding, ...] = ()
    certificates: tuple[CertificateBinding, ...] = ()
    public: tuple[Literal["status", "metrics"], ...] = ("status",)
    password: PasswordPolicy = PasswordPolicy()
    sessions: SessionOptions = SessionOptions()
    lockout: Lockout = Lockout()
    oidc: OidcOptions | None = None
    audit: AuditOptions = AuditOptions()

    def role(self, name: str) -> Role | None:
        rules = self.roles.get(name)
        return Role(name=name, rules=rules) if rules is not None else BUILT_IN.get(name)

    def role_names(self) -> list[str]:
        return [*BUILT_IN, *(name for name in self.roles if name not in BUILT_IN)]


def _check(options: AccessOptions) -> Iterable[Fault]:
    for name, rules in options.roles.items():
        if name in BUILT_IN:
            yield Fault(("roles", name), "is built in and stays as it is; choose another name")
        for at, rule in enumerate(rules):
            yield from _rule_faults(("roles", name, at), rule)
    known = options.role_names()
    for at, binding in enumerate(options.bindings):
        if bool(binding.user) == bool(binding.group):
            yield Fault(("bindings", at), "names either a user or a group")
        for role in binding.roles:
            if role not in known:
                yield Fault(("bindings", at, "roles"), f"there is no role '{role}'", nearest(role, known))
    yield from _certificate_faults(options.certificates, known)
    yield from _oidc_faults(options.oidc, known)
    yield from _audit_faults(options.audit)
    if options.password.memory < 8 * 1024 * 1024:
        yield Fault(("password", "memory"), "must be at least 8MiB")
    if options.sessions.longest < options.sessions.idle:
        yield Fault(("sessions", "longest"), "must not be shorter than idle")


def _certificate_faults(certificates: Sequence[CertificateBinding], known: list[str]) -> Iterable[Fault]:
    for at, one in enumerate(certificates):
        if not one.subject and not one.san:
            yield Fault(("certificates", at), "names neither a subject nor a san; every certificate would fit")
        if bool(one.user) == bool(one.roles):
            yield Fault(("certificates", at), "gives either a user or roles")
        for role in one.roles:
            if role not in known:
                yield Fault(("certificates", at, "roles"), f"there is no role '{role}'", nearest(role, known))


def _rule_faults(path: tuple[str | int, ...], rule: Rule) -> Iterable[Fault]:
    for noun in rule.nouns:
        if noun != "*" and noun not in NOUNS:
            yield Fault((*path, "nouns"), f"there is no noun '{noun}'", nearest(noun, list(NOUNS)))
    for verb in rule.verbs:
        if verb != "*" and verb not in VERBS:
            yield Fault((*path, "verbs"), f"there is no verb '{verb}'", nearest(verb, list(VERBS)))


def _oidc_faults(oidc: OidcOptions | None, known: list[str]) -> Iterable[Fault]:
    if oidc is None:
        return
    parts = urlsplit(oidc.issuer)
    local = (parts.hostname or "") in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and local)):
        yield Fault(("oidc", "issuer"), f"'{oidc.issuer}' is not an https address")
    if "openid" not in oidc.scopes:
        yield Fault(("oidc", "scopes"), "must have 'openid'")
    for role in oidc.default_roles:
        if role not in known:
            yield Fault(("oidc", "default_roles"), f"there is no role '{role}'", nearest(role, known))


def _audit_faults(audit: AuditOptions) -> Iterable[Fault]:
    keys = [export.key for export in audit.export]
    for at, export in enumerate(audit.export):
        for option, why in export.to.faults():
            yield Fault(("audit", "export", at, export.to.kind, option), why)
        if keys.index(export.key) != at:
            yield Fault(("audit", "export", at), "is the same as another; give them different names")
    if 0 < audit.keep < _DAY_S:
        yield Fault(("audit", "keep"), "must be at least 1d, or 0 for ever")
    for at, key in enumerate(audit.trusted_keys):
        if len(key) != _KEY_CHARS or not set(key) <= set("0123456789abcdef"):
            yield Fault(("audit", "trusted_keys", at), "is not a public key of 64 hexadecimal digits")


ACCESS: Section[AccessOptions] = Section(
    key="access",
    type=AccessOptions,
    doc="Who may do what, how people log in, and how the audit trail is kept.",
    default=AccessOptions,
    families={Exporter: EXPORTERS},
    check=_check,
)
