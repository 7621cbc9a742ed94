"""`/api/v1`: users, tokens, roles, who one is, and the audit trail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter, SkipValidation
from litestar.response import Stream

from dogwatch.access import tokens, users
from dogwatch.access.chain import Head, Verdict
from dogwatch.access.heads import newest_heads
from dogwatch.access.permissions import NOUNS, VERBS, Permission, Rule, allows, everything, visible
from dogwatch.access.tokens import Token
from dogwatch.access.trail import AuditFilter, Entry, find, lines, total
from dogwatch.access.users import User
from dogwatch.errors import NotFound, UsageError
from dogwatch.web.api.models import Handled, Limit, refusals
from dogwatch.web.api.paging import Cursor, Listed, Page, counted, numbered
from dogwatch.web.context import Ctx, WebContext, segment
from dogwatch.web.encoding import SafeResponse
from dogwatch.web.permissions import KNOWN, KNOWN_SECRET, may
from dogwatch.web.tags import steady

Who = Annotated[str, QueryParameter(max_length=500, description="Who: `user:ann`, or the beginning, `user:`")]
Verb = Annotated[str, QueryParameter(max_length=500, description="What was done: pause, create, login…")]
Noun = Annotated[str, QueryParameter(max_length=500, description="On what kind of thing: probe, user, token…")]
Thing = Annotated[str, QueryParameter(max_length=500, description="On which one")]
Outcome = Annotated[str, QueryParameter(max_length=500, description="How it ended: done, refused, failed, begun")]
Anywhere = Annotated[str, QueryParameter(max_length=500, description="Anywhere in the event")]
Name = Annotated[str, PathParameter(max_length=200)]
Since = Annotated[float | None, QueryParameter(ge=0, le=1e11, description="Not older than this")]
Until = Annotated[float | None, QueryParameter(ge=0, le=1e11, description="Older than this")]
_Password = Annotated[str, msgspec.Meta(max_length=1000)]
_Roles = Annotated[list[str], msgspec.Meta(max_length=50)]


class UserOut(msgspec.Struct, frozen=True, kw_only=True):
    """A user. roles: all that it has now, by name and by bindings; given: those given by name."""

    name: str
    title: str
    email: str
    source: str
    disabled: bool
    roles: list[str]
    given: list[str]
    groups: list[str]
    created_s: float
    password_s: float
    login_s: float | None


def user_out(ctx: Ctx, user: User) -> UserOut:
    return UserOut(
        name=user.name,
        title=user.title,
        email=user.email,
        source=user.source,
        disabled=user.disabled,
        roles=list(ctx.access.roles_of(user)),
        given=list(user.roles),
        groups=list(user.groups),
        created_s=user.created_s,
        password_s=user.password_s,
        login_s=user.login_s,
    )


class MeOut(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. permissions: `noun:verb` → the label sets that it holds for; an empty set is everything."""

    actor: str
    how: str
    user: str
    roles: list[str]
    permissions: dict[str, list[dict[str, str]]]


@get("/api/v1/me", opt=KNOWN, summary="Who one is, and what one may do", responses=refusals(401))
async def show_me(ctx: Ctx) -> MeOut:
    one = ctx.identity
    return MeOut(
        actor=str(one.actor), how=one.how, user=one.user, roles=list(one.rights.roles), permissions=one.rights.table()
    )


# -- users -------------------------------------------------------------------------------------------------------------


class NewUserIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new local user is. name: lower case letters, digits and . _ @ + -"""

    name: Annotated[str, msgspec.Meta(max_length=200)]
    password: _Password
    roles: _Roles = []
    title: Annotated[str, msgspec.Meta(max_length=200)] = ""
    email: Annotated[str, msgspec.Meta(max_length=200)] = ""


class PasswordIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new password. current: the one until now; needed for one's own."""

    password: _Password
    current: _Password = ""


class RolesIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """roles: the new list, in place of the old."""

    roles: _Roles


