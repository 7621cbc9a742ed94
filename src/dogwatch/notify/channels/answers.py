"""What an HTTP answer means for a message; shared by the channels that speak HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from dogwatch.engine.http_types import HttpFailed, HttpRequest, HttpResponse
from dogwatch.engine.launch.command import Command, ExitStatus, Output
from dogwatch.errors import PermanentError, TransientError
from dogwatch.notify.channel import Held, Tools
from dogwatch.notify.message import Parcel

# The server behind the address, or a limit of it: the next message would fare no better.
_HELD = frozenset({429, 502, 503, 504})
# What is wrong with this message and stays so. Others, 404 while somebody deploys or 403 while a token is renewed, may
# pass.
_PERMANENT = frozenset({400, 405, 406, 410, 411, 413, 414, 415, 422, 431})
# A longer pause is not believed.
_PAUSE_MOST_S = 3600.0
_SHOWN_CHARS = 200
_TOO_MANY = 429
# Services that say in their answer's body that it was too much count by the minute.
_MINUTE_S = 60.0


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


def url_fault(url: str) -> str:
    """Return what is wrong with an http(s) address, or ""."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    return "" if good and url.isprintable() and " " not in url else "is not an http or https address"


async def post(
    url: str,
    body: object,
    parcel: Parcel,
    tools: Tools,
    *,
    secrets: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    private: bool = True,
    limited: Callable[[Mapping[str, Any]], float | None] = lambda _answer: None,
) -> HttpResponse:
    """Post JSON and return the answer to a message that was taken; of what is told nothing holds a secret.

    limited: how long to wait by what an answer's own JSON says, as some say it only there.

    Raises: Held, TransientError, PermanentError.
    """
    request = HttpRequest(
        url=url,
        method="POST",
        headers=[("Content-Type", "application/json; charset=utf-8"), *headers],
        body=msgspec.json.encode(body),
        timeout_s=parcel.timeout_s,
        body_limit=16_384,
        private=private,
    )
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    hidden = [one for one in (url, path, *secrets, *(quote(secret, safe="") for secret in secrets)) if len(one) > 3]

    class Watched:
        """Looks at an answer before it is judged by its status."""

        async def request(self, request: HttpRequest) -> HttpResponse:
            answer = await tools.request(request)
            # Before anything is cut off: the half of a secret is one, too.
            body = veiled(answer.body.decode("utf-8", "surrogateescape"), hidden).encode("utf-8", "surrogateescape")
            answer = msgspec.structs.replace(answer, body=body)
            wait_s = limited(decoded(answer)) if answer.status == _TOO_MANY else None
            if wait_s is None:
                return answer
            return msgspec.structs.replace(answer, headers={**answer.headers, "retry-after": str(math.ceil(wait_s))})

        async def run(self, command: Command, output: Output) -> ExitStatus:
            return await tools.run(command, output)

    try:
        return await ask(request, Watched())
    except Held as error:
        raise Held(veiled(str(error), hidden), retry_after_s=error.retry_after_s) from None
    except TransientError as error:
        raise TransientError(veiled(str(error), hidden), retry_after_s=error.retry_after_s) from None
    except PermanentError as error:
        raise PermanentError(veiled(str(error), hidden), hint=error.hint) from None


def veiled(text: str, secrets: Sequence[str]) -> str:
    """Return a text without secrets in it."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def decoded(answer: HttpResponse) -> Mapping[str, Any]:
    """Return the object that an answer is, an empty one for anything else."""
    try:
        found = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def coded(
    answer: HttpResponse,
    *,
    field: str,
    busy: Collection[int],
    passing: Collection[int] = (),
    secrets: Sequence[str] = (),
) -> None:
    """Judge an answer that says in its body how it went: 0 in a field is well.

    busy: numbers that mean to wait. passing: numbers of what may mend itself.

    Raises: Held, TransientError, PermanentError.
    """
    found = decoded(answer)
    code = found.get(field)
    if code == 0:
        return
    why = veiled(str(found.get("errmsg") or found.get("msg") or "") or said(answer).removeprefix(": "), secrets)
    text = f"refused it with {code}: {why[:_SHOWN_CHARS]}" if code is not None else f"answered something else: {why}"
    if code in busy:
        raise Held(text, retry_after_s=_MINUTE_S)
    if code is None or code in passing:
        raise TransientError(text)
    raise PermanentError(text)
