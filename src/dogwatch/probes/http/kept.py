"""A connection kept open between the attempts of one target."""

from __future__ import annotations

import socket
from time import perf_counter
from typing import TYPE_CHECKING

from dogwatch.probes.engine.addresses import Address
from dogwatch.probes.engine.engine import Direct
from dogwatch.probes.engine.tls import TlsChannel
from dogwatch.probes.lane import Lane

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

# A kept connection that nobody uses any more (its probe is gone) goes after this time.
KEPT_S = 120.0


class Kept(Direct):
    """The place for a target's connection between attempts; it closes itself when the server does, or after a while.

    The deadline stays where it is while the connection comes and goes, and is looked at when it is due: moving it
    with every attempt would cost more than keeping the connection saves.
    """

    __slots__ = ("address", "bucket", "channel", "engine", "since_s", "sock", "user")

    def __init__(self, engine: Engine, address: Address) -> None:
        self.engine = engine
        self.sock: socket.SocketType | None = None
        self.channel: TlsChannel | None = None
        self.address = address
        self.since_s = 0.0
        self.bucket = 0
        # Who asks on the connection without having taken it away: it stays registered here, which costs nothing.
        self.user: Lane | None = None

    def put(self, sock: socket.SocketType, channel: TlsChannel | None, address: Address, now_s: float) -> None:
        """Keep a connection; of two, where attempts ran side by side, the second."""
        if self.sock is not None and self.user is None:
            self.engine.drop(self.sock)
        self.user = None
        self.sock, self.channel, self.address, self.since_s = sock, channel, address, now_s
        self.engine.hand_over(sock, self)
        if not self.bucket:
            self.bucket = self.engine.expire_at(now_s + KEPT_S, self)

    def ready(self, events: int) -> None:
        if self.user is not None:
            self.user.ready(events)
            return
        # Nothing was asked: it is the end, or something that we must not mistake for the next answer. A TLS server
        # may send session tickets late, but then the next attempt makes a new connection, which is no harm.
        self.close()

    def broken(self, error: Exception) -> None:
        if self.user is not None:
            self.user.broken(error)
        else:
            self.close()

    def expire(self) -> None:
        self.bucket = 0
        if self.sock is None:
            return
        now_s = perf_counter()
        until_s = (self.since_s if self.user is None else now_s) + KEPT_S
        if until_s > now_s:
            self.bucket = self.engine.expire_at(until_s, self)
        else:
            self.close()

    def take(self) -> socket.SocketType | None:
        """Return the connection for use, None if it has ended."""
        sock, self.sock, self.user = self.sock, None, None
        return sock

    def close(self) -> None:
        sock = self.take()
        if sock is not None:
            self.engine.drop(sock)
        if self.bucket:
            self.engine.forget(self.bucket, self)
            self.bucket = 0
