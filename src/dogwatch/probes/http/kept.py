"""A connection kept open between the attempts of one target."""

from __future__ import annotations

import socket
from time import perf_counter
from typing import TYPE_CHECKING

from dogwatch.probes.engine.addresses import Address
from dogwatch.probes.engine.tls import TlsChannel

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

# A kept connection that nobody uses any more (its probe is gone) goes after this time.
KEPT_S = 120.0


class Kept:
    """A connection kept open between attempts; it closes itself when the server does, or after a while."""

    __slots__ = ("address", "bucket", "channel", "engine", "sock")

    def __init__(self, engine: Engine, sock: socket.SocketType, channel: TlsChannel | None, address: Address) -> None:
        self.engine = engine
        self.sock: socket.SocketType | None = sock
        self.channel = channel
        self.address = address
        engine.hand_over(sock, self)
        self.bucket = engine.expire_at(perf_counter() + KEPT_S, self)

    def ready(self, _events: int) -> None:
        # Nothing was asked: it is the end, or something that we must not mistake for the next answer. A TLS server
        # may send session tickets late, but then the next attempt makes a new connection, which is no harm.
        self.close()

    def broken(self, _error: Exception) -> None:
        self.close()

    def expire(self) -> None:
        self.close()

    def take(self) -> socket.SocketType | None:
        """Return the connection for use, None if it has ended."""
        sock, self.sock = self.sock, None
        if sock is not None:
            self.engine.forget(self.bucket, self)
        return sock

    def close(self) -> None:
        sock = self.take()
        if sock is not None:
            self.engine.drop(sock)
