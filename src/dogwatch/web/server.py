"""Runs the application on sockets that somebody else owns, inside an event loop that somebody else runs."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dogwatch.web.application import WebApplication
from dogwatch.web.meter import Meter
from dogwatch.web.recognise import CERTIFICATE
from dogwatch.web.tls import Tls, certificate_names

log = logging.getLogger(__name__)
# What parsing one request may cost of the loop. A body of one-byte chunks costs a thousand times what others do.
_PARSING_MOST_S = 0.25
# After this others have their turn: many such callers at once must not hold everybody up.
_PARSING_AT_ONCE_S = 0.01
# A head in one piece, so that one that is too large is told so and not that it is broken.
_HEAD_AT_ONCE, _BODY_AT_ONCE = 65536, 8192
# How long after the last accepted connection its request, or the next one of a kept connection, may still arrive.
DRAIN_S = 0.3


class _Protocol(H11Protocol):
    """Closes a connection whose first request does not arrive in time; uvicorn only times the pause between requests.

    h11 bounds the head's size, and is strict where lenience lets a request be smuggled past a proxy.
    """

    head_timeout_s = 20.0
    meter: Meter
    _parsing_s = 0.0
    # Received, and not yet parsed.
    _waiting = b""
    # Set on the server's own subclass, and so for all its connections at once.
    draining = False
    _head_timer: asyncio.TimerHandle | None = None
    _asked = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        names = certificate_names(transport.get_extra_info("peercert"))
        if names:
            self.app_state = {**self.app_state, CERTIFICATE: names}
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        # Uvicorn would keep the lost connection until the timer rings.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._waiting:
            self._waiting += data
            self.transport.pause_reading()
            return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        before = self.cycle
        start = 0
        turn_s = 0.0
        # An answer to what cannot be parsed ends the connection.
        while start < len(data) and not self.transport.is_closing():
            if turn_s > _PARSING_AT_ONCE_S:
                self._waiting = data[start:]
                self.transport.pause_reading()
                asyncio.get_running_loop().call_later(0.001, self._parse_on)
                break
            end = self._end_of_piece(data, start)
            began_s = time.thread_time()
            super().data_received(data[start:end])
            turn_s += time.thread_time() - began_s
            start = end
            if self._parsing_s + turn_s > _PARSING_MOST_S:
                self.transport.abort()
                return
        self._parsing_s += turn_s
        self._parsed(before)

    def _end_of_piece(self, data: bytes, start: int) -> int:
        if getattr(self.cycle, "more_body", False):  # there is no cycle before the first request
            return start + _BODY_AT_ONCE
        end = data.find(b"\r\n\r\n", start, start + _HEAD_AT_ONCE)
        return start + _HEAD_AT_ONCE if end < 0 else end + 4

    def _parse_on(self) -> None:
        data, self._waiting = self._waiting, b""
        if self.transport.is_closing():
            return
        self._parse(data)
        if not self._waiting and not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _parsed(self, before: object) -> None:
        """Follow what parsing has led to. before: the request that was being answered until then."""
        if self.cycle is not before:
            self._parsing_s = 0.0
            self._asked = True
            self._stop_timer()
            if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
                # Uvicorn has answered by itself.
                self.meter.refused(503)
            if self.draining:
                # It is answered, and the client is told not to send another one here. The application has not begun.
                self.cycle.keep_alive = False
                self.headers.append((b"connection", b"close"))
        elif self._head_timer is None and self._asked and self.cycle.response_complete:
            # The next request of a kept connection has begun: uvicorn has just stopped its own timer.
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        self.meter.refused(400)
        super().send_400_response(msg)

    def _await_head(self) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(self.head_timeout_s, self._too_late)

    def _too_late(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


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
    protocol: Any = type(
        "Protocol", (_Protocol,), {"head_timeout_s": options.request_timeout, "meter": app.context.meter}
    )
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
        h11_max_incomplete_event_size=options.header_limit,
    )
    config.load()
    tls = Tls(options.tls) if options.tls is not None else None
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
