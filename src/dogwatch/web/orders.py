"""What every change over the API can carry: `Idempotency-Key`, so that it is made once however often it is sent, and
`If-Match`, so that it is made only to what the caller has seen.

Starts of runs keep their keys themselves, as long as the run is kept (`keyed`); all others are kept for a day here. A
key belongs to who asks, to the address and to the body.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import AsyncIterator, Iterable, Set
from typing import Any

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import HeaderParameter
from litestar.types import ASGIApp

from dogwatch.access import repeats
from dogwatch.access.conditions import Condition, mark_of, under
from dogwatch.access.permissions import Permission
from dogwatch.errors import Conflict, DogwatchError
from dogwatch.store.database import Database
from dogwatch.web.api.models import refusals
from dogwatch.web.guard import Message, Receive, Scope, Send
from dogwatch.web.permissions import IDENTITY, Gate
from dogwatch.web.problems import WebRefusal, used_otherwise
from dogwatch.web.tags import fits, tag

log = logging.getLogger(__name__)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_KEY_LENGTH = 200
_TRIM_EVERY = 100
# Of a handler's `opt`: what it changes is shown one segment above.
_BELOW = "below"
# So long an answer may take; afterwards nobody knows what became of the change.
_UNDER_WAY_S = 60.0
_KEPT_HEADERS = (b"content-type", b"etag", b"location")
_KEY = HeaderParameter(
    name="Idempotency-Key",
    annotation=str | None,
    required=False,
    max_length=_KEY_LENGTH,
    description="Sent again with it within a day, the change is not made again; the answer is the first one's",
)
_MATCH = HeaderParameter(
    name="If-Match",
    annotation=str | None,
    required=False,
    max_length=500,
    description="ETag that it must still have; else nothing is done",
)


def changes(handler: HTTPRouteHandler) -> bool:
    """Return whether a handler of the API changes something for somebody who is known."""
    wanted = (handler.opt or {}).get("permission")
    if wanted == "public" or not handler.http_methods - _SAFE:
        return False
    return not (isinstance(wanted, Permission) and wanted.verb == "read")


def ordered(handlers: Iterable[HTTPRouteHandler], database: Database | None, gate: Gate) -> list[HTTPRouteHandler]:
    """Return the API's handlers, with those that change something behind Orders."""
    known = list(handlers)
    shown = {path for one in known if "GET" in one.http_methods for path in one.paths}
    orders = Orders(database, gate)
    return [_carrying(one, orders, shown) if changes(one) else one for one in known]


def _carrying(handler: HTTPRouteHandler, orders: Orders, shown: Set[str]) -> HTTPRouteHandler:
    changed: Any = copy.copy(handler)  # each application has its own
    changed.middleware = [orders.around]
    # `…/runs/r1/cancel` changes what `…/runs/r1` shows.
    changed.opt = {**changed.opt, _BELOW: not handler.paths & shown}
    changed.parameters = {"if_match": _MATCH}
    if not changed.opt.get("keyed"):
        changed.parameters["repeat_key"] = _KEY
    changed.responses = {**refusals(409, 412, 422, 503), **(changed.responses or {})}
    known: HTTPRouteHandler = changed
    return known


