"""Which proxy a request goes through, decided as Go's HTTP client decides it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from dogwatch.probes.blackbox_format import ProxyOptions

_PORTS = {"http": 80, "https": 443}


def proxy_of(options: ProxyOptions, url: str, environ: Mapping[str, str]) -> str:
    """Return the proxy for a URL, "" for none. environ: read only with proxy_from_environment."""
    if options.proxy_from_environment:
        secure = urlsplit(url).scheme == "https"
        proxy = _first(environ, "HTTPS_PROXY", "https_proxy") if secure else _first(environ, "HTTP_PROXY", "http_proxy")
        # Set by a request's own header in a CGI program: never trusted there.
        if not secure and environ.get("REQUEST_METHOD"):
            return ""
        excluded = _first(environ, "NO_PROXY", "no_proxy")
        if proxy and "://" not in proxy:
            proxy = f"http://{proxy}"
        return "" if not proxy or _is_local(url) or is_excluded(url, excluded) else proxy
    if not options.proxy_url:
        return ""
    if options.no_proxy and (_is_local(url) or is_excluded(url, options.no_proxy)):
        return ""
    return options.proxy_url


def _first(environ: Mapping[str, str], *names: str) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def is_excluded(url: str, excluded: str) -> bool:
    """Return whether a list of names, addresses, networks and `*`, some with a port, names a URL's host."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = str(parts.port or _PORTS.get(parts.scheme, 0))
    return any(_names(word.strip().lower(), host, port) for word in excluded.split(",") if word.strip())


def _names(word: str, host: str, port: str) -> bool:
    address = _address(host)
    if word == "*":
        return True
    if "/" in word:
        try:
            return address is not None and address in ipaddress.ip_network(word, strict=False)
        except ValueError:
            return False
    word, wanted = _split_port(word)
    if wanted and wanted != port:
        return False
    if _address(word) is not None:
        return address == _address(word)
    name = word.removeprefix("*").removeprefix(".")
    # `.example.com` and `*.example.com` are only what is below it.
    return host.endswith(f".{name}") or (host == name and word == name)


def _split_port(word: str) -> tuple[str, str]:
    name, colon, port = word.rpartition(":")
    return (name, port) if colon and port.isdigit() and (name.endswith("]") or ":" not in name) else (word, "")
