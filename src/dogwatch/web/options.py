"""The `server:` section. Importing this loads no web framework, so that `config check` stays light."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Bytes, Seconds

Count = Annotated[int, msgspec.Meta(ge=1)]


class TlsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """HTTPS by Dogwatch itself. Changed files are taken over by themselves.

    certificate: PEM file with the certificate and those between it and the root. key: PEM file with its key; "" where
    the certificate's file holds it. client_ca: PEM file with those who vouch for clients (agents, other daemons,
    command lines); "" for none. client_crl: PEM file with their revocation lists, which must have one of each that is
    in force; "" for none. client: whether a client must show a certificate of those.
    """

    certificate: str
    key: str = ""
    client_ca: str = ""
    client_crl: str = ""
    client: Literal["optional", "required"] = "required"


class RateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much one caller may ask for: a user, a token, a certificate, or an address. More is answered 429.

    max: requests in any `per`. per: how long that is. local: whether callers on this machine are limited, too.
    """

    max: Count = 3000
    per: Seconds = 30.0
    local: bool = False


class WebOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the console, API, metrics and heartbeats are served.

    listen: address and port, `127.0.0.1:8410`, `[::1]:8410`, `:8410` for every address.
    external_url: how people reach it, for instance behind a proxy; its host is accepted in requests, and heartbeat and
    badge addresses are shown with it. "" for as asked.
    title: shown in the page's head and tab.
    allowed_hosts: further names that requests may be addressed to. On a loopback address only `localhost`, loopback
    addresses, external_url's host and these are; elsewhere any name is, unless this list is not empty.
    writes: who may pause, resume, run and reload over HTTP until there are accounts: `loopback` (callers on this
    machine, not through a proxy), `anyone` or `nobody`.
    bars: how many newest results a target's bar shows.
    connections: open connections at most; further ones are answered 503.
    streams: live event streams at most; each counts as a connection, too.
    stream_buffer: events kept for a stream that reads slowly; the oldest are dropped and counted.
    keep_alive: how long an idle connection is kept.
    request_timeout: how long a request's head and body may take to arrive.
    header_limit: size of a request's head at most.
    body_limit: size of a request's body at most.
    rate: how much one caller may ask for; heartbeats, webhooks and static files do not count.
    tls: certificate and key for HTTPS; none for HTTP.
    ping_body_limit: how much of a heartbeat's body is kept; the rest is dropped, and more than 64MiB refused.
    """

    listen: str = "127.0.0.1:8410"
    external_url: str = ""
    title: str = "Dogwatch"
    allowed_hosts: tuple[str, ...] = ()
    writes: Literal["loopback", "anyone", "nobody"] = "loopback"
    bars: Annotated[int, msgspec.Meta(ge=10, le=100)] = 40
    connections: Count = 256
    streams: Count = 64
    stream_buffer: Count = 1000
    keep_alive: Seconds = 30.0
    request_timeout: Seconds = 20.0
    header_limit: Bytes = 32 * 1024
    body_limit: Bytes = 1024 * 1024
    ping_body_limit: Bytes = 100_000
    rate: RateOptions = RateOptions()
    tls: TlsOptions | None = None


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port; host is "" for every address.

    Raises: ValueError with what is accepted.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"'{text}' is not an address and port; write it as 127.0.0.1:8410, [::1]:8410 or :8410")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"'{text}': write an IPv6 address in brackets, [::1]:8410")
    return host, int(port)


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Return whether a name or address means this machine itself."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _check(options: WebOptions) -> Iterable[Fault]:
    try:
        parse_listen(options.listen)
    except ValueError as error:
        yield Fault(("listen",), str(error))
    if options.external_url:
        parts = urlsplit(options.external_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield Fault(("external_url",), f"'{options.external_url}' is not an address such as https://watch.example")
        elif parts.query or parts.fragment or parts.path.rstrip("/"):
            yield Fault(("external_url",), "has a path, but Dogwatch is served at the root of a name")
    if options.tls is not None and options.tls.client_crl and not options.tls.client_ca:
        yield Fault(("tls", "client_crl"), "means nothing without 'client_ca'")
    if not options.rate.per > 0:
        yield Fault(("rate", "per"), "must be more than nothing")
    if options.streams > options.connections:
        yield Fault(("streams",), f"is more than connections ({options.connections}); each stream is a connection")


SECTION: Section[WebOptions] = Section(
    key="server",
    type=WebOptions,
    doc="How the console, API, metrics and heartbeats are served.",
    default=WebOptions,
    check=_check,
)