class Orders:
    """database: where keys are kept; None: nowhere, and they are not looked at. gate: who may call what."""

    def __init__(self, database: Database | None, gate: Gate) -> None:
        self._database = database
        self._gate = gate
        self._claims = 0

    def around(self, app: ASGIApp) -> ASGIApp:
        async def called(scope: Any, receive: Any, send: Any) -> None:
            await self._handle(app, scope, receive, send)

        return called

    async def _handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        key = headers.get(b"idempotency-key", b"").decode("latin-1")
        match = headers.get(b"if-match", b"").decode("latin-1")
        handler = scope["route_handler"]
        opt = handler.opt
        if key or match:
            # Before anything is told: what was answered the first time is for whoever may ask for it now.
            await self._gate(Request(scope), handler)  # type: ignore[arg-type]
        once = key and self._database is not None and not opt.get("keyed") and scope[IDENTITY].known
        async with self._unchanged(scope, match):
            if once and len(key) <= _KEY_LENGTH:
                await self._once(app, scope, receive, send, key)
            else:
                await app(scope, receive, send)

    # -- If-Match ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _unchanged(self, scope: Scope, match: str) -> AsyncIterator[None]:
        """Let the change be made only to what the caller has seen. Compared here is what `GET` shows; that nobody is
        faster after that, in the transaction of the change. A change without a tag tells those with one, too.

        Raises: WebRefusal where it is not as the caller has seen it.
        """
        path = scope["path"]
        thing = path.rpartition("/")[0] if scope["route_handler"].opt[_BELOW] else path
        mark = await self._database.read(mark_of(thing)) if match and self._database is not None else None
        if match:
            status, known = await _shown(scope, thing)
            if status != 200 or not fits(match, known):
                raise WebRefusal(412, "it changed meanwhile", hint="look at it again")
        if self._database is None:
            yield
            return
        condition = Condition(thing, mark)
        identity = scope[IDENTITY]
        scope[IDENTITY] = msgspec.structs.replace(identity, actor=under(identity.actor, condition))
        try:
            yield
        finally:
            condition.end()

    # -- Idempotency-Key -----------------------------------------------------------------------------------------------

    async def _once(self, app: Any, scope: Scope, receive: Receive, send: Send, key: str) -> None:
        database = self._database
        assert database is not None
        body = await _whole(receive)
        asked = (str(scope[IDENTITY].actor), scope["method"], scope["path"], scope["query_string"].decode("latin-1"))
        mark = repeats.scope_of(*asked, key)
        self._claims += 1
        known = await database.write(repeats.claim(mark, body, trim=self._claims % _TRIM_EVERY == 0))
        if known is not None:
            await _again(known, send)
            return
        held: list[Message] = []
        await app(scope, _given(body, receive), _holding(held))
        status, headers, content = _answered(held)
        try:
            if status < 400:
                secret = bool(scope["route_handler"].opt.get("secret"))
                await database.write(repeats.keep(mark, status, headers, None if secret else content))
            else:
                await database.write(repeats.forget(mark))
        except DogwatchError as error:
            log.error("how a change under an idempotency key ended is not written down: %s", error)
        for message in held:
            await send(message)


async def _shown(scope: Scope, path: str) -> tuple[int, str]:
    """Return the status and the tag with which an address is shown to who asks."""
    headers = [pair for pair in scope["headers"] if pair[0] in (b"host", b"cookie", b"authorization")]
    asked = {
        name: scope[name]
        for name in ("type", "asgi", "http_version", "scheme", "server", "client", "root_path", IDENTITY)
        if name in scope
    }
    asked |= {
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "state": {},
    }
    held: list[Message] = []
    await scope["litestar_app"](asked, _given(b"", _never), _holding(held))
    status, found, content = _answered(held)
    return status, found.get("etag") or tag(content)


async def _again(known: repeats.Repeat, send: Send) -> None:
    """Answer as the first time. Raises: Conflict, WebRefusal."""
    if not known.same:
        raise used_otherwise()
    if known.status == 0:
        if known.age_s < _UNDER_WAY_S:
            raise Conflict("the first request with this Idempotency-Key is under way", hint="ask again in a moment")
        raise Conflict(
            "nobody knows how the first request with this Idempotency-Key ended",
            hint="look whether the change was made; if not, send it with another key",
        )
    if known.answer is None:
        raise Conflict("the change was made the first time; its answer is not kept")
    headers = [(name.encode(), value.encode("latin-1")) for name, value in known.headers.items()]
    headers += [(b"idempotency-replayed", b"true"), (b"content-length", str(len(known.answer)).encode())]
    await send({"type": "http.response.start", "status": known.status, "headers": headers})
    await send({"type": "http.response.body", "body": known.answer})


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _never() -> Message:
    return {"type": "http.disconnect"}


def _given(body: bytes, after: Receive) -> Receive:
    """Return receive for a body that has been read."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await after()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _holding(held: list[Message]) -> Send:
    async def send(message: Message) -> None:
        held.append(message)

    return send


def _answered(held: list[Message]) -> tuple[int, dict[str, str], bytes]:
    """Return status, those headers that are kept, and the body."""
    start = held[0]
    headers = {
        name.lower().decode(): value.decode("latin-1")
        for name, value in start.get("headers", ())
        if name.lower() in _KEPT_HEADERS
    }
    return start["status"], headers, b"".join(message.get("body", b"") for message in held[1:])
