"""The http kind: its options, and which of the two lanes an attempt takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import msgspec

from dogwatch.core.units import Bytes, Seconds, Secret
from dogwatch.probes.engine.addresses import literal
from dogwatch.probes.http.attempt import HttpAttempt
from dogwatch.probes.http.lane import HttpLane
from dogwatch.probes.http.plan import parse_statuses, plan_of
from dogwatch.probes.http.request import TOKEN, parse_url
from dogwatch.probes.http.result import accepted_versions
from dogwatch.probes.lane import Landing, Lane
from dogwatch.probes.probe import Attempt, Cancel, Done, Probe

_Fault = tuple[tuple[str | int, ...], str, str]
_PROXY_SCHEMES = ("http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://")


class BasicAuth(msgspec.Struct, frozen=True, kw_only=True):
    """A user and a password, sent as RFC 7617 has it.

    username: who asks. password: of that user; never shown.
    """

    username: str
    password: Secret = ""


class TlsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a TLS connection is made and whom it trusts.

    verify: false accepts any certificate; its expiry is still reported. ca_file: PEM file trusted instead of the
    system's store. cert_file, key_file: our own certificate. server_name: asked for and checked instead of the
    URL's host. min_version, max_version: 1.0 to 1.3.
    """

    verify: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    min_version: Literal["", "1.0", "1.1", "1.2", "1.3"] = ""
    max_version: Literal["", "1.0", "1.1", "1.2", "1.3"] = ""


