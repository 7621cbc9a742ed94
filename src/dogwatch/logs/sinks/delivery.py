"""What the sinks that speak HTTP share: options of the connection, one request, and what its status means."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from dogwatch.core.units import Seconds, Secret
from dogwatch.engine.http_types import HttpRequest, HttpResponse
from dogwatch.errors import PermanentError, TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.records import cut, records
from dogwatch.logs.sink import Sink, Tools
from dogwatch.logs.sinks.file import packer

# What the same request may get past later; 401 and 403 too: an operator mends them, and the records wait.
_LATER = frozenset({401, 403, 404, 407, 408, 409, 421, 423, 425, 429})
_TOO_LARGE = 413


class Refused(PermanentError):
    """What the other side does not take as it is. said: its whole answer. later_s: what it says of another time."""

    said = ""
    later_s: float | None = None


class TooLarge(Refused):
    """More than the other side takes at once (413): less of it may be taken."""


class HttpOptions(Sink, frozen=True, kw_only=True):
    """Options of every HTTP sink.

    url: where to. headers: further ones; never shown. timeout: of one request. compression: of the body, none, gzip or
    zstd. ca_file: certificates that are trusted in place of the system's. verify: whether certificates are checked.
    """

    concurrent: ClassVar[bool] = True

    url: str
    headers: Mapping[str, Secret] = {}
    timeout: Seconds = 30.0
    compression: Literal["none", "gzip", "zstd"] = "gzip"
    ca_file: str = ""
    verify: bool = True

    def url_faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            good = False
        return [] if good else [(("url",), "is not an http or https address", "https://logs.example/in")]


class Delivery:
    """Makes one sink's requests."""

    def __init__(self, options: HttpOptions, tools: Tools, content_type: str, path: str = "") -> None:
        self._options = options
        self._tools = tools
        self._url = options.url.rstrip("/") + path if path else options.url
        self._headers = [("Content-Type", content_type), *options.headers.items()]
        if options.compression != "none":
            self._headers.append(("Content-Encoding", options.compression))
        self.pack = packer(options.compression, 1)

    async def post(self, body: bytes, headers: tuple[tuple[str, str], ...] = (), query: str = "") -> HttpResponse:
        """Send a packed body and return the answer, which is a success.

        Raises: TransientError, PermanentError.
        """
        url = f"{self._url}{'&' if '?' in self._url else '?'}{query}" if query else self._url
        return await self.send("POST", url, [*self._headers, *headers], body)

    async def send(self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> HttpResponse:
        """As `post`, with everything given."""
        answer = await self._tools.request(
            HttpRequest(
                url=url,
                method=method,
                headers=headers,
                body=body,
                timeout_s=self._options.timeout,
                body_limit=16 * 1024 * 1024,
                verify=self._options.verify,
                ca_file=self._options.ca_file,
            )
        )
        if 200 <= answer.status < 300:
            return answer
        said = answer.body.decode("utf-8", "replace")
        short = " ".join(said[:200].split())
        message = f"answered {answer.status}{f': {short}' if short else ''}"
        if answer.status >= 500 or answer.status in _LATER or answer.status < 400:
            raise TransientError(message, retry_after_s=retry_after_s(answer, time.time()))
        refused = TooLarge(message) if answer.status == _TOO_LARGE else Refused(message)
        refused.said, refused.later_s = said, retry_after_s(answer, time.time())
        raise refused


async def in_parts(blocks: Sequence[Block], send: Callable[[Sequence[Block]], Awaitable[None]], tools: Tools) -> None:
    """Send blocks; where that is too large, each half by itself. One record that is too large is a dead letter."""
    try:
        await send(blocks)
    except TooLarge as error:
        rows = sum(block.rows for block in blocks)
        if rows <= 1:
            await tools.dead([one for block in blocks for one in records(block)], str(error))
            return
        for part in await tools.thread(lambda: cut(blocks, rows // 2)):
            await in_parts(part, send, tools)


def retry_after_s(answer: HttpResponse, now_s: float) -> float | None:
    """Return what `Retry-After` asks for, a number of seconds or a date; at most an hour."""
    text = answer.headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isdigit():
        return min(3600.0, float(text))
    try:
        return min(3600.0, max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now_s))
    except (ValueError, TypeError):
        return None
