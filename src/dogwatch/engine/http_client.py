"""One small HTTP client for actions and channels: libcurl on the event loop, bounded in time and size.

Names are resolved here, in threads, and the addresses are pinned: libcurl's own resolver fails under load, and what was
checked (`private`) must be what is connected to. Redirects are followed only where a request asks for it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec
import pycurl

from dogwatch.core.curl import CurlLoop
from dogwatch.engine.http_types import HttpFailed, HttpRequest, HttpResponse
from dogwatch.errors import PermanentError

_RESOLVERS = 16
_CONNECTIONS = 256
_ADDRESSES = 8
_HEAD_LIMIT = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Never given to another host than the one they were meant for.
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What the same request will meet again; all else (refused, reset, timed out) may be better next time.
_PERMANENT = frozenset(
    {
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_URL_MALFORMAT,
        pycurl.E_UNSUPPORTED_PROTOCOL,
    }
)


class _Transfer:
    """One handle, and what comes back on it."""

    __slots__ = ("body", "enough", "handle", "head", "limit", "over", "waiter")

    def __init__(self, limit: int) -> None:
        self.handle = pycurl.Curl()
        self.waiter: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.head: list[bytes] = []
        self.body = bytearray()
        self.limit = limit
        self.enough = False
        self.over = ""

    def on_header(self, line: bytes) -> int | None:
        if line.startswith(b"HTTP/"):
            self.head = []  # after an interim answer, or a proxy's to CONNECT
        self.head.append(line)
        if sum(map(len, self.head)) > _HEAD_LIMIT:
            self.over = f"its headers have more than {_HEAD_LIMIT} bytes"
            return 0
        return None

    def on_body(self, data: bytes) -> int | None:
        room = self.limit - len(self.body)
        self.body += data[:room]
        if len(data) <= room:
            return None
        self.enough = True
        return 0

    def transferred(self, code: int, message: str) -> None:
        if not self.waiter.done():
            self.waiter.set_result((code, message))

    def cut(self) -> None:
        if not self.waiter.done():
            self.waiter.set_exception(HttpFailed("the HTTP client was closed"))

    def headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in self.head[1:]:
            name, colon, value = line.decode("latin-1").partition(":")
            if colon:
                key = name.strip().lower()
                found[key] = f"{found[key]}, {value.strip()}" if key in found else value.strip()
        return found


class HttpClient:
    """Makes requests side by side on the running event loop; owned and closed by whoever made it."""

    def __init__(self, *, user_agent: str = "dogwatch") -> None:
        self._loop = asyncio.get_running_loop()
        self._user_agent = user_agent
        self._curl = CurlLoop(connections=_CONNECTIONS)
        self._threads = ThreadPoolExecutor(_RESOLVERS, "dogwatch-resolve")

    @property
    def running(self) -> int:
        return len(self._curl)

    async def request(self, request: HttpRequest) -> HttpResponse:
        """Return the answer, whatever its status.

        Raises: HttpFailed where there was none, PermanentError where there never will be (a certificate that is not
        trusted, an address that is refused).
        """
        started_s = time.monotonic()
        deadline_s = started_s + request.timeout_s
        left = request.redirects
        while True:
            try:
                async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                    answer = await self._once(request, deadline_s)
            except TimeoutError:
                raise HttpFailed(f"{_shown(request.url)} did not answer within {request.timeout_s:g} s") from None
            if answer.status not in _REDIRECTS or left <= 0 or "location" not in answer.headers:
                return msgspec.structs.replace(answer, duration_s=time.monotonic() - started_s)
            left -= 1
            request = _redirected(request, answer)

    async def _once(self, request: HttpRequest, deadline_s: float) -> HttpResponse:
        if self._curl.closed:
            raise HttpFailed("the HTTP client is closed")
        pinned = await self._pin(request)
        transfer = _Transfer(request.body_limit)
        handle = transfer.handle
        try:
            try:
                _set_options(transfer, request, pinned, deadline_s - time.monotonic(), self._user_agent)
                self._curl.add(handle, transfer)
            except (pycurl.error, UnicodeError, TypeError) as error:
                raise PermanentError(f"{_shown(request.url)} cannot be asked: {error}") from None
            code, message = await transfer.waiter
            return _answer(request, transfer, code, message)
        finally:
            self._curl.remove(handle)

    async def _pin(self, request: HttpRequest) -> list[str]:
        """Return `name:port:addresses` of every name that libcurl would look up."""
        pinned = []
        for url in (request.proxy, request.url) if request.proxy else (request.url,):
            host, port = _place(url)
            addresses = await self._addresses(host, port)
            if not request.private and not request.proxy:
                addresses = [address for address in addresses if is_public(address)]
                if not addresses:
                    raise PermanentError(f"{host} is a private address, where this may not go")
            if url == request.url and request.proxy:
                continue  # the proxy looks it up
            shown = ",".join(f"[{one}]" if ":" in one else one for one in addresses[:_ADDRESSES])
            if addresses != [host]:
                pinned.append(f"{host}:{port}:{shown}")
        return pinned

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host.partition("%")[0]))]
        except ValueError:
            pass
        try:
            found = await self._loop.run_in_executor(
                self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise HttpFailed(f"cannot resolve {host}: {getattr(error, 'strerror', None) or error}") from None
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def close(self) -> None:
        """End what runs; safe to call twice."""
        self._curl.close()
        # A look-up cannot be cut off; its thread ends with it.
        self._threads.shutdown(wait=False, cancel_futures=True)


def is_public(address: str) -> bool:
    """Return whether an address is one of the open internet, and not of this machine, its networks or its cloud."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inside = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inside = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
    return parsed.is_global and not parsed.is_multicast


