"""Runs the application on sockets that somebody else owns, inside an event loop that somebody else runs."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any, cast

import uvicorn

from dogwatch.web.application import WebApplication
from dogwatch.web.protocol import HttpProtocol
from dogwatch.web.tls import Tls

log = logging.getLogger(__name__)
# How long after the last accepted connection its request, or the next one of a kept connection, may still arrive.
DRAIN_S = 0.3


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers and its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # renews the Date header
            try:
                async with asyncio.timeout(1.0):
                    await self._stop.wait()
            except TimeoutError:
                continue
            return


async def serve(
    app: WebApplication,
    sockets: Sequence[socket.socket],
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    grace_s: float = 10.0,
) -> None:
    """Serve until `stop` is set, then: take no new connections → end the live streams → let requests in flight finish,
    up to grace_s → cancel them.

    Streams end first and not last: they never finish by themselves, and their clients at once reconnect to whoever
    listens now, which after a restart is the new process.

    sockets: bound; they stay the caller's, open, so that they can be handed to a new process. ready: set once
    connections are accepted. Cancelling this stops at once.
    """
    options = app.context.options
    own_protocol = {
        "head_timeout_s": options.request_timeout,
        "head_limit": options.header_limit,
        "meter": app.context.meter,
    }
    protocol: Any = type("Protocol", (HttpProtocol,), own_protocol)
    config = uvicorn.Config(
        cast("Any", app),
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=1024,
        limit_concurrency=options.connections,
        timeout_keep_alive=max(1, round(options.keep_alive)),
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    config.load()

    def verify_anew() -> None:
        for connection in list(server.server_state.connections):
            connection.end_if_shown()  # type: ignore[union-attr]

    tls = protocol.tls = Tls(options.tls, verify_anew) if options.tls is not None else None
    if tls is not None:
        config.ssl = tls.context
        # Uvicorn asks for the class's own flag.
    server = _Server(config, stop)
    server.lifespan = config.lifespan_class(config)
    own = [sock.dup() for sock in sockets]
    for sock in own:
        sock.setblocking(False)
    running = False
    try:
        await server.startup(sockets=own)
        running = True
        if ready is not None:
            ready.set()
        renewing = asyncio.create_task(tls.keep_fresh(), name="certificates") if tls is not None else None
        try:
            await server.main_loop()
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
        await _refuse(server)
        app.context.streams.closing.set()
        protocol.draining = True
        await _drain(server)
        await server.shutdown(sockets=own)
    finally:
        app.context.streams.closing.set()
        await _abandon(server if running else None, own)


async def _refuse(server: _Server) -> None:
    """Take no new connections.

    asyncio's own loop (not uvloop) forgets a connection, and its descriptor, that it accepted in the very step in which
    the server is closed: it stops accepting one step earlier.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        for sock in (sock for one in server.servers for sock in one.sockets):
            loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)
    for one in server.servers:
        one.close()


async def _drain(server: _Server) -> None:
    """Give requests that are on their way a moment to arrive: uvicorn closes idle connections with them in flight."""
    for _ in range(10):
        if not server.server_state.connections:
            return
        await asyncio.sleep(DRAIN_S / 10)


async def _abandon(server: _Server | None, sockets: Sequence[socket.socket]) -> None:
    """Leave nothing behind, however serving ended."""
    if server is not None:
        for one in server.servers:
            one.close()
    for sock in sockets:
        sock.close()
    if server is None:
        return
    tasks = [task for task in server.server_state.tasks if not task.done()]
    for task in tasks:
        task.cancel()
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
