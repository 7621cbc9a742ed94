"""What stands before every request: who may ask, how much, and which headers every answer carries.

A plain ASGI wrapper around the application, so that nothing, an error page included, goes round it.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
import zlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from dogwatch.access.actor import Subject
from dogwatch.access.identity import Identity, anonymous
from dogwatch.access.permissions import Permission, allows
from dogwatch.access.recording import NOTED
from dogwatch.access.service import Access
from dogwatch.errors import DogwatchError
from dogwatch.web import problems
from dogwatch.web.encoding import encode_json
from dogwatch.web.meter import Meter, route
from dogwatch.web.options import WebOptions, is_loopback
from dogwatch.web.permissions import AGAIN, IDENTITY, REFUSALS, STREAMS
from dogwatch.web.rates import Rates
from dogwatch.web.recognise import Recogniser
from dogwatch.web.tags import fits, tag

log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# What pages may load: what is ours; of style sheets inside a page, ours by its digest.
_CONTENT_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; "
    "script-src 'self'; style-src 'self'{styles}; img-src 'self'; connect-src 'self'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_QUERY_LIMIT = 16 * 1024
# The most that a webhook's endpoint may allow itself (webhooks/section.py), and that is read of a heartbeat's body.
_OWN_LIMIT = 64 * 1024 * 1024
# What is still read of a body that is refused, and how long a caller has to notice.
_DROPPED, _LINGER_S = 256 * 1024, 1.0
_TOO_LARGE, _NOT_FOUND = 413, 404
# Answers that say no to a change. Whoever calls a webhook or sends a heartbeat is refused by that, and it counts them.
_REFUSED = frozenset({401, 403, _NOT_FOUND})
_UNHEARD = ("/ping/", "/hooks/")
_PACK_FROM = 1024
_PACK_SLICE = 128 * 1024
_PACKED_TYPES = (b"text/", b"application/json", b"application/problem+json", b"application/openmetrics", b"image/svg")


class Guard:
    """access: who may do what; without it, whoever is on this machine may do everything. styles: digest of the style
    sheet that pages carry in themselves.
    """

    def __init__(
        self,
        inner: Application,
        options: WebOptions,
        meter: Meter,
        access: Access | None = None,
        *,
        styles: str = "",
    ) -> None:
        self._inner = inner
        policy = _CONTENT_POLICY.format(styles=f" '{styles}'" if styles else "")
        self._headers = ((b"content-security-policy", policy.encode()), *_HEADERS)
        self._access = access
        self._recognise = Recogniser(options, access)
        self._meter = meter
        self._options = options
        external = urlsplit(options.external_url)
        self._hosts = frozenset(name.lower() for name in (*options.allowed_hosts, external.hostname or "") if name)
        self._rates = Rates(options.rate)
        self._origin = f"{external.scheme}://{external.netloc}".lower() if external.hostname else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        answer = _Answer(send, receive, scope, headers, self._meter, self._headers)
        method, started_s = scope["method"], asyncio.get_running_loop().time()
        changing = self._access is not None and method not in _SAFE and not scope["path"].startswith(_UNHEARD)
        noted: list[str] = []
        if changing:
            NOTED.set(noted)
        try:
            await self._answer(scope, receive, headers, answer)
            if changing and answer.status in _REFUSED and not noted:
                await self._note_refused(scope, answer.status)
        finally:
            took_s = asyncio.get_running_loop().time() - started_s
            self._meter.answered(answer.route, method, answer.status, took_s)

    async def _answer(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], answer: _Answer) -> None:
        refusal = self._refuse(scope, headers)
        if refusal is not None:
            self._meter.refused(refusal.status)
            await answer.problem(refusal)
            return
        scope["path"] = _path(scope)
        try:
            scope[IDENTITY] = await self._identity(scope, headers)
        except DogwatchError as error:
            # Who asks cannot be told while the database is gone.
            await answer.problem(problems.from_error(error))
            return
        if scope["path"].endswith(STREAMS):
            scope[AGAIN] = partial(self._identity, scope, headers, counts=False)
        now_s = asyncio.get_running_loop().time()
        wait_s = self._rates.wait_s(scope[IDENTITY], scope["path"], now_s, forwarded=_forwarded(headers))
        if wait_s > 0:
            self._meter.refused(429)
            problem = problems.problem(429, "you ask for too much at once", hint=f"wait {wait_s:.1f} s")
            await answer.problem(problem, (b"retry-after", str(math.ceil(wait_s)).encode()))
            return
        if scope["method"] == "HEAD" and not scope["path"].startswith("/ping/"):
            # The protocol goes by what was asked.
            scope = {**scope, "method": "GET"}
        await self._inner(scope, self._bounded(scope, receive), answer.send)
        if self._access is not None and scope.get(REFUSALS):
            await self._note_refusals(self._access, scope)

    async def _note_refusals(self, access: Access, scope: Scope) -> None:
        """Record what a handler refused because of labels. It is answered already, and nothing was changed."""
        for noun, verb, labels in scope[REFUSALS]:
            subject = Subject(noun=noun, name=scope["path"][:500], labels=labels)
            try:
                await access.note_refusal(scope[IDENTITY].actor, verb, subject, f"needs {noun}:{verb}")
            except DogwatchError as error:
                log.error("a refusal is not in the audit trail: %s", error)

    async def _note_refused(self, scope: Scope, status: int) -> None:
        """Record a change that was refused, for whatever reason, where nobody who knew more has."""
        access, identity = self._access, scope.get(IDENTITY)
        client = scope.get("client")
        who: Identity = identity or anonymous(str(client[0]) if client else "")
        wanted = getattr(scope.get("route_handler"), "opt", {}).get("permission")
        noun, verb = ("program", scope["method"].lower())
        if isinstance(wanted, Permission):
            noun, verb = wanted.noun, wanted.verb
        if status == _NOT_FOUND and (not isinstance(wanted, Permission) or allows(who.rights, wanted)):
            return  # who may see all was not refused: there is none
        why = "is not there, or may not be seen" if status == _NOT_FOUND else f"answered {status}"
        try:
            assert access is not None
            await access.note_refusal(who.actor, verb, Subject(noun=noun, name=scope["path"][:500]), why)
        except DogwatchError as error:
            log.error("a refusal is not in the audit trail: %s", error)

    async def _identity(self, scope: Scope, headers: dict[bytes, bytes], *, counts: bool = True) -> Identity:
        """Return who asks. Who calls a webhook proves itself to that: its Authorization is none of ours.

        counts: as of the recogniser.
        """
        if scope["path"].startswith("/hooks/"):
            client = scope.get("client")
            return anonymous(str(client[0]) if client else "")
        return await self._recognise(scope, headers, forwarded=_forwarded(headers), counts=counts)

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> problems.Problem | None:
        # The protocol bounds a head that is still arriving; one that arrived whole is measured here.
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._options.header_limit:
            return problems.problem(431, f"the headers are larger than {self._options.header_limit} bytes")
        if len(scope["query_string"]) > _QUERY_LIMIT:
            return problems.problem(414, f"the query is longer than {_QUERY_LIMIT} bytes")
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._host_known(host, scope):
            return problems.problem(
                421,
                f"this server does not answer for the name '{_hostname(host)[:100]}'",
                hint="ask by localhost or an address, or name it in server.external_url or server.allowed_hosts",
            )
        if scope["method"] in _SAFE or scope["path"].startswith(("/ping/", "/hooks/")):
            return None
        return self._refuse_write(scope, headers, host)

    def _host_known(self, host: str, scope: Scope) -> bool:
        """Refuse foreign names on a loopback address: a page elsewhere may have pointed its own name here
        (DNS rebinding), and would then be same-origin with us.
        """
        name = _hostname(host)
        if name in self._hosts:
            return True
        server = scope.get("server")
        local = server[0] if server and server[1] is not None else None
        if local is None or not is_loopback(local):
            return not self._options.allowed_hosts or is_loopback(name)
        return is_loopback(name)

    def _refuse_write(self, scope: Scope, headers: dict[bytes, bytes], host: str) -> problems.Problem | None:
        """Refuse what another site's page makes a browser send, and callers who may not write.

        Browsers state where a request comes from and pages cannot forge it; what states nothing is not a browser.
        """
        site = headers.get(b"sec-fetch-site", b"").decode("latin-1").lower()
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        ours = {f"{scope['scheme']}://{host}", f"https://{host}", self._origin}
        if site not in ("", "same-origin", "none") or (origin and origin not in ours):
            return problems.problem(403, "the request comes from another site")
        if self._access is not None:
            return None  # permissions decide
        writes = self._options.writes
        if writes == "anyone" or (writes == "loopback" and _from_here(scope, headers)):
            return None
        return problems.problem(
            403,
            "changing the watch over HTTP is not allowed from here",
            hint=f"server.writes is '{writes}'; use the command line on the machine where Dogwatch runs",
        )

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Return receive with a limit on size and time. Each webhook has a limit of its own, and heartbeats cut their
        body themselves: the failure of a job that had much to say must not go unheard.
        """
        limit = _OWN_LIMIT if scope["path"].startswith(("/ping/", "/hooks/")) else self._options.body_limit
        left = limit
        deadline_s = asyncio.get_running_loop().time() + self._options.request_timeout
        complete = False

        async def bounded() -> Message:
            nonlocal left, complete
            if complete:
                return await receive()  # waits for the disconnect: no deadline
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError:
                raise problems.WebRefusal(408, "the body did not arrive in time") from None
            if message["type"] == "http.disconnect" and scope["method"] not in _SAFE:
                raise problems.WebRefusal(400, "the caller left before its body was whole")
            complete = not message.get("more_body", False)
            left -= len(message.get("body", b""))
            if left < 0:
                raise problems.WebRefusal(413, f"the body is larger than {limit} bytes")
            return message

        return bounded


