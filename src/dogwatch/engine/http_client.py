"""One small HTTP client for actions and channels: libcurl on the event loop, bounded in time and size.

Names are resolved here, in threads, and the addresses are pinned: libcurl's own resolver fails under load, and what was
checked (`private`) must be what is connected to. Redirects are followed only where a request asks for it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import msgspec

from dogwatch.engine.http_types import HttpFailed, HttpRequest, HttpResponse, shown_url
from dogwatch.errors import PermanentError

if TYPE_CHECKING:
    from dogwatch.engine.http_transfer import Transfers

_RESOLVERS = 16
_CONNECTIONS = 256
_ADDRESSES = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Never given to another host than the one they were meant for.
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class HttpClient:
    """Makes requests side by side on the running event loop; owned and closed by whoever made it."""

    def __init__(self, *, user_agent: str = "dogwatch") -> None:
        self._loop = asyncio.get_running_loop()
        self._user_agent = user_agent
        # Loads libcurl, some 10 MiB, at the first request: most programs never make one.
        self._transfers: Transfers | None = None
        self._closed = False
        self._threads = ThreadPoolExecutor(_RESOLVERS, "dogwatch-resolve")

    @property
    def running(self) -> int:
        return len(self._transfers) if self._transfers is not None else 0

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
                raise HttpFailed(f"{shown_url(request.url)} did not answer within {request.timeout_s:g} s") from None
            if answer.status not in _REDIRECTS or left <= 0 or "location" not in answer.headers:
                return msgspec.structs.replace(answer, duration_s=time.monotonic() - started_s)
            left -= 1
            request = _redirected(request, answer)

    async def _once(self, request: HttpRequest, deadline_s: float) -> HttpResponse:
        pinned = await self._pin(request)
        if self._closed:
            raise HttpFailed("the HTTP client is closed")
        if self._transfers is None:
            from dogwatch.engine.http_transfer import Transfers

            self._transfers = Transfers(connections=_CONNECTIONS)
        return await self._transfers.run(request, pinned, deadline_s - time.monotonic(), self._user_agent)

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
        # Names below localhost are of this machine, whoever answers for names (RFC 6761, 6.3).
        known = "localhost" if host.rstrip(".").endswith(".localhost") else host
        try:
            found = await self._loop.run_in_executor(
                self._threads, lambda: socket.getaddrinfo(known, port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise HttpFailed(f"cannot resolve {host}: {getattr(error, 'strerror', None) or error}") from None
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def close(self) -> None:
        """End what runs; safe to call twice."""
        self._closed = True
        if self._transfers is not None:
            self._transfers.close()
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
        raise PermanentError(f"'{shown_url(url)}' is not an http or https address")
    return host, port


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
