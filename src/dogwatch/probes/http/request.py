"""Requests: a URL taken apart once, and the bytes to send for it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote, urljoin, urlsplit

import msgspec

from dogwatch import __version__
from dogwatch.probes.engine.addresses import Address, literal

USER_AGENT = f"dogwatch/{__version__}"
PORTS = {"http": 80, "https": 443}
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE = re.compile(r"[\x00-\x20\x7f]")
# Never sent on to another origin, whatever set them.
CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "www-authenticate"})


class Place(msgspec.Struct, frozen=True):
    """A URL taken apart. host: without brackets, in ASCII. target: path and query as sent. auth: "user:password"."""

    scheme: str
    host: str
    port: int
    target: str
    auth: str = ""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


class Hop(msgspec.Struct, frozen=True):
    """One request of an attempt, ready to send. address: of the host if it is a literal one."""

    place: Place
    address: Address | None
    method: str
    request: bytes
    tls: bool
    url: str
    foreign: bool = False


def parse_url(text: str) -> Place:
    """Take a URL apart.

    Raises: ValueError with what is wrong with it.
    """
    if _UNSAFE.search(text):
        raise ValueError("a URL has no spaces or control characters")
    parts = urlsplit(text)
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise ValueError(
            f"'{parts.scheme}' is not a scheme for http probes" if scheme else "no scheme: begin with https://"
        )
    host = parts.hostname or ""
    if not host:
        raise ValueError("no host")
    if ":" in host:
        host = host.replace("%25", "%")  # how RFC 6874 writes a zone
    port = parts.port if parts.port is not None else PORTS[scheme]
    if not 0 < port < 65536:
        raise ValueError("no such port: 1 to 65535")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"'{host}' is not a host name") from error
    if literal(host) is None and not re.fullmatch(r"[A-Za-z0-9_.\-]+", host):
        raise ValueError(f"'{host}' is not a host name")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._[]")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]{}|^`\"\\<>")
    auth = ""
    if parts.username is not None:
        auth = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Place(scheme, host, port, f"{path}?{query}" if query else path, auth)


def join_url(base: Place, location: str) -> Place:
    """Return where a Location header leads.

    Raises: ValueError if it is no URL that can be followed.
    """
    # Servers send unencoded spaces and letters; browsers and Go quote them.
    return parse_url(urljoin(base.url, re.sub(r"[\x00-\x20\x7f]", lambda found: f"%{ord(found[0]):02X}", location)))


def basic(user_and_password: str) -> str:
    return "Basic " + base64.b64encode(user_and_password.encode()).decode()


def build_request(
    place: Place, method: str, headers: Mapping[str, str], body: bytes, *, keep_alive: bool, foreign: bool
) -> bytes:
    """Return the bytes of a request. headers win over our own. foreign: another origin than the probe's own."""
    given = {name.lower() for name in headers}
    lines = [f"{method} {place.target} HTTP/1.1"]
    if "host" not in given or foreign:
        # A zone means something on this machine only.
        zone = place.host.partition("%")[1:]
        lines.append(f"Host: {place.authority.replace(''.join(zone), '', 1) if zone[1] else place.authority}")
    for name, value in (("User-Agent", USER_AGENT), ("Accept", "*/*")):
        if name.lower() not in given:
            lines.append(f"{name}: {value}")
    if not keep_alive and "connection" not in given:
        lines.append("Connection: close")
    for name, value in headers.items():
        if foreign and (name.lower() in CREDENTIALS or name.lower() == "host"):
            continue
        lines.append(f"{name}: {value}")
    if (body or method in {"POST", "PUT", "PATCH"}) and "content-length" not in given:
        lines.append(f"Content-Length: {len(body)}")
    if place.auth and "authorization" not in given:
        lines.append(f"Authorization: {basic(place.auth)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8") + body
