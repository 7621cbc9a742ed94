"""Pages of access: users, tokens, the audit trail."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.access import tokens
from dogwatch.access import users as people
from dogwatch.access.trail import AuditFilter
from dogwatch.errors import UsageError
from dogwatch.web.api.access import anyones_tokens, events_of, user_out
from dogwatch.web.context import Ctx
from dogwatch.web.contributions import Pages, Place
from dogwatch.web.permissions import KNOWN, may
from dogwatch.web.rendering import html_page

_SHOWN = 100
_KEYS = ("actor", "verb", "noun", "name", "outcome")
# A value with spaces stands in quotes.
_PART = re.compile(r'\w+:"[^"]*"|\S+')
Text = Annotated[str, QueryParameter(max_length=500)]


@get("/users", opt=may("user"), include_in_schema=False)
async def users_page(ctx: Ctx) -> Response[bytes]:
    access = ctx.access
    found = await access.database.read(people.all_users)
    values = {
        "users": [user_out(ctx, user) for user in found],
        "roles": access.options.role_names(),
        "least": access.options.password.least,
    }
    return html_page(ctx, "users.html", values, here="/users")


@get("/tokens", opt=KNOWN, include_in_schema=False)
async def tokens_page(ctx: Ctx) -> Response[bytes]:
    own = f"user:{ctx.identity.user}" if ctx.identity.user else str(ctx.actor)
    owner = None if anyones_tokens(ctx, "read") else own
    found = await ctx.access.database.read(lambda tx: tokens.all_tokens(tx, owner))
    return html_page(
        ctx, "tokens.html", {"tokens": found, "roles": ctx.access.options.role_names()}, here="/settings/-"
    )


def parse_search(text: str) -> AuditFilter:
    """Return the filter of a search box: `actor:user:ann verb:"roll back" outcome:refused words`.

    Raises: UsageError for a key without a value.
    """
    found: dict[str, str] = {}
    words = []
    for part in _PART.findall(text):
        key, colon, value = part.partition(":")
        value = value.strip('"')
        if colon and key in _KEYS:
            if not value:
                raise UsageError(f"'{part}' has no value")
            found[key] = value
        else:
            words.append(part)
    return msgspec.convert({**found, "text": " ".join(words)}, AuditFilter)


@get("/audit", opt=may("audit"), include_in_schema=False)
async def audit_page(
    ctx: Ctx, q: Text = "", before: Annotated[int | None, QueryParameter(ge=1, le=2**53)] = None
) -> Response[bytes]:
    mistake = ""
    try:
        wanted = parse_search(q)
    except UsageError as error:
        wanted, mistake = AuditFilter(), str(error)
    wanted = msgspec.structs.replace(wanted, before=before)
    found, total = await events_of(ctx, wanted, _SHOWN + 1)
    shown = found[:_SHOWN]
    values = {
        "entries": shown,
        "total": total,
        "q": q,
        "older": urlencode({"q": q, "before": shown[-1].number}) if len(found) > _SHOWN else "",
        "newest": urlencode({"q": q}) if before is not None else None,
        "mistake": mistake,
    }
    return html_page(ctx, "audit.html", values, here="/audit")


ACCESS = Pages(
    handlers=(users_page, tokens_page, audit_page),
    places=(Place("Users", "/users", "user"), Place("Audit", "/audit", "audit")),
)
