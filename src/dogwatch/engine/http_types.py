"""Requests and answers of the HTTP client (engine/http_client.py), without loading libcurl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from dogwatch.errors import TransientError


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    timeout_s: for all of it, redirects included. redirects: how many are followed. body_limit: how much of the answer
    is kept; the rest is not read. private: whether it may go to addresses that are not public (loopback, private and
    link-local networks). ca_file, cert_file, key_file: paths, "" for the machine's own trust and no certificate.
    proxy: an address; "" for none, whatever the environment says.
    """

    url: str
    method: str = "GET"
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    timeout_s: float = 30.0
    redirects: int = 0
    body_limit: int = 1024 * 1024
    private: bool = True
    verify: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    proxy: str = ""


class HttpResponse(msgspec.Struct, frozen=True, kw_only=True):
    """headers: lower-case names; of several with one name, the values with commas between. url: where it ended.

    truncated: the body was larger than asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    duration_s: float
    truncated: bool = False


class HttpFailed(TransientError):
    """No answer: the name, the connection, the protocol or the time. Worth another try."""

    code = "unanswered"


def shown_url(url: str) -> str:
    """Return scheme, host and port: paths and queries of webhooks are secrets."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "the address"