class HttpProbe(Probe, frozen=True, kw_only=True):
    """Asks for a URL and measures every phase of it.

    url: http:// or https://. method: any HTTP method. headers: sent as given, before our own. body: sent as UTF-8.
    basic_auth, bearer: credentials; never sent on to another origin by a redirect.
    follow_redirects, redirect_limit: whether and how often; 303 (and 301, 302 after a POST) go on with GET.
    status: codes that are a success, as 200, "200-299" or "2xx". Without it 2xx are, unless `expect` reads `status`.
    http_version: 1.1, 2 or 3; 2 is offered and falls back. accept_versions: versions that are a success.
    fail_if_tls, fail_if_not_tls: whether the last answer may, or must, have come over TLS.
    tls: trust and client certificate. full_handshake_every: sessions are resumed between full handshakes this far
    apart, and a full one follows every failure; 0 makes every handshake a full one.
    ip_version: 4, 6, or auto to race both (RFC 8305). ip_fallback: take the other version if the name has none.
    resolve: address or name to connect to instead of the URL's host. source_address, interface: to leave by.
    proxy: http://, https:// or socks5:// URL of one. proxy_headers: sent to it with CONNECT.
    body_limit: most bytes of a body, on the wire and unpacked. body_over: what follows beyond it: fail or truncate.
    header_limit: most bytes of the headers. compression: what is asked for; gzip and deflate are unpacked anyway.
    keep_alive: reuse the connection for the next attempt, so that connecting and TLS are measured only once.
    """

    kind: ClassVar[str] = "http"
    short: ClassVar[str] = "url"
    schemes: ClassVar[tuple[str, ...]] = ("https",)
    variables: ClassVar[Mapping[str, str]] = {
        "status": "int",
        "body": "string",
        "json": "dyn",
        "headers": "map",
        "duration_s": "double",
        "phases": "map",
        "http_version": "double",
        "redirects": "int",
        "final_url": "string",
        "content_length": "int",
        "body_bytes": "int",
        "last_modified_s": "double",
        "reused": "bool",
        "ip": "string",
        "ip_version": "int",
        "ip_hash": "double",
        "tls": "bool",
        "tls_version": "string",
        "tls_cipher": "string",
        "tls_resumed": "bool",
        "tls_days_left": "double",
        "tls_expires_s": "double",
        "tls_subject": "string",
        "tls_issuer": "string",
        "tls_names": "list",
        "tls_serial": "string",
        "tls_fingerprint": "string",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "status": "status of the last answer",
        "body": "body of the last answer, decoded",
        "json": "body, parsed",
        "tls_cipher": "cipher suite, as OpenSSL calls it",
        "headers": "headers of the last answer, by name in lower case",
        "duration_s": "how long the attempt took",
        "phases": "resolve_s, connect_s, tls_s, first_byte_s, transfer_s",
        "http_version": "such as 1.1 or 2.0",
        "redirects": "how many were followed",
        "final_url": "where the last answer came from",
        "content_length": "what the answer said of its length; -1 where it said nothing",
        "body_bytes": "bytes of the body as sent",
        "last_modified_s": "Last-Modified, seconds since 1970 UTC",
        "reused": "whether a kept connection was used",
        "ip": "address that answered",
        "ip_version": "4 or 6",
        "ip_hash": "hash of the address, to see it change",
        "tls": "whether the connection was encrypted",
        "tls_version": "such as TLSv1.3",
        "tls_resumed": "whether the handshake was a short one, without certificates",
        "tls_days_left": "days until the earliest expiry in the chain; negative when it has passed",
        "tls_expires_s": "earliest expiry in the chain that was sent, seconds since 1970 UTC",
        "tls_subject": "subject of the server's certificate",
        "tls_issuer": "issuer of the server's certificate",
        "tls_names": "names that the server's certificate is for",
        "tls_serial": "serial number of the server's certificate, hexadecimal",
        "tls_fingerprint": "SHA-256 of the server's certificate, hexadecimal",
    }
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "status": ("probe_http_status_code", "Response HTTP status code"),
        "content_length": ("probe_http_content_length", "Length of http content response"),
        "body_bytes": ("probe_http_uncompressed_body_length", "Length of uncompressed response body"),
        "redirects": ("probe_http_redirects", "The number of redirects"),
        "http_version": ("probe_http_version", "Returns the version of HTTP of the probe response"),
        "tls": ("probe_http_ssl", "Indicates if SSL was used for the final redirect"),
        "last_modified_s": (
            "probe_http_last_modified_timestamp_seconds",
            "Returns the Last-Modified HTTP response header in unixtime",
        ),
        "tls_expires_s": ("probe_ssl_earliest_cert_expiry", "Returns last SSL chain expiry in unixtime"),
        "tls_version": ("probe_tls_version_info", "Returns the TLS version used or NaN when unknown"),
        "ip_version": ("probe_ip_protocol", "Specifies whether probe ip protocol is IP4 or IP6"),
        "ip_hash": ("probe_ip_addr_hash", "Specifies the hash of IP address"),
    }

    url: str
    method: str = "GET"
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    body: str = ""
    basic_auth: BasicAuth | None = None
    bearer: Secret = ""
    follow_redirects: bool = True
    redirect_limit: int = 10
    status: tuple[int | str, ...] | None = None
    http_version: Literal["1.1", "2", "3", 2, 3] = "1.1"
    accept_versions: tuple[str, ...] = ()
    fail_if_tls: bool = False
    fail_if_not_tls: bool = False
    tls: TlsOptions = TlsOptions()
    full_handshake_every: Seconds = 300.0
    ip_version: Literal["auto", "4", "6", 4, 6] = "auto"
    ip_fallback: bool = False
    resolve: str = ""
    source_address: str = ""
    interface: str = ""
    proxy: Secret = ""
    proxy_headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    body_limit: Bytes = 1024 * 1024
    body_over: Literal["fail", "truncate"] = "fail"
    header_limit: Bytes = 64 * 1024
    compression: Literal["none", "gzip", "deflate", "br", "any"] = "none"
    keep_alive: bool = False

    @property
    def slow_lane(self) -> bool:
        """Whether libcurl does it: HTTP/2, HTTP/3, proxies and Brotli."""
        return str(self.http_version) != "1.1" or bool(self.proxy) or self.compression == "br"

    def launch(self, attempt: Attempt, done: Done) -> Cancel:
        plan = attempt.memory.get("http")
        if plan is None or plan.probe is not self:
            plan = plan_of(self, attempt.memory)
        if plan.slow:
            from dogwatch.probes.http.curl import launch_slow

            return launch_slow(plan, attempt, done)
        running = HttpAttempt(attempt.env.engine, plan, attempt, done)
        running.launch()
        return running.cancel

    def lane(self, attempt: Attempt, landing: Landing, owner: Any) -> Lane | None:
        plan = plan_of(self, attempt.memory)
        if plan.slow or plan.first.tls or self.method == "HEAD":
            return None
        return HttpLane(attempt.env.engine, plan, attempt, landing, owner)

    def address(self) -> str:
        try:
            return parse_url(self.url).url
        except ValueError:
            return self.url.rpartition("@")[2]

    def faults(self) -> list[_Fault]:
        return [*self._target_faults(), *self._request_faults(), *self._option_faults()]

    def _target_faults(self) -> Iterator[_Fault]:
        try:
            place = parse_url(self.url)
        except ValueError as error:
            yield ("url",), f"malformed URL: {error}", "write it as https://host/path"
            return
        if place.auth and (self.basic_auth is not None or self.bearer):
            yield ("url",), "the URL has a user as well as basic_auth or bearer", "keep one of them"
        if place.scheme == "http" and self.fail_if_not_tls and not self.follow_redirects:
            yield ("fail_if_not_tls",), "an http:// URL can never be over TLS", "use https:// or follow_redirects"
        host = literal(place.host)
        version = str(self.ip_version)
        if host is not None and version != "auto" and not self.resolve and (":" in host[1]) != (version == "6"):
            yield ("ip_version",), f"the URL's address {host[1]} is not IPv{version}", "leave ip_version out"
        if str(self.http_version) == "3" and place.scheme != "https":
            yield ("http_version",), "HTTP/3 needs https://", ""

    def _request_faults(self) -> Iterator[_Fault]:
        if not TOKEN.fullmatch(self.method):
            yield ("method",), f"'{self.method}' is not an HTTP method", "GET, HEAD, POST, PUT…"
        elif self.method != self.method.upper():
            yield ("method",), f"unknown method '{self.method}'", f"did you mean '{self.method.upper()}'?"
        elif self.method == "CONNECT":
            yield ("method",), "CONNECT is not for probes", "use proxy, or a tcp probe"
        for name, value in self.headers.items():
            if not TOKEN.fullmatch(name):
                yield ("headers", name), f"'{name}' is not a header name", ""
            if any(char in value for char in "\r\n\0"):
                yield ("headers", name), "a header value has no line ends", ""
        if self.basic_auth is not None and self.bearer:
            yield ("bearer",), "bearer and basic_auth exclude each other", "keep one of them"
        if self.basic_auth is not None and ":" in self.basic_auth.username:
            yield ("basic_auth", "username"), "a user name has no colon", ""

    def _option_faults(self) -> Iterator[_Fault]:
        if self.fail_if_tls and self.fail_if_not_tls:
            yield ("fail_if_tls",), "fail_if_tls and fail_if_not_tls exclude each other", ""
        if self.tls.key_file and not self.tls.cert_file:
            yield ("tls", "key_file"), "key_file needs cert_file", ""
        if self.tls.min_version and self.tls.max_version and self.tls.min_version > self.tls.max_version:
            yield ("tls", "min_version"), "min_version is above max_version", ""
        if self.proxy and not self.proxy.startswith(_PROXY_SCHEMES):
            yield ("proxy",), "the proxy is not a URL of a known kind", "http://, https:// or socks5://"
        if self.proxy and str(self.http_version) == "3":
            yield ("proxy",), "HTTP/3 does not go through a proxy", ""
        if self.source_address and literal(self.source_address) is None:
            yield ("source_address",), f"'{self.source_address}' is not an IP address", ""
        if not 0 <= self.redirect_limit <= 100:
            yield ("redirect_limit",), "between 0 and 100", ""
        try:
            parse_statuses(self.status or ())
        except ValueError as error:
            yield ("status",), str(error), ""
        try:
            accepted_versions(self.accept_versions)
        except ValueError:
            yield ("accept_versions",), "versions are written HTTP/1.1, HTTP/2 or 2", ""


__all__ = ["BasicAuth", "HttpProbe", "TlsOptions"]
