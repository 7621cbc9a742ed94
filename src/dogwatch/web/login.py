"""Logging in and out, and setting up: pages with plain forms, which work without scripts."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from litestar import Request, Response, get, post
from litestar.params import JSONBody

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.oidc import Provider
from dogwatch.access.tokens import Token
from dogwatch.errors import DogwatchError, NotAllowed, NotFound, TransientError, Unreachable
from dogwatch.web.api.models import refusals
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.permissions import FORM, FORM_KNOWN, PUBLIC, same
from dogwatch.web.problems import from_error
from dogwatch.web.rendering import html_page
from dogwatch.web.sessions import (
    device_set,
    login_secret,
    login_set,
    own_path,
    require_form,
    session_removed,
    session_set,
)

Asked = Request[Any, Any, Any]
_TOKEN_S = 30 * 86400.0


def _address(request: Asked) -> str:
    return request.client.host if request.client else ""


def _go(path: str) -> Response[bytes]:
    return Response(b"", status_code=303, headers={"Location": quote(path, safe="/?=&%:+,;@!$'()*~-._#")})


async def _fields(request: Asked) -> dict[str, str]:
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


def _login_page(
    ctx: WebContext, request: Asked, *, error: DogwatchError | None = None, **values: str
) -> Response[bytes]:
    access = ctx.access
    secret, cookie = login_set(request)
    oidc = access.options.oidc
    status = 200 if error is None else from_error(error).status
    answer = html_page(
        ctx,
        "login.html",
        {"form_token": secret, "error": error, "oidc": oidc, "next": "/", "name": "", **values},
        status,
    )
    answer.set_cookie(cookie)
    return answer


@get("/login", opt=PUBLIC, include_in_schema=False)
async def login_page(ctx: Ctx, request: Asked) -> Response[bytes]:
    if not ctx.access.has_users and ctx.access.options.oidc is None:
        return _go("/" if ctx.identity.known else "/setup")
    return _login_page(ctx, request, next=own_path(request.query_params.get("next", "/")))


@post("/login", opt=FORM, status_code=303, include_in_schema=False)
async def login_form(ctx: Ctx, request: Asked) -> Response[bytes]:
    fields = await _fields(request)
    require_form(request, fields.get("form_token", ""))
    target = own_path(fields.get("next", "/"))
    try:
        secret, session = await ctx.access.login(
            fields.get("name", ""),
            fields.get("password", ""),
            address=_address(request),
            agent=request.headers.get("user-agent", ""),
            old=ctx.identity.key if ctx.identity.how == "session" else "",
            device=login_secret(request),
        )
        device, cookie = device_set(request)
        await ctx.access.know(session.user, device)
    except DogwatchError as error:
        return _login_page(ctx, request, error=error, next=target, name=fields.get("name", "")[:100])
    answer = _go(target)
    answer.set_cookie(session_set(request, secret, ctx.access.options.sessions.longest))
    answer.set_cookie(cookie)
    return answer


@post("/logout", opt=FORM_KNOWN, status_code=303, include_in_schema=False)
async def logout(ctx: Ctx, request: Asked) -> Response[bytes]:
    if ctx.identity.how == "session":
        if not same((await _fields(request)).get("csrf", ""), ctx.identity.csrf):
            subject = Subject(noun="user", name=ctx.identity.user)
            await ctx.access.note_refusal(ctx.actor, "logout", subject, "the form is not one of this session")
            return _go("/")
        await ctx.access.logout(ctx.identity)
    answer = _go("/login")
    answer.set_cookie(session_removed(request))
    return answer


# -- the first user ----------------------------------------------------------------------------------------------------


def _setup_page(ctx: WebContext, request: Asked, code: str, error: DogwatchError | None = None) -> Response[bytes]:
    secret, cookie = login_set(request)
    least = ctx.access.options.password.least
    status = 200 if error is None else from_error(error).status
    answer = html_page(ctx, "setup.html", {"form_token": secret, "code": code, "error": error, "least": least}, status)
    answer.set_cookie(cookie)
    return answer


@get("/setup", opt=PUBLIC, include_in_schema=False)
async def setup_page(ctx: Ctx, request: Asked) -> Response[bytes]:
    if ctx.access.has_users:
        return _go("/login")
    return _setup_page(ctx, request, request.query_params.get("code", "")[:100])


@post("/setup", opt=FORM, status_code=303, include_in_schema=False)
async def setup_form(ctx: Ctx, request: Asked) -> Response[bytes]:
    fields = await _fields(request)
    require_form(request, fields.get("form_token", ""))
    code = fields.get("code", "")[:100]
    access, address = ctx.access, _address(request)
    try:
        user = await access.set_up(code, fields.get("name", ""), fields.get("password", ""), address=address)
        secret, _session = await access.begin(user, address=address, agent=request.headers.get("user-agent", ""))
    except DogwatchError as error:
        return _setup_page(ctx, request, code, error)
    answer = _go("/")
    answer.set_cookie(session_set(request, secret, access.options.sessions.longest))
    return answer


# -- OpenID Connect ----------------------------------------------------------------------------------------------------


def _provider(ctx: WebContext) -> Provider:
    provider = ctx.access.provider()
    if provider is None:
        raise NotFound("no OpenID provider is configured", hint="access.oidc names one")
    return provider


def _redirect_uri(ctx: WebContext, request: Asked) -> str:
    base = ctx.options.external_url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"
    return f"{base}/login/oidc/callback"


@get("/login/oidc", opt=PUBLIC, include_in_schema=False)
async def oidc_begin(ctx: Ctx, request: Asked) -> Response[bytes]:
    secret, cookie = login_set(request)
    target = own_path(request.query_params.get("next", "/"))
    try:
        where = await _provider(ctx).begin(secret, _redirect_uri(ctx, request), target)
    except (TransientError, Unreachable) as error:
        return _login_page(ctx, request, error=error, next=target)
    answer = Response(b"", status_code=303, headers={"Location": where})
    answer.set_cookie(cookie)
    return answer


@get("/login/oidc/callback", opt=PUBLIC, include_in_schema=False)
async def oidc_callback(ctx: Ctx, request: Asked) -> Response[bytes]:
    access, address = ctx.access, _address(request)
    try:
        user, target = await _provider(ctx).finish(
            login_secret(request), _redirect_uri(ctx, request), dict(request.query_params)
        )
        kept = await access.keep_oidc_user(user, address)
        if kept.disabled:
            raise NotAllowed("this user is disabled here")
        secret, _session = await access.begin(kept, address=address, agent=request.headers.get("user-agent", ""))
    except DogwatchError as error:
        stranger = Actor(kind="anonymous", name="", address=address)
        await access.note_refusal(stranger, "login", Subject(noun="user", name="oidc"), str(error))
        return _login_page(ctx, request, error=error)
    answer = _go(own_path(target))
    answer.set_cookie(session_set(request, secret, access.options.sessions.longest))
    return answer


# -- for programs ------------------------------------------------------------------------------------------------------


class LoginIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """name, password: of a local user. token_name: what the token will be listed as."""

    name: str
    password: str
    token_name: str = "command line"  # noqa: S105 no secret


class LoginOut(msgspec.Struct, frozen=True, kw_only=True):
    """secret: the token, shown this once."""

    user: str
    secret: str
    token: Token


@post(
    "/api/v1/login",
    opt=PUBLIC,
    status_code=200,
    summary="Exchange a name and password for a token of 30 days",
    responses=refusals(403, 503),
)
async def api_login(ctx: Ctx, request: Asked, data: JSONBody[LoginIn]) -> LoginOut:
    access, address = ctx.access, _address(request)
    user = await access.authenticate(data.name, data.password, address=address)
    identity = access.identity_of(user, address)
    secret, token = await access.add_token(
        identity, data.token_name[:100] or "command line", (), labels={}, expires_after_s=_TOKEN_S
    )
    return LoginOut(user=user.name, secret=secret, token=token)


LOGIN_HANDLERS = (
    login_page,
    login_form,
    logout,
    setup_page,
    setup_form,
    oidc_begin,
    oidc_callback,
    api_login,
)
