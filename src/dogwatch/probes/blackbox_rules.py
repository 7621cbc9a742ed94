"""What blackbox_exporter demands of a module beyond its shape: options that exclude or need one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from dogwatch.config.section import Fault
from dogwatch.core.component import nearest
from dogwatch.probes.blackbox_format import (
    ClientConfig,
    DnsModule,
    HeaderMatch,
    HttpModule,
    IcmpModule,
    Oauth2Config,
    ProxyOptions,
    QueryStep,
    TlsConfig,
)
from dogwatch.probes.blackbox_reader import Place
from dogwatch.probes.blackbox_records import CLASSES, TYPES

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SIGNATURES = ("RS256", "RS384", "RS512")
# Headers that belong to other options, or to the connection.
_RESERVED_NAMES = """
    authorization host content-encoding content-length content-type user-agent connection keep-alive
    proxy-authenticate proxy-authorization www-authenticate accept-encoding x-prometheus-remote-write-version
    x-prometheus-remote-read-version x-prometheus-scrape-timeout-seconds x-amz-date x-amz-security-token
    x-amz-content-sha256
"""
_RESERVED = frozenset(_RESERVED_NAMES.split())


def faults_of(value: Any, path: Place = ()) -> Iterator[Fault]:
    """Yield what is wrong with a struct and with all those inside it."""
    if isinstance(value, msgspec.Struct):
        for kind, rule in _RULES:
            if isinstance(value, kind):
                for where, message in rule(value):
                    yield Fault((*path, *where), message)
        for field in msgspec.structs.fields(value):
            yield from faults_of(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, tuple):
        for at, one in enumerate(value):
            yield from faults_of(one, (*path, at))
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from faults_of(one, (*path, name))


Found = Iterator[tuple[Place, str]]


def _only_one(value: Any, names: tuple[str, ...]) -> Found:
    given = [name for name in names if getattr(value, name)]
    if len(given) > 1:
        yield (given[-1],), f"at most one of {' and '.join(given)} may be given"


def _tls(tls: TlsConfig) -> Found:
    for what in ("ca", "cert", "key"):
        yield from _only_one(tls, (what, f"{what}_file", f"{what}_ref"))
    cert = tls.cert or tls.cert_file or tls.cert_ref
    key = tls.key or tls.key_file or tls.key_ref
    if cert and not key:
        yield (), "a client certificate needs its key: key or key_file"
    if key and not cert:
        yield (), "a client key needs its certificate: cert or cert_file"


def _proxy(proxy: ProxyOptions) -> Found:
    if proxy.proxy_connect_header and not proxy.proxy_from_environment and not proxy.proxy_url:
        yield ("proxy_connect_header",), "needs proxy_url or proxy_from_environment"
    if proxy.proxy_from_environment and proxy.proxy_url:
        yield ("proxy_from_environment",), "excludes proxy_url"
    if proxy.proxy_from_environment and proxy.no_proxy:
        yield ("no_proxy",), "excludes proxy_from_environment"
    if proxy.proxy_url is None and proxy.no_proxy and not proxy.proxy_from_environment:
        yield ("no_proxy",), "needs proxy_url"


def _client(client: ClientConfig) -> Found:
    yield from _only_one(client, ("bearer_token", "bearer_token_file"))
    bearer = "bearer_token" if client.bearer_token else "bearer_token_file" if client.bearer_token_file else ""
    ways = [name for name in ("basic_auth", "authorization", "oauth2") if getattr(client, name) is not None]
    ways += [bearer] if bearer else []
    if len(ways) > 1:
        yield (ways[-1],), f"at most one of {' and '.join(ways)} may be given"
    if client.basic_auth is not None:
        for what in ("username", "password"):
            for where, message in _only_one(client.basic_auth, (what, f"{what}_file", f"{what}_ref")):
                yield ("basic_auth", *where), message
    given = client.authorization
    if given is not None:
        for where, message in _only_one(given, ("credentials", "credentials_file", "credentials_ref")):
            yield ("authorization", *where), message
        if given.type.strip().lower() == "basic":
            yield ("authorization", "type"), "cannot be Basic: use basic_auth"
    for name in client.http_headers:
        if name.lower() in _RESERVED:
            yield ("http_headers", name), "cannot be set here"


def _oauth2(oauth2: Oauth2Config) -> Found:
    if not oauth2.client_id:
        yield (), "the client_id is missing"
    if not oauth2.token_url:
        yield (), "the token_url is missing"
    if oauth2.grant_type != JWT_BEARER:
        yield from _only_one(oauth2, ("client_secret", "client_secret_file", "client_secret_ref"))
        return
    key = "client_certificate_key"
    yield from _only_one(oauth2, (key, f"{key}_file", f"{key}_ref"))
    if oauth2.signature_algorithm and oauth2.signature_algorithm not in SIGNATURES:
        yield ("signature_algorithm",), f"is none of {', '.join(SIGNATURES)}"


def _http(http: HttpModule) -> Found:
    if http.body and http.body_file:
        yield ("body_file",), "body and body_file exclude each other"
    for name, value in http.headers.items():
        if name.lower() == "accept-encoding" and not accepts(http.compression, value):
            yield ("headers", name), f"'{value}' does not accept the compression '{http.compression}'"
    if not http.enable_http3 and "HTTP/3.0" in http.valid_http_versions:
        yield ("valid_http_versions",), "HTTP/3.0 needs enable_http3"
    if http.enable_http3 and {"HTTP/1.1", "HTTP/2.0"} & set(http.valid_http_versions):
        yield ("valid_http_versions",), "with enable_http3 only HTTP/3.0 can be valid"
    if http.enable_http3 and http.enable_http2 is not False:
        yield ("enable_http3",), "needs enable_http2: false"


def accepts(compression: str, accepted: str) -> bool:
    """Return whether an Accept-Encoding header lets a server answer in a compression."""
    if not compression or not accepted:
        return True
    offers: list[tuple[float, str]] = []
    for part in accepted.split(","):
        name, semicolon, quality = part.rpartition(";")
        offers.append((_quality(quality), name.strip()) if semicolon else (1.0, part.strip()))
    # The best offer that names it, or anything, decides; sorting keeps the order of equals.
    for worth, name in sorted(offers, key=lambda offer: -offer[0]):
        if name in (compression, "*"):
            return worth > 0
    return False


def _quality(text: str) -> float:
    try:
        return round(float(text.strip().removeprefix("q=")), 3)
    except ValueError:
        return 0.0


def _header_match(rule: HeaderMatch) -> Found:
    if not rule.header:
        yield (), "the header's name is missing"
    if not rule.regexp:
        yield (), "the regexp is missing"


def _step(step: QueryStep) -> Found:
    if step.expect is not None and step.expect_bytes:
        yield ("expect_bytes",), "excludes expect"


def _icmp(icmp: IcmpModule) -> Found:
    if not 0 <= icmp.ttl <= 255:
        yield ("ttl",), "is between 0 and 255"


def _dns(dns: DnsModule) -> Found:
    if dns.query_class and dns.query_class not in CLASSES:
        yield ("query_class",), f"'{dns.query_class}' is not a class{_meant(dns.query_class, list(CLASSES))}"
    if dns.query_type and dns.query_type not in TYPES:
        yield ("query_type",), f"'{dns.query_type}' is not a record type{_meant(dns.query_type, list(TYPES))}"


def _meant(text: str, known: list[str]) -> str:
    found = text.upper() if text.upper() in known else nearest(text.upper(), known)
    return f"; {found}" if found.startswith("did you mean") else f"; did you mean '{found}'?" if found else ""


_RULES: tuple[tuple[type[msgspec.Struct], Callable[[Any], Found]], ...] = (
    (TlsConfig, _tls),
    (ProxyOptions, _proxy),
    (ClientConfig, _client),
    (Oauth2Config, _oauth2),
    (HttpModule, _http),
    (HeaderMatch, _header_match),
    (QueryStep, _step),
    (IcmpModule, _icmp),
    (DnsModule, _dns),
)