@get("/api/v1/users", opt=may("user"), summary="Users", responses=refusals(401, 403))
async def list_users(ctx: Ctx, paging: Page) -> Listed[UserOut]:
    found = await ctx.access.database.read(users.all_users)
    return paging.page((user_out(ctx, user) for user in found), lambda one: one.name)


@get("/api/v1/users/{name:str}", opt=may("user"), summary="One user", responses=refusals(401, 403, 404))
async def show_user(ctx: Ctx, name: Name) -> UserOut:
    known = segment(name)
    return user_out(ctx, await ctx.access.database.read(lambda tx: users.the_user(tx, known)))


@post("/api/v1/users", opt=may("user", "create"), summary="Make a user", responses=refusals(401, 403, 409))
async def add_user(ctx: Ctx, data: JSONBody[NewUserIn]) -> UserOut:
    # Whoever may make users but not change rights must not make themselves an admin.
    ctx.access.require_giveable(ctx.identity, data.roles)
    return user_out(
        ctx,
        await ctx.access.add_user(ctx.actor, data.name, data.password, data.roles, title=data.title, email=data.email),
    )


def _changing(verb: str, summary: str) -> Handled:
    """Return what makes a function the handler of a change of one user."""
    return post(
        f"/api/v1/users/{{name:str}}/{verb}",
        opt=may("user", "change"),
        status_code=200,
        summary=summary,
        responses=refusals(401, 403, 404, 409),
    )


@_changing("disable", "Keep a user from logging in; its sessions end, its tokens are void meanwhile")
async def disable_user(ctx: Ctx, name: Name) -> UserOut:
    return user_out(ctx, await ctx.access.set_disabled(ctx.actor, segment(name), disabled=True))


@_changing("enable", "Let a disabled user log in again")
async def enable_user(ctx: Ctx, name: Name) -> UserOut:
    return user_out(ctx, await ctx.access.set_disabled(ctx.actor, segment(name), disabled=False))


@_changing("roles", "Give a user other roles")
async def set_roles(ctx: Ctx, name: Name, data: JSONBody[RolesIn]) -> UserOut:
    ctx.access.require_giveable(ctx.identity, data.roles)
    return user_out(ctx, await ctx.access.set_roles(ctx.actor, segment(name), data.roles))


@_changing("password", "Give a user another password; its sessions end")
async def set_password(ctx: Ctx, name: Name, data: JSONBody[PasswordIn]) -> UserOut:
    known = segment(name)
    user = await ctx.access.database.read(lambda tx: users.the_user(tx, known))
    # Whoever puts a password in place can log in with it.
    ctx.access.require_giveable(ctx.identity, ctx.access.roles_of(user))
    return user_out(ctx, await ctx.access.set_password(ctx.actor, known, data.password))


@post(
    "/api/v1/me/password",
    opt=KNOWN,
    status_code=200,
    summary="Change one's own password; all one's sessions end",
    responses=refusals(401, 403, 409),
)
async def set_own_password(ctx: Ctx, data: JSONBody[PasswordIn]) -> UserOut:
    if not ctx.identity.user or ctx.identity.how != "session":
        raise UsageError("only somebody who is logged in has a password to change")
    user = await ctx.access.authenticate(ctx.identity.user, data.current, address=ctx.actor.address)
    return user_out(ctx, await ctx.access.set_password(ctx.actor, user.name, data.password))


@delete(
    "/api/v1/users/{name:str}",
    opt=may("user", "delete"),
    status_code=200,
    summary="Remove a user, with its sessions and tokens",
    responses=refusals(401, 403, 404, 409),
)
async def delete_user(ctx: Ctx, name: Name) -> None:
    await ctx.access.delete_user(ctx.actor, segment(name))


# -- tokens ------------------------------------------------------------------------------------------------------------


class NewTokenIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new token is. roles: none for all that one has. labels: what everything it touches must carry.

    expires_after_s: seconds; null for never.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    roles: _Roles = []
    labels: Annotated[dict[str, str], msgspec.Meta(max_length=20)] = {}
    expires_after_s: Annotated[float, msgspec.Meta(gt=0, le=1e10)] | None = 90 * 86400.0