def _place(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        host, port = None, 0
    if not host or not port:
        raise PermanentError(f"'{_shown(url)}' is not an http or https address")
    return host, port


def _shown(url: str) -> str:
    """Return scheme, host and port: paths and queries of webhooks are secrets."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "the address"


def _set_options(transfer: _Transfer, request: HttpRequest, pinned: list[str], left_s: float, user_agent: str) -> None:
    handle = transfer.handle
    for option, value in (
        (pycurl.URL, request.url),
        (pycurl.NOSIGNAL, 1),
        (pycurl.NOPROGRESS, 1),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.TIMEOUT_MS, max(1, int(left_s * 1000))),
        (pycurl.PROXY, request.proxy),
        (pycurl.NOPROXY, ""),
        (pycurl.RESOLVE, pinned),
        (pycurl.USERAGENT, user_agent),
        (pycurl.SSL_VERIFYPEER, int(request.verify)),
        (pycurl.SSL_VERIFYHOST, 2 if request.verify else 0),
        (pycurl.HEADERFUNCTION, transfer.on_header),
        (pycurl.WRITEFUNCTION, transfer.on_body),
        (pycurl.HTTPHEADER, [*(f"{name}: {_clean(value)}" for name, value in request.headers), "Expect:"]),
    ):
        handle.setopt(option, value)
    if request.body is not None or request.method in {"POST", "PUT", "PATCH"}:
        handle.setopt(pycurl.POSTFIELDS, request.body or b"")
    if request.method == "HEAD":
        handle.setopt(pycurl.NOBODY, 1)
    else:
        handle.setopt(pycurl.CUSTOMREQUEST, request.method)
    _set_trust(handle, request)


def _set_trust(handle: Any, request: HttpRequest) -> None:
    if request.ca_file:
        handle.setopt(pycurl.CAINFO, request.ca_file)
    else:
        paths = ssl.get_default_verify_paths()
        if paths.cafile:
            handle.setopt(pycurl.CAINFO, paths.cafile)
        if paths.capath:
            handle.setopt(pycurl.CAPATH, paths.capath)
    if request.cert_file:
        handle.setopt(pycurl.SSLCERT, request.cert_file)
        handle.setopt(pycurl.SSLKEY, request.key_file or request.cert_file)


def _clean(value: str) -> str:
    """Return a header's value as one line: a line break in it would begin another header."""
    return " ".join(value.split()) if any(char in value for char in "\r\n\0") else value


def _answer(request: HttpRequest, transfer: _Transfer, code: int, message: str) -> HttpResponse:
    if transfer.over:
        raise PermanentError(f"{_shown(request.url)}: {transfer.over}")
    if code and not (transfer.enough and code == pycurl.E_WRITE_ERROR):
        text = f"no answer from {_shown(request.url)}: {message or f'libcurl error {code}'}"
        raise PermanentError(text) if code in _PERMANENT else HttpFailed(text)
    return HttpResponse(
        status=int(transfer.handle.getinfo(pycurl.RESPONSE_CODE)),
        headers=transfer.headers(),
        body=bytes(transfer.body),
        url=request.url,
        duration_s=0.0,
        truncated=transfer.enough,
    )


def _redirected(request: HttpRequest, answer: HttpResponse) -> HttpRequest:
    url = urljoin(request.url, answer.headers["location"])
    headers = request.headers
    if urlsplit(url)[:2] != urlsplit(request.url)[:2]:
        headers = [pair for pair in headers if pair[0].lower() not in _PRIVATE_HEADERS]
    changed = msgspec.structs.replace(request, url=url, headers=headers)
    if answer.status == 303 or (answer.status in (301, 302) and request.method == "POST"):
        kept = [pair for pair in headers if not pair[0].lower().startswith("content-")]
        changed = msgspec.structs.replace(changed, method="GET", body=None, headers=kept)
    return changed
