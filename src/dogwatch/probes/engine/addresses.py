"""Addresses to connect to: literals, socket addresses, and the order in which to try them."""

from __future__ import annotations

import socket
from functools import lru_cache

# (socket.AF_INET or AF_INET6, text); a link-local IPv6 address keeps its zone: fe80::1%eth0.
Address = tuple[int, str]
SocketAddress = tuple[str, int] | tuple[str, int, int, int]


@lru_cache(maxsize=4096)
def literal(host: str) -> Address | None:
    """Return the address if the host is one (IPv6 without brackets), None if it is a name."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):  # ValueError: a NUL in it
        pass
    else:
        return socket.AF_INET, host
    if ":" not in host:
        return None
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):  # ValueError: a NUL in it
        return None
    return socket.AF_INET6, host


def socket_address(address: Address, port: int) -> SocketAddress:
    """Return what connect() takes.

    Raises: OSError for a zone that is no interface of this machine.
    """
    family, host = address
    if family == socket.AF_INET:
        return host, port
    host, _, zone = host.partition("%")
    scope = 0 if not zone else int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    return host, port, 0, scope


def in_order(four: tuple[str, ...], six: tuple[str, ...], family: str) -> tuple[Address, ...]:
    """Return addresses in the order to try: family "4", "6", "4?" and "6?" (prefer), or "auto" (alternate, 6 first)."""
    v4 = tuple((int(socket.AF_INET), host) for host in four)
    v6 = tuple((int(socket.AF_INET6), host) for host in six)
    if family == "4":
        return v4
    if family == "6":
        return v6
    if family == "4?":
        return v4 or v6
    if family == "6?":
        return v6 or v4
    if not v4 or not v6:
        return v6 or v4
    short = min(len(v4), len(v6))
    mixed = tuple(address for pair in zip(v6, v4, strict=False) for address in pair)
    return mixed + v6[short:] + v4[short:]


@lru_cache(maxsize=4096)
def ip_hash(address: Address) -> float:
    """Return blackbox_exporter's probe_ip_addr_hash: FNV-1a, 32 bits, over the packed address."""
    family, host = address
    value = 0x811C9DC5
    for byte in socket.inet_pton(family, host.partition("%")[0]):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return float(value)