class NewTokenOut(msgspec.Struct, frozen=True, kw_only=True):
    """secret: shown this once; only its digest is kept."""

    secret: str
    token: Token


def anyones_tokens(ctx: WebContext, verb: str) -> bool:
    """Return whether one may do that to tokens of others. They have no labels: whoever is limited to some may not."""
    return allows(ctx.rights, Permission("token", verb))


def _owner(ctx: Ctx) -> str:
    return f"user:{ctx.identity.user}" if ctx.identity.user else str(ctx.actor)


@get("/api/v1/tokens", opt=KNOWN, summary="One's own tokens; all of them with token:read", responses=refusals(401, 403))
async def list_tokens(ctx: Ctx, paging: Page) -> Listed[Token]:
    owner = None if anyones_tokens(ctx, "read") else _owner(ctx)
    found = await ctx.access.database.read(lambda tx: tokens.all_tokens(tx, owner))
    return paging.page(found, lambda one: one.id)


@post("/api/v1/tokens", opt=KNOWN_SECRET, summary="Make a token for oneself", responses=refusals(401, 403))
async def add_token(ctx: Ctx, data: JSONBody[NewTokenIn]) -> NewTokenOut:
    secret, token = await ctx.access.add_token(
        ctx.identity, data.name, data.roles, labels=data.labels, expires_after_s=data.expires_after_s
    )
    return NewTokenOut(secret=secret, token=token)


@get(
    "/api/v1/tokens/{token_id:str}",
    opt=KNOWN,
    summary="One token: one's own, or with token:read anyone's",
    responses=refusals(401, 403, 404),
)
async def show_token(ctx: Ctx, token_id: Name) -> Response[Token]:
    known, owner = segment(token_id), None if anyones_tokens(ctx, "read") else _owner(ctx)
    found = [one for one in await ctx.access.database.read(lambda tx: tokens.all_tokens(tx, owner)) if one.id == known]
    if not found:
        raise NotFound(f"there is no token '{known}'")
    # That it is used does not change what it is.
    return SafeResponse(found[0], headers=steady(found[0], "used_s", "used_from"))


@post(
    "/api/v1/tokens/{token_id:str}/revoke",
    opt=KNOWN,
    status_code=200,
    summary="End a token: one's own, or with token:delete anyone's",
    responses=refusals(401, 403, 404),
)
async def revoke_token(ctx: Ctx, token_id: Name) -> Token:
    anyones = anyones_tokens(ctx, "delete")
    return await ctx.access.revoke_token(ctx.identity, segment(token_id), anyones=anyones)


# -- roles -------------------------------------------------------------------------------------------------------------


class RoleOut(msgspec.Struct, frozen=True, kw_only=True):
    """A role. built_in: it cannot be changed."""

    name: str
    built_in: bool
    rules: Sequence[Rule]


class RolesOut(msgspec.Struct, frozen=True, kw_only=True):
    """nouns and verbs: what rules may be made of. total: matches on all pages. next_cursor: "" on the last."""

    items: list[RoleOut]
    total: int
    next_cursor: str
    nouns: dict[str, str]
    verbs: dict[str, str]


@get("/api/v1/roles", opt=may("role"), summary="Roles, and what they are made of", responses=refusals(401, 403))
async def list_roles(ctx: Ctx, paging: Page) -> RolesOut:
    options = ctx.access.options
    found = [
        RoleOut(name=one.name, built_in=one.name not in options.roles, rules=one.rules) for one in ctx.access.roles()
    ]
    page = paging.page(found, lambda one: one.name)
    return RolesOut(
        items=page.items, total=page.total, next_cursor=page.next_cursor, nouns=dict(NOUNS), verbs=dict(VERBS)
    )


