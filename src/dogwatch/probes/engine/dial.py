"""Connecting: one socket, or a race of several addresses (RFC 8305, Happy Eyeballs)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from dogwatch.probes.engine.addresses import Address, literal, socket_address

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

# RFC 8305, section 5: the recommended delay before the next address is tried beside the last.
RACE_DELAY_S = 0.25
MAX_ADDRESSES = 8
STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EAFNOSUPPORT})

Dialed = Callable[[socket.SocketType | None, Address | None, OSError | None], None]


class SocketOptions(msgspec.Struct, frozen=True):
    """source: local address to connect from. interface: device to leave by (needs CAP_NET_RAW on old kernels)."""

    source: str = ""
    interface: str = ""


def open_socket(family: int, options: SocketOptions | None = None) -> socket.SocketType:
    """Return a non-blocking TCP socket.

    Raises: OSError.
    """
    # SocketType is the C type below socket.socket: half the cost to make, and nothing of the rest is needed.
    sock = socket.SocketType(family, STREAM, 0)
    if options is None:
        return sock
    try:
        if options.interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.interface.encode() + b"\0")
        if options.source:
            source = literal(options.source)
            if source is None or source[0] != family:
                raise OSError(errno.EADDRNOTAVAIL, f"source address {options.source} is of another family")
            sock.bind(socket_address(source, 0))
    except OSError:
        sock.close()
        raise
    return sock


def reason_of(error: OSError) -> str:
    """Return the word of REASONS for why a connection failed."""
    number = error.errno
    if number == errno.ECONNREFUSED:
        return "refused"
    if number in _UNREACHABLE:
        return "unreachable"
    if number in {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}:
        return "reset"
    if number == errno.ETIMEDOUT:
        return "timeout"
    if number in _LOCAL or number in {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODEV}:
        return "local"
    return "unreachable"


def explain(error: OSError) -> str:
    """Return what went wrong for a person, with what to do where this machine is at fault."""
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return "no free file descriptors on this machine; raise LimitNOFILE or lower the engine's limit"
    text = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    if error.errno == errno.EADDRNOTAVAIL and not text.startswith("source"):
        return "no free local port or address"
    return text[:1].lower() + text[1:]


class _Racer:
    """One connecting socket of a race."""

    __slots__ = ("address", "dial", "sock")

    def __init__(self, dial: Dial, address: Address, sock: socket.SocketType) -> None:
        self.dial = dial
        self.address = address
        self.sock = sock

    def ready(self, _events: int) -> None:
        self.dial.answered(self, self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def broken(self, _error: Exception) -> None:
        self.dial.answered(self, errno.ECONNABORTED)


class Dial:
    """A race over addresses: the next starts when one failed or 250 ms passed, the first to connect wins."""

    __slots__ = ("_bucket", "_done", "_engine", "_error", "_next", "_options", "_port", "_racers", "addresses")

    def __init__(
        self, engine: Engine, addresses: tuple[Address, ...], port: int, done: Dialed, options: SocketOptions | None
    ) -> None:
        self.addresses = addresses[:MAX_ADDRESSES]
        self._engine = engine
        self._port = port
        self._done: Dialed | None = done
        self._options = options
        self._next = 0
        self._racers: list[_Racer] = []
        self._bucket = 0
        self._error: OSError | None = None

    def start(self) -> None:
        """Try the next address; moves on by itself while addresses fail at once."""
        engine = self._engine
        while self._done is not None and self._next < len(self.addresses):
            address = self.addresses[self._next]
            self._next += 1
            try:
                sock = open_socket(address[0], self._options)
            except OSError as error:
                self._note(error)
                continue
            try:
                code = sock.connect_ex(socket_address(address, self._port))
                if code not in {0, errno.EINPROGRESS}:
                    raise OSError(code, os.strerror(code))
                racer = _Racer(self, address, sock)
                engine.watch(sock, racer)
            except OSError as error:
                self._note(error)
                sock.close()
                continue
            self._racers.append(racer)
            if self._next < len(self.addresses):
                self._bucket = engine.expire_at(perf_counter() + RACE_DELAY_S, self)
            return
        if not self._racers:
            self._finish(None, None, self._error or OSError(errno.EHOSTUNREACH, "no address to connect to"))

    def expire(self) -> None:
        """The head start of the last address is over."""
        self._bucket = 0
        self.start()

    def answered(self, racer: _Racer, code: int) -> None:
        self._racers.remove(racer)
        if code == 0:
            self._finish(racer.sock, racer.address, None)
            return
        self._engine.drop(racer.sock)
        self._note(OSError(code, os.strerror(code)))
        if self._bucket:
            self._engine.forget(self._bucket, self)
            self._bucket = 0
        self.start()

    def cancel(self) -> None:
        self._done = None
        self._release()

    def _note(self, error: OSError) -> None:
        # The first failure is kept: it is that of the preferred address. One of this machine's own comes before.
        if error.errno in _LOCAL:
            self._engine.local_errors_total += 1
        if self._error is None or (error.errno in _LOCAL and self._error.errno not in _LOCAL):
            self._error = error

    def _release(self) -> None:
        if self._bucket:
            self._engine.forget(self._bucket, self)
            self._bucket = 0
        for racer in self._racers:
            self._engine.drop(racer.sock)
        self._racers.clear()

    def _finish(self, sock: socket.SocketType | None, address: Address | None, error: OSError | None) -> None:
        done, self._done = self._done, None
        self._release()
        if done is not None:
            done(sock, address, error)
        elif sock is not None:
            self._engine.drop(sock)