class _Answer:
    """Sends one answer: adds the headers, leaves out the body for HEAD, packs text, counts.

    status: of what was sent; 499 while nothing was, because the caller left.
    """

    def __init__(
        self,
        send: Send,
        receive: Receive,
        scope: Scope,
        headers: dict[bytes, bytes],
        meter: Meter,
        always: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self._send = send
        self._always = always
        self._receive = receive
        self._meter = meter
        self.route = route(scope["path"])
        self.status = 499
        self._head = scope["method"] == "HEAD"
        self._secure = scope.get("scheme") == "https"
        self._packs = not self._head and b"gzip" in headers.get(b"accept-encoding", b"")
        # Of what the API shows, whoever has it already is told so.
        self._tagged = scope["method"] in ("GET", "HEAD") and scope["path"].startswith("/api/v1/")
        self._known = headers.get(b"if-none-match", b"").decode("latin-1")
        self._embeddable = scope["path"].startswith(("/badge", "/group-badge", "/status/badge"))
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None:
            start, self._start = self._start, None
            message = await self._prepare(start, message)
            self.status = start["status"]
            await self._send(start)
        if self._head:
            message = {**message, "body": b""}
        self._meter.sent(self.route, len(message.get("body", b"")))
        if self.status == _TOO_LARGE and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Give the caller time to see the answer: closing while its body is on the way would reset the connection, and
        the answer with it. A little is read and dropped; of more, nothing, and the system holds the sender back.
        """
        left = _DROPPED
        try:
            async with asyncio.timeout(_LINGER_S):
                while left > 0:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))
                await asyncio.sleep(_LINGER_S)
        except TimeoutError:
            return

    async def _prepare(self, start: Message, message: Message) -> Message:
        headers = [(name.lower(), value) for name, value in start.get("headers", ())]
        names = {name for name, _value in headers}
        headers += [pair for pair in self._always if pair[0] not in names]
        if self._secure:
            headers.append((b"strict-transport-security", b"max-age=31536000"))
        policy = b"cross-origin" if self._embeddable else b"same-origin"
        headers.append((b"cross-origin-resource-policy", policy))
        if start["status"] in (408, 413, 431):
            headers.append((b"connection", b"close"))  # the rest of the body is not read
        if b"cache-control" not in names:
            headers.append((b"cache-control", b"no-store"))
        body = message.get("body", b"")
        if self._tagged and start["status"] == 200 and not message.get("more_body", False):
            found = next((value.decode("latin-1") for name, value in headers if name == b"etag"), "")
            if not found:
                found = tag(body)
                headers.append((b"etag", found.encode()))
            # A weak tag is for changes: fields that move by themselves are not in it.
            if self._known and not found.startswith("W/") and fits(self._known, found):
                start["status"], body = 304, b""
                headers = [pair for pair in headers if pair[0] not in (b"content-length", b"content-type")]
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        if kind.startswith(_PACKED_TYPES) and kind != b"text/event-stream":
            headers.append((b"vary", b"Accept-Encoding"))
            whole = not message.get("more_body", False) and b"content-encoding" not in names
            if self._packs and whole and len(body) >= _PACK_FROM:
                body = await pack(body)
                headers = [pair for pair in headers if pair[0] != b"content-length"]
                headers += [(b"content-encoding", b"gzip"), (b"content-length", str(len(body)).encode())]
        start["headers"] = headers
        return {**message, "body": body}

    async def problem(self, problem: problems.Problem, *more: tuple[bytes, bytes]) -> None:
        """Send a problem document instead of asking the application."""
        body = encode_json(problem)
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            *more,
        ]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


async def pack(body: bytes) -> bytes:
    """Return body as gzip; large ones in slices, between which the event loop goes on."""
    if len(body) <= _PACK_SLICE:
        return gzip.compress(body, 1, mtime=0)
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    out = []
    for start in range(0, len(body), _PACK_SLICE):
        out.append(packer.compress(body[start : start + _PACK_SLICE]))
        await asyncio.sleep(0)
    return b"".join((*out, packer.flush()))


def _path(scope: Scope) -> str:
    """Return the path with each segment decoded by itself: a slash or per cent sign that was encoded inside a segment
    stays encoded, so that target names may hold them (context.segment undoes it).
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    raw = raw.partition(b"?")[0]
    if b"%" not in raw:
        return str(scope["path"])
    segments = raw.decode("latin-1").split("/")
    return "/".join(
        unquote(one, errors="replace").replace("%", "%25").replace("/", "%2F") if "%" in one else one
        for one in segments
    )


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _forwarded(headers: dict[bytes, bytes]) -> bool:
    return b"x-forwarded-for" in headers or b"forwarded" in headers or b"x-real-ip" in headers


def _from_here(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Return whether the caller is on this machine; a proxy on it speaks for others, who are not."""
    if _forwarded(headers):
        return False
    client = scope.get("client")
    return client is None or is_loopback(client[0])
