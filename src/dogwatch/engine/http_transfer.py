"""One request on libcurl: its handle, what is asked, and what came back. Loaded with libcurl by the first request."""

from __future__ import annotations

import asyncio

import pycurl

from dogwatch.core.curl import CurlLoop, set_trust
from dogwatch.engine.http_types import HttpFailed, HttpRequest, HttpResponse, shown_url
from dogwatch.errors import PermanentError

_HEAD_LIMIT = 64 * 1024
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


class Transfers:
    """Requests side by side on the running event loop; owned and closed by whoever made it."""

    def __init__(self, *, connections: int) -> None:
        self._curl = CurlLoop(connections=connections)

    def __len__(self) -> int:
        return len(self._curl)

    async def run(self, request: HttpRequest, pinned: list[str], left_s: float, user_agent: str) -> HttpResponse:
        """Return the answer, whatever its status. pinned: `name:port:addresses` of names, as libcurl wants them.

        Raises: HttpFailed, PermanentError.
        """
        transfer = _Transfer(request.body_limit)
        handle = transfer.handle
        try:
            try:
                _set_options(transfer, request, pinned, left_s, user_agent)
                self._curl.add(handle, transfer)
            except (pycurl.error, UnicodeError, TypeError) as error:
                raise PermanentError(f"{shown_url(request.url)} cannot be asked: {error}") from None
            code, message = await transfer.waiter
            return _answer(request, transfer, code, message)
        finally:
            self._curl.remove(handle)

    def close(self) -> None:
        self._curl.close()


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
    set_trust(handle, ca_file=request.ca_file, cert_file=request.cert_file, key_file=request.key_file)


def _clean(value: str) -> str:
    """Return a header's value as one line: a line break in it would begin another header."""
    return " ".join(value.split()) if any(char in value for char in "\r\n\0") else value


def _answer(request: HttpRequest, transfer: _Transfer, code: int, message: str) -> HttpResponse:
    if transfer.over:
        raise PermanentError(f"{shown_url(request.url)}: {transfer.over}")
    if code and not (transfer.enough and code == pycurl.E_WRITE_ERROR):
        text = f"no answer from {shown_url(request.url)}: {message or f'libcurl error {code}'}"
        raise PermanentError(text) if code in _PERMANENT else HttpFailed(text)
    return HttpResponse(
        status=int(transfer.handle.getinfo(pycurl.RESPONSE_CODE)),
        headers=transfer.headers(),
        body=bytes(transfer.body),
        url=request.url,
        duration_s=0.0,
        truncated=transfer.enough,
    )
