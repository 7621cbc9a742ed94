"""From what people write (`db-1:5432`, `[::1]:22`) to addresses that a socket connects to."""

from __future__ import annotations

import asyncio
import socket
from time import perf_counter
from typing import Any

from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import ProbeFailed

SocketAddress = tuple[Any, ...]
MAX_ADDRESSES = 8


def split_host_port(text: str, default_port: int = 0) -> tuple[str, int]:
    """Return (host, port) of `host:port`, `[v6]:port`, `host` or a bare IPv6 address.

    Raises: ValueError with what is accepted.
    """
    host, port = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(f"'{text}' is not an address; write it as host:port or [::1]:port")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"'{port}' is not a port; it is a number from 1 to 65535")
    if not host or any(char.isspace() or char == "/" for char in host):
        raise ValueError(f"'{text}' is not an address; write it as host:port or [::1]:port")
    return host, int(port) if port else default_port


def host_faults(host: str, port: int, default_port: int = 0) -> list[tuple[tuple[str | int, ...], str, str]]:
    """Return what is wrong with a `host` option that may carry the port, and a `port` option."""
    try:
        _, found = split_host_port(host, default_port)
    except ValueError as error:
        return [(("host",), str(error), "")]
    if not found and not port:
        return [(("port",), "is missing", "give port: 5432, or host: 'db-1:5432'")]
    return []


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def literal(host: str, port: int) -> tuple[int, SocketAddress] | None:
    """Return (family, socket address) if the host is an IP address, None if it is a name."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        pass
    else:
        return socket.AF_INET, (host, port)
    address, _, zone = host.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
        scope = (int(zone) if zone.isdigit() else socket.if_nametoindex(zone)) if zone else 0
    except (OSError, ValueError):
        return None
    return socket.AF_INET6, (address, port, 0, scope)


async def resolve_host(
    attempt: Attempt, host: str, port: int, ip_version: int | None, deadline: float, *, fallback: bool = False
) -> list[tuple[int, SocketAddress]]:
    """Return (family, socket address) of a host, best first, at most MAX_ADDRESSES.

    ip_version: 4 or 6 for only those. fallback: the other version if the host has none of that. deadline: on the
    event loop's clock.
    An IP literal is never resolved. The engine's own resolver is asked where there is one; otherwise the system's, in
    asyncio's bounded threads.
    Raises: ProbeFailed with reason "resolve".
    """
    known = literal(host, port)
    if known is not None:
        if ip_version is not None and not fallback and (known[0] == socket.AF_INET6) != (ip_version == 6):
            raise ProbeFailed("resolve", f"{host} is not an IPv{ip_version} address")
        return [known]
    loop = asyncio.get_running_loop()
    left_s = max(deadline - loop.time(), 0.001)
    try:
        if attempt.env.engine is not None:
            texts = await _by_the_engine(attempt.env.engine, host, ip_version, left_s, fallback)
            found = [address for text in texts if (address := literal(text, port)) is not None]
        else:
            found = await _by_the_system(loop, host, port, None if fallback else ip_version, left_s)
            wanted = socket.AF_INET6 if ip_version == 6 else socket.AF_INET
            if fallback and any(family == wanted for family, _ in found):
                found = [one for one in found if one[0] == wanted]
    except TimeoutError as error:
        raise ProbeFailed("resolve", f"cannot resolve {host}: no answer within {left_s:.3g} s") from error
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ProbeFailed("resolve", f"cannot resolve {host}: {why}") from error
    if not found:
        raise ProbeFailed("resolve", f"cannot resolve {host}: it has no {_wanted(ip_version)}")
    return found[:MAX_ADDRESSES]


def _wanted(ip_version: int | None) -> str:
    return f"IPv{ip_version} address" if ip_version else "address"


async def _by_the_engine(engine: Any, host: str, ip_version: int | None, left_s: float, fallback: bool) -> list[str]:
    """Return addresses as the engine's own resolver finds them: cached, shared by all who ask, without a thread."""
    answer: asyncio.Future[tuple[tuple[tuple[int, str], ...], str]] = asyncio.get_running_loop().create_future()

    def done(addresses: tuple[tuple[int, str], ...], message: str) -> None:
        if not answer.done():
            answer.set_result((addresses, message))

    family = f"{ip_version}{'?' if fallback else ''}" if ip_version else "auto"
    cancel = engine.resolve(host, family, perf_counter() + left_s, done)
    try:
        addresses, message = await answer
    finally:
        cancel()
    if not addresses:
        raise ProbeFailed("resolve", f"cannot resolve {host}: {message}")
    return [text for _, text in addresses]


async def _by_the_system(
    loop: asyncio.AbstractEventLoop, host: str, port: int, ip_version: int | None, left_s: float
) -> list[tuple[int, SocketAddress]]:
    family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(ip_version or 0, socket.AF_UNSPEC)
    async with asyncio.timeout(left_s):
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return [(int(item[0]), item[4]) for item in found]
