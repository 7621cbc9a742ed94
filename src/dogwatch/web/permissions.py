"""What each route asks for. A route that does not say so keeps the application from starting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.handlers import HTTPRouteHandler
from litestar.handlers.base import BaseRouteHandler
from litestar.routes import BaseRoute

from dogwatch.access.actor import Subject
from dogwatch.access.identity import Identity
from dogwatch.access.permissions import NOUNS, VERBS, Permission, allows
from dogwatch.access.service import Access
from dogwatch.web.problems import WebRefusal

_KEY = "permission"
# Where the guard leaves who asks.
IDENTITY = "dogwatch.identity"
# Where the guard leaves what finds that out again: streams last long.
AGAIN = "dogwatch.again"
STREAMS = ("/events", "/follow", "/tail")
# Where handlers leave what they refused: (noun, verb, labels).
REFUSALS = "dogwatch.refusals"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "x-csrf-token"

# `opt=PUBLIC`: for everyone. `opt=KNOWN`: for whoever is logged in, for what is theirs. `opt=FORM`: public, and the
# handler looks at the form's own token.
PUBLIC: dict[str, Any] = {_KEY: "public"}
KNOWN: dict[str, Any] = {_KEY: "known"}
# Its answer holds a secret, which is kept nowhere.
KNOWN_SECRET: dict[str, Any] = {_KEY: "known", "secret": True}
FORM: dict[str, Any] = {_KEY: "public", "form": True}
FORM_KNOWN: dict[str, Any] = {_KEY: "known", "form": True}


# Things without labels, or whose labels nothing looks at yet: whoever is limited to some labels has none of it.
_WHOLE = frozenset({"user", "token", "role", "program", "worker", "notification"})


def may(noun: str, verb: str = "read", *, public: str = "", whole: bool = False, keyed: bool = False) -> dict[str, Any]:
    """Return a handler's `opt`: who may call it.

    public: for everyone where `access.public` names this. whole: what is done is not about single things with labels,
    and so nothing for whoever is limited to some; else the handler must look at the labels of each thing (ctx.require,
    visible). keyed: it keeps idempotency keys itself (orders.py).
    """
    if noun not in NOUNS or verb not in VERBS:
        raise ValueError(f"there is no permission {noun}:{verb}; access/permissions.py lists them")
    return {_KEY: Permission(noun, verb), "public": public, "whole": whole or noun in _WHOLE, "keyed": keyed}


def undeclared(app: Litestar) -> list[str]:
    """Return the routes that do not say who may call them."""
    return sorted(
        {
            f"{method} {route.path}"
            for route, method, opt in routes(app)
            if not isinstance(opt.get(_KEY), Permission | str)
        }
    )


def routes(app: Litestar) -> list[tuple[BaseRoute, str, dict[str, Any]]]:
    """Return every route with its method and its handler's `opt`. Litestar answers OPTIONS itself."""
    return [
        (route, str(method), dict(getattr(handler, "opt", {})))
        for route in app.routes
        for handler in getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]
        for method in sorted(getattr(handler, "http_methods", None) or ["ANY"])
        if method != "OPTIONS"
    ]


def declared(app: Litestar, gate: Gate) -> None:
    """Raises: RuntimeError naming the routes that say nothing, or that do not go through the gate."""
    missing = undeclared(app)
    if missing:
        raise RuntimeError(f"routes without a permission (opt=may(…) or PUBLIC): {', '.join(missing)}")
    missing = [path for path, before in _begun(app) if before != gate.before]
    if missing:
        raise RuntimeError(f"routes that do not go through the gate: {', '.join(missing)}")


def _begun(app: Litestar) -> Iterator[tuple[str, Any]]:
    """Yield every route's path with what is done before it. Litestar answers OPTIONS itself."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]:
            if isinstance(handler, HTTPRouteHandler):
                if handler.http_methods != {"OPTIONS"}:
                    yield route.path, handler.resolve_before_request()
            else:
                yield route.path, None


class Gate:
    """Stands before all routes: knows who asks (the guard around the application found out), refuses whoever
    may not, and records refused changes.
    """

    def __init__(self, access: Access | None) -> None:
        self._access = access

    async def before(self, request: Request[Any, Any, Any]) -> None:
        """Be asked before each handler."""
        await self(request, request.route_handler)

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        method = connection.scope.get("method", "GET")
        if method == "OPTIONS":
            return
        wanted = handler.opt[_KEY]
        identity: Identity = connection.scope[IDENTITY]  # type: ignore[literal-required]
        if identity.how == "session" and method not in _SAFE and not handler.opt.get("form"):
            self._require_csrf(connection, identity)
        if wanted == "public" or (self._access and handler.opt.get("public") in self._access.options.public):
            return
        if isinstance(wanted, Permission):
            fine = allows(identity.rights, wanted) if handler.opt.get("whole") else identity.rights.may(wanted)
            if fine:
                return
            if wanted.verb != "read" and self._access is not None:
                subject = Subject(noun=wanted.noun, name=connection.url.path[:500])
                await self._access.note_refusal(identity.actor, wanted.verb, subject, f"needs {wanted}")
        elif identity.known:
            return
        if not identity.known:
            raise not_logged_in(self._access)
        raise WebRefusal(403, "you may not do that", hint=f"it needs the permission {wanted}")

    def _require_csrf(self, connection: ASGIConnection[Any, Any, Any, Any], identity: Identity) -> None:
        if not same(connection.headers.get(CSRF_HEADER, ""), identity.csrf):
            raise WebRefusal(403, "the page is too old, or the request comes from another site", hint="load it again")


def not_logged_in(access: Access | None) -> WebRefusal:
    if access is not None and not access.has_users:
        return WebRefusal(401, "Dogwatch is not set up yet", hint="open the set-up link that its terminal or log shows")
    return WebRefusal(401, "log in first", hint="send a token, or log in with 'dogwatch login'")


def same(given: str, known: str) -> bool:
    import hmac

    return bool(known) and hmac.compare_digest(given.encode("utf-8", "replace"), known.encode())
