"""From an http module and a target to our http probe, and the checks that it has beyond that."""

from __future__ import annotations

import os
from typing import Any

from dogwatch.errors import ConfigError, Problem
from dogwatch.probes.blackbox_checks import (
    Check,
    body_check,
    cel_check,
    compression_check,
    header_check,
    is_address,
    tls_options,
)
from dogwatch.probes.blackbox_format import HttpModule
from dogwatch.probes.blackbox_proxy import proxy_of
from dogwatch.probes.blackbox_reader import parse_limit
from dogwatch.probes.blackbox_secrets import MemoryFile, MemoryFiles, authorization_of, basic_of, header_of, read_bytes

# blackbox_exporter knows no limit by default; we never read without one.
BODY_LIMIT = 64 * 1024 * 1024
_VERSIONS = {"HTTP/1.0": "1.0", "HTTP/1.1": "1.1", "HTTP/2.0": "2", "HTTP/3.0": "3"}
_COMPRESSIONS = ("", "identity", "gzip", "deflate", "br")


def url_of(http: HttpModule, target: str) -> str:
    """Return the URL that a target means."""
    url = target if target.lower().startswith(("http://", "https://")) else f"http://{target}"
    return f"https://{url[7:]}" if http.enable_http3 and url.lower().startswith("http://") else url


def body_of(http: HttpModule) -> str:
    """Return the body to send; bytes that are no UTF-8 are surrogates.

    Raises: ConfigError.
    """
    return read_bytes(http.body_file).decode("utf-8", "surrogateescape") if http.body_file else http.body


def http_options(
    http: HttpModule, target: str, hostname: str, memory: MemoryFiles, held: list[MemoryFile]
) -> dict[str, Any]:
    """Return our http kind's options, all but the body.

    Raises: ConfigError for what cannot be.
    """
    url = url_of(http, target)
    headers = _headers(http, hostname)
    host_header = next((value for name, value in headers.items() if name.lower() == "host"), "")
    if http.compression not in _COMPRESSIONS:
        raise ConfigError([Problem(f"unsupported compression '{http.compression}'")])
    limit = parse_limit(http.body_size_limit)
    options: dict[str, Any] = {
        "url": url,
        "method": http.method or "GET",
        "follow_redirects": http.follow_redirects if http.no_follow_redirects is None else not http.no_follow_redirects,
        "fail_if_tls": http.fail_if_ssl,
        "fail_if_not_tls": http.fail_if_not_ssl,
        # The certificate is checked for the name that is asked for, as blackbox_exporter does.
        "tls": tls_options(http.tls_config, memory, held, host_header.partition(":")[0]),
        # Every probe does a full handshake, so that the certificate is seen each time.
        "full_handshake_every": "0s",
        # One byte more than the limit tells that there was more; see `over_limit`.
        "body_limit": f"{limit + 1 if limit else BODY_LIMIT}B",
        "body_over": "truncate",
        "compression": "br" if http.compression == "br" else "none",
        "headers": headers,
    }
    options.update(_versions(http, url))
    options.update(_way(http, url))
    if http.valid_status_codes:
        # Codes that no server can send are never a success.
        options["status"] = [code for code in http.valid_status_codes if 100 <= code <= 999] or [999]
    if http.basic_auth is not None:
        username, password = basic_of(http.basic_auth)
        options["basic_auth"] = {"username": username, "password": password}
    return options


def _headers(http: HttpModule, hostname: str) -> dict[str, str]:
    headers = dict(http.headers)
    given = {name.lower(): name for name in headers}
    if hostname and "host" not in given:
        headers["Host"] = hostname
    for name, values in http.http_headers.items():
        text = header_of(values)
        own = given.get(name.lower())
        headers[own or name] = f"{headers[own]}, {text}" if own else text
    authorization = authorization_of(http)
    if authorization and "authorization" not in given:
        headers["Authorization"] = authorization
    return headers


def _versions(http: HttpModule, url: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if http.valid_http_versions:
        # A version that is misspelt, such as HTTP/2, is never the one that answered.
        known = [_VERSIONS[name] for name in http.valid_http_versions if name in _VERSIONS]
        options["accept_versions"] = known or ["0"]
    wants_2 = "HTTP/2.0" in http.valid_http_versions and "HTTP/1.1" not in http.valid_http_versions
    if http.enable_http3:
        options["http_version"] = "3"
    elif url.lower().startswith("https://") and (http.enable_http2 or (wants_2 and http.enable_http2 is not False)):
        options["http_version"] = "2"
    return options


def _way(http: HttpModule, url: str) -> dict[str, Any]:
    """Return how the server is reached: through which proxy, with which version of IP."""
    options: dict[str, Any] = {}
    proxy = "" if http.enable_http3 else proxy_of(http, url, os.environ)
    if proxy:
        options["proxy"] = proxy
        options["proxy_headers"] = {name: ", ".join(values) for name, values in http.proxy_connect_header.items()}
    host = url.partition("//")[2].partition("/")[0].rpartition("@")[2]
    bare = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] if ":" in host else host
    if not is_address(bare):
        options["ip_version"] = "6" if http.preferred_ip_protocol in ("", "ip6") else "4"
        options["ip_fallback"] = http.ip_protocol_fallback
    return options


def http_checks(http: HttpModule) -> tuple[Check, ...]:
    """Return what must hold beside what the probe itself demands."""
    checks = [header_check(rule, fails_if=True) for rule in http.fail_if_header_matches]
    checks += [header_check(rule, fails_if=False) for rule in http.fail_if_header_not_matches]
    if http.compression in ("gzip", "deflate", "br"):
        checks.append(compression_check(http.compression))
    checks += [body_check(text, fails_if=True) for text in http.fail_if_body_matches_regexp]
    checks += [body_check(text, fails_if=False) for text in http.fail_if_body_not_matches_regexp]
    if http.fail_if_body_json_matches_cel is not None:
        checks.append(cel_check(http.fail_if_body_json_matches_cel, fails_if=True))
    if http.fail_if_body_json_not_matches_cel is not None:
        checks.append(cel_check(http.fail_if_body_json_not_matches_cel, fails_if=False))
    return tuple(checks)
