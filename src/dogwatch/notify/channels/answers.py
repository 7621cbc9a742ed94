"""What an HTTP answer means for a message; shared by the channels that speak HTTP."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from dogwatch.engine.http_types import HttpFailed, HttpRequest, HttpResponse
from dogwatch.errors import PermanentError, TransientError
from dogwatch.notify.channel import Held, Tools

# The server behind the address, or a limit of it: the next message would fare no better.
_HELD = frozenset({429, 502, 503, 504})
# What is wrong with this message and stays so. Others, 404 while somebody deploys or 403 while a token is renewed, may
# pass.
_PERMANENT = frozenset({400, 405, 406, 410, 411, 413, 414, 415, 422, 431})
# A longer pause is not believed.
_PAUSE_MOST_S = 3600.0
_SHOWN_CHARS = 200


async def ask(request: HttpRequest, tools: Tools) -> HttpResponse:
    """Return the answer to a message that was taken.

    Raises: Held, TransientError, PermanentError.
    """
    try:
        answer = await tools.request(request)
    except HttpFailed as error:
        raise Held(str(error)) from None
    status = answer.status
    if 200 <= status < 300:
        return answer
    text = f"answered {status}{said(answer)}"
    if status in _HELD:
        raise Held(text, retry_after_s=retry_after(answer.headers.get("retry-after", "")))
    if 300 <= status < 400:
        raise PermanentError(text, hint="redirects are not followed; write the address it leads to")
    if status in _PERMANENT:
        raise PermanentError(text)
    raise TransientError(text, retry_after_s=retry_after(answer.headers.get("retry-after", "")))


def said(answer: HttpResponse) -> str:
    """Return the beginning of a textual answer as `: text`, or ""."""
    text = " ".join(answer.body[:2000].decode("utf-8", "replace").split())
    text = "".join(char if char.isprintable() else "?" for char in text)
    return f": {text[:_SHOWN_CHARS]}" if text and not text.startswith("<") else ""


def retry_after(text: str, now_s: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, or None."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _PAUSE_MOST_S)
    try:
        at_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, at_s - (time.time() if now_s is None else now_s)), _PAUSE_MOST_S)


def shown_address(url: str) -> str:
    """Return scheme, host and port of an address whose path is a secret."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "not an address"


def url_fault(url: str) -> str:
    """Return what is wrong with an http(s) address, or ""."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    return "" if good and url.isprintable() and " " not in url else "is not an http or https address"
