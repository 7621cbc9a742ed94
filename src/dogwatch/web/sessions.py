"""Cookies of logins and sessions, and where a browser may be sent."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.datastructures import Cookie

from dogwatch.access.tokens import new_secret
from dogwatch.web.permissions import same
from dogwatch.web.problems import WebRefusal
from dogwatch.web.recognise import COOKIE, SECURE_COOKIE

Asked = Request[Any, Any, Any]
_LOGIN = "dogwatch_login"
_SECURE_LOGIN = "__Host-dogwatch_login"
# As long as the place is remembered (access/lockout.py).
_DEVICE_S = 90 * 86400


def is_secure(request: Asked) -> bool:
    return request.scope.get("scheme") == "https"


def session_set(request: Asked, secret: str, longest_s: float) -> Cookie:
    name = SECURE_COOKIE if is_secure(request) else COOKIE
    return Cookie(
        key=name,
        value=secret,
        max_age=int(longest_s),
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )


def session_removed(request: Asked) -> Cookie:
    name = SECURE_COOKIE if is_secure(request) else COOKIE
    return Cookie(key=name, value="", max_age=0, path="/", secure=is_secure(request), httponly=True, samesite="lax")


def login_secret(request: Asked) -> str:
    """Return the secret of a browser that is about to log in, or "": its forms must repeat it."""
    return request.cookies.get(_SECURE_LOGIN if is_secure(request) else _LOGIN, "")[:200]


def login_set(request: Asked) -> tuple[str, Cookie]:
    """Return the browser's secret, a new one where it has none, and its cookie."""
    secret = login_secret(request) or new_secret()
    return secret, _login_cookie(request, secret)


def device_set(request: Asked) -> tuple[str, Cookie]:
    """Return a new secret for a browser that has logged in, and its cookie. Another than before: what somebody else may
    have put there is worth nothing afterwards.
    """
    secret = new_secret()
    return secret, _login_cookie(request, secret)


def _login_cookie(request: Asked, secret: str) -> Cookie:
    # Lax, not strict: an OpenID provider sends the browser back from another site.
    return Cookie(
        key=_SECURE_LOGIN if is_secure(request) else _LOGIN,
        value=secret,
        max_age=_DEVICE_S,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )


def require_form(request: Asked, given: str) -> None:
    """Raises: WebRefusal where a form of somebody not logged in is not one that this browser was given."""
    if not same(given, login_secret(request)):
        raise WebRefusal(403, "the page is too old, or cookies are refused", hint="load it again")


def own_path(text: str) -> str:
    """Return a place on this site to go to; anything else becomes the first page."""
    fine = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if fine and len(text) <= 2000 and not text.startswith(("/login", "/logout", "/setup")) else "/"
