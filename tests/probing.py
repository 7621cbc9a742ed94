"""What tests of probes share: an attempt, peers on loopback, and a count of what is open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trustme

from dogwatch.probes.probe import Attempt, Probe, ProbeEnv, ProbeResult, attempt_once

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def new_attempt(timeout_s: float = 2.0, *, target: str = "t", engine: Any = None, **extra: Any) -> Attempt:
    env = ProbeEnv(engine=engine, tasks=set(), extra=extra)
    return Attempt(target=target, timeout_s=timeout_s, env=env, memory={})


async def ask(probe: Probe, timeout_s: float = 2.0, **extra: Any) -> ProbeResult:
    """Run one attempt, and wait for what it left in the background (there is a bound on that, too)."""
    attempt = new_attempt(timeout_s, **extra)
    result = await attempt_once(probe, attempt)
    async with asyncio.timeout(60):
        while attempt.env.tasks:
            await asyncio.sleep(0)
            await asyncio.gather(*attempt.env.tasks, return_exceptions=True)
    return result


def open_descriptors() -> dict[str, str]:
    """Return the open descriptors and what they are."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[path.name] = str(path.readlink())
    return found


def children() -> set[str]:
    """Return the pids of this process's children."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found |= set((task / "children").read_text().split())
    return found


@contextlib.asynccontextmanager
async def peer(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a free port of 127.0.0.1; a handler's connection is closed when it returns."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def silent_tcp() -> Iterator[int]:
    """A port on which connections are taken by the kernel and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@contextlib.contextmanager
def silent_udp() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def server_context(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


class Trust:
    """A certificate authority of the test, and its file."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)

    def server(self, *names: str, **options: Any) -> ssl.SSLContext:
        return server_context(self.ca.issue_cert(*(names or ("localhost", "127.0.0.1")), **options))
