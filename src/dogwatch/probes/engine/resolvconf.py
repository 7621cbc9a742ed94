"""The system's resolver files: /etc/resolv.conf and /etc/hosts."""

from __future__ import annotations

import msgspec

from dogwatch.probes.engine.addresses import literal

MAX_SERVERS = 3
MAX_SEARCH = 6
MAX_HOSTS = 100_000


class ResolverConfig(msgspec.Struct, frozen=True, kw_only=True):
    """servers: (address, port) pairs. timeout_s: for one try at one server. attempts: rounds over all servers."""

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", 53),)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout_s: float = 5.0
    attempts: int = 2
    rotate: bool = False


def parse_resolv_conf(text: str) -> ResolverConfig:
    """Return what a resolv.conf says; lines that make no sense are passed over, as resolvers do.

    Servers may carry a port as `[::1]:5353` or `127.0.0.1:5353` (systemd and BSD write them so).
    """
    servers: list[tuple[str, int]] = []
    search: tuple[str, ...] = ()
    options: dict[str, int] = {}
    rotate = False
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            server = parse_server(words[1])
            if server is not None and len(servers) < MAX_SERVERS:
                servers.append(server)
        elif words[0] == "domain":
            search = (words[1],)
        elif words[0] == "search":
            search = tuple(word for word in words[1:] if word != ".")[:MAX_SEARCH]
        elif words[0] == "options":
            rotate = rotate or "rotate" in words
            for word in words[1:]:
                name, _, number = word.partition(":")
                if number.isdigit():
                    options[name] = int(number)
    return ResolverConfig(
        servers=tuple(servers) or ResolverConfig().servers,
        search=search,
        ndots=min(options.get("ndots", 1), 15),
        timeout_s=float(min(max(options.get("timeout", 5), 1), 30)),
        attempts=min(max(options.get("attempts", 2), 1), 5),
        rotate=rotate,
    )


def parse_server(text: str) -> tuple[str, int] | None:
    """Return (address, port) of `192.0.2.1`, `192.0.2.1:5353`, `::1` or `[::1]:5353`; None for anything else."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if literal(host) is None or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return host, int(port)


def parse_hosts(text: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return lower-case name → (IPv4 addresses, IPv6 addresses), in the order written."""
    hosts: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        address = literal(words[0]) if len(words) > 1 else None
        if address is None:
            continue
        for name in words[1:]:
            key = name.lower().rstrip(".")
            if key not in hosts and len(hosts) >= MAX_HOSTS:
                continue
            four, six = hosts.get(key, ((), ()))
            if ":" in address[1]:
                hosts[key] = four, (*six, address[1])
            else:
                hosts[key] = (*four, address[1]), six
    return hosts