# -- audit -------------------------------------------------------------------------------------------------------------


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. total: matches on all pages, 10000 for 10,000 or more; null behind the first page, for text, and
    for whoever may see only some. next_cursor: "" on the last page.
    """

    items: list[Entry]
    total: int | None = None
    next_cursor: str = ""


def audit_filter(
    actor: Who = "",
    verb: Verb = "",
    noun: Noun = "",
    name: Thing = "",
    outcome: Outcome = "",
    text: Anywhere = "",
    since_s: Since = None,
    until_s: Until = None,
) -> AuditFilter:
    """Provided to every handler that asks for `events`."""
    return AuditFilter(
        actor=actor, verb=verb, noun=noun, name=name, outcome=outcome, text=text, since_s=since_s, until_s=until_s
    )


# Handlers name this parameter `events`; the application provides it.
Events = NamedDependency[SkipValidation[AuditFilter]]


@get("/api/v1/audit", opt=may("audit"), summary="Search the audit trail", responses=refusals(401, 403))
async def list_audit(
    ctx: Ctx,
    events: Events,
    cursor: Cursor = "",
    limit: Limit = 100,
) -> AuditPage:
    wanted = msgspec.structs.replace(events, before=counted("audit", cursor))
    found, matching = await events_of(ctx, wanted, limit + 1)
    more = len(found) > limit
    following = numbered("audit", found[limit - 1].number if more else None)
    return AuditPage(items=found[:limit], total=matching, next_cursor=following)


async def events_of(ctx: WebContext, wanted: AuditFilter, limit: int) -> tuple[list[Entry], int | None]:
    """Return events that the one who asks may see, newest first, and how many match where that is told: on the first
    page, where all may be seen, and never of text, which is looked for in each event.
    """
    sees = visible(ctx.rights, "audit")
    search, count = find(wanted, limit, sees), total(wanted)
    counts = sees is everything and wanted.before is None and not wanted.text
    return await ctx.access.database.read(lambda tx: (search(tx), count(tx) if counts else None))


@get(
    "/api/v1/audit/export",
    opt=may("audit"),
    summary="The audit trail as JSON Lines, newest first",
    responses={
        200: ResponseSpec(str, media_type="application/x-ndjson", generate_examples=False),
        **refusals(401, 403),
    },
)
async def export_audit(
    ctx: Ctx,
    events: Events,
) -> Stream:
    found = lines(ctx.access.database, events, visible(ctx.rights, "audit"))
    # Before the answer begins: what keeps it from being read can still be said.
    first = await anext(found, b"")

    async def parts() -> AsyncIterator[bytes]:
        yield first
        async for part in found:
            yield part

    return Stream(parts(), media_type="application/x-ndjson")


class VerifyIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """heads: signed heads that were kept elsewhere."""

    heads: Annotated[list[Head], msgspec.Meta(max_length=10_000)] = []


@post(
    "/api/v1/audit/verify",
    opt=may("audit", whole=True),
    status_code=200,
    summary="Follow the whole audit trail, against its signed heads and those given",
    responses=refusals(401, 403),
)
async def verify_audit(ctx: Ctx, data: JSONBody[VerifyIn]) -> Verdict:
    return await ctx.access.keeper.verify(data.heads)


class HeadsOut(msgspec.Struct, frozen=True, kw_only=True):
    """public_key: of this server; keep it elsewhere. behind: exporters that cannot be reached, and why."""

    public_key: str
    heads: list[Head]
    behind: dict[str, str]


@get("/api/v1/audit/heads", opt=may("audit", whole=True), summary="Newest signed heads", responses=refusals(401, 403))
async def list_heads(ctx: Ctx, limit: Limit = 100) -> HeadsOut:
    keeper = ctx.access.keeper
    found = await ctx.access.database.read(lambda tx: newest_heads(tx, limit))
    return HeadsOut(public_key=keeper.signer.public, heads=found, behind=dict(keeper.behind))


ACCESS_HANDLERS = (
    show_me,
    list_users,
    show_user,
    add_user,
    disable_user,
    enable_user,
    set_roles,
    set_password,
    set_own_password,
    delete_user,
    list_tokens,
    show_token,
    add_token,
    revoke_token,
    list_roles,
    list_audit,
    export_audit,
    verify_audit,
    list_heads,
)
