"""The first half of an attempt: waiting for a slot → resolving → connecting → TLS; and how every attempt ends.

`ready` is the current state: the engine calls whatever function stands there.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from select import EPOLLERR, EPOLLHUP, EPOLLRDHUP
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from dogwatch.probes.engine.addresses import Address, socket_address
from dogwatch.probes.engine.dial import explain, open_socket, reason_of
from dogwatch.probes.engine.engine import READ_BYTES
from dogwatch.probes.engine.tls import TlsChannel, TlsFailed
from dogwatch.probes.http.plan import HttpPlan, Resumption
from dogwatch.probes.http.request import Hop
from dogwatch.probes.http.response import Body, Head
from dogwatch.probes.http.result import build
from dogwatch.probes.probe import Attempt, Done

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

FAILED = EPOLLERR | EPOLLHUP
ENDING = EPOLLERR | EPOLLHUP | EPOLLRDHUP


def idle(_events: int) -> None:
    """The state in which nothing is expected."""


class ConnectingAttempt(msgspec.Struct, eq=False):
    """The half of an attempt up to a connection that can be written to.

    Timings are sums over redirects; `mark_s` is where the running phase began. A msgspec struct because its many
    fields get their defaults in C: a fifth of what an `__init__` costs.
    """

    engine: Engine
    plan: HttpPlan
    attempt: Attempt
    done: Done | None
    hop: Hop
    keep: int
    ready: Callable[[int], None] = idle
    sock: socket.SocketType | None = None
    channel: TlsChannel | None = None
    resumption: Resumption | None = None
    address: Address | None = None
    cancel_step: Callable[[], None] | None = None
    head: Head | None = None
    body: Body | None = None
    buffer: bytes | bytearray = b""
    outgoing: bytes = b""
    scanned: int = 0
    interim: int = 0
    redirects: int = 0
    bucket: int = 0
    chain: tuple[bytes, ...] = ()
    tls_version: str = ""
    failure: tuple[str, str] | None = None
    started: bool = False
    finished: bool = False
    reused: bool = False
    resumed: bool = False
    ending: bool = False
    received_any: bool = False
    launching: bool = True
    resolving: bool = False
    doing: str = "waiting for a free slot"
    launched_s: float = 0.0
    mark_s: float = 0.0
    resolve_s: float = 0.0
    connect_s: float = 0.0
    tls_s: float = 0.0
    first_byte_s: float = 0.0
    transfer_s: float = 0.0

    # -- beginning and end --------------------------------------------------------------------------------------

    def launch(self) -> None:
        engine = self.engine
        self.launched_s = self.mark_s = perf_counter()
        self.bucket = engine.expire_at(self.launched_s + self.attempt.timeout_s, self)
        if not engine.admit(self):
            self.fail("local", "too many attempts are waiting for a free slot already")
        self.launching = False

    def start(self) -> None:
        self.started = True
        self.launched_s = perf_counter()
        self._hop(self.hop)

    def expire(self) -> None:
        self.bucket = 0
        self.fail("timeout", f"no answer within {self.attempt.timeout_s:g} s, {self.doing}")

    def broken(self, error: Exception) -> None:
        self.fail("local", f"internal error: {error!r}")

    def cancel(self) -> None:
        """Release everything and never call done; nothing happens after the end."""
        self.done = None
        if not self.finished:
            self.finished = True
            self._release()

    def fail(self, reason: str, message: str) -> None:
        if self.finished:
            return
        if self.failure is None:
            self.failure = (reason, message)
        self._finish()

    def _finish(self) -> None:
        self.finished = True
        self._release()
        done = self.done
        if done is None:
            return
        result = build(self, perf_counter())
        if not result.success:
            self.plan.resumptions.clear()  # the next handshake is a full one, whatever was wrong
        if self.launching:
            # The caller does not even have our cancel function yet.
            self.cancel_step = self.engine.loop.call_soon(self._deliver, done, result).cancel
            return
        self.done = None
        done(result)

    def _deliver(self, done: Done, result: object) -> None:
        if self.done is not None:
            self.done = None
            done(result)  # type: ignore[arg-type]

    def _release(self) -> None:
        engine = self.engine
        if self.bucket:
            engine.forget(self.bucket, self)
            self.bucket = 0
        self._disconnect()
        if self.started:
            self.started = False
            engine.leave()
        elif self.launched_s:
            engine.abandon(self)

    def _disconnect(self) -> None:
        self.ready = idle
        if self.cancel_step is not None:
            self.cancel_step()
            self.cancel_step = None
        if self.sock is not None:
            self.engine.drop(self.sock)
            self.sock = None
        self.channel = None

    # -- resolving and connecting -------------------------------------------------------------------------------

    def _hop(self, hop: Hop) -> None:
        """Begin one request: on the kept connection, or on a new one."""
        self.hop = hop
        plan = self.plan
        kept = plan.kept
        self.mark_s = perf_counter()
        if kept is not None and hop is plan.first:
            plan.kept = None
            sock = kept.take()
            if sock is not None:
                self.sock, self.channel, self.address, self.reused = sock, kept.channel, kept.address, True
                if kept.channel is not None:
                    self.chain = plan.resumption(hop.place.origin).chain
                    self.tls_version = kept.channel.version()
                self.engine.hand_over(sock, self)
                self._send_request()
                return
        override = plan.override if not hop.foreign else None
        address = override or hop.address
        if address is not None:
            self._connect((address,))
            return
        name = plan.probe.resolve if plan.probe.resolve and not hop.foreign else hop.place.host
        known = self.engine.resolver.known(name, plan.family)
        if known is not None:
            self._resolved(known, "")
            return
        self.doing = f"resolving {name}"
        deadline_s = self.mark_s + self.attempt.timeout_s  # ours ends it before
        self.resolving = True
        cancel = self.engine.resolve(name, plan.family, deadline_s, self._resolved)
        if self.resolving:  # else it was known after all, and everything has gone on
            self.cancel_step = cancel

    def _resolved(self, addresses: tuple[Address, ...], message: str) -> None:
        self.cancel_step = None
        self.resolving = False
        now_s = perf_counter()
        self.resolve_s += now_s - self.mark_s
        self.mark_s = now_s
        if not addresses:
            self.fail("resolve", f"cannot resolve {self.hop.place.host}: {message}")
            return
        self._connect(addresses)

    def _connect(self, addresses: tuple[Address, ...]) -> None:
        plan = self.plan
        port = self.hop.place.port
        if len(addresses) > 1:
            self.doing = f"connecting to {self.hop.place.host} ({len(addresses)} addresses)"
            self.cancel_step = cancel = self.engine.dial(addresses, port, self._dialed, plan.socket_options)
            if self.sock is not None or self.finished:
                cancel()
                self.cancel_step = None
            return
        self.address = address = addresses[0]
        self.doing = "connecting"
        try:
            sock = open_socket(address[0], plan.socket_options)
        except OSError as error:
            self.engine.local_errors_total += 1
            self.fail("local", f"cannot open a socket: {explain(error)}")
            return
        self.sock = sock
        try:
            code = sock.connect_ex(socket_address(address, port))
            if code not in {0, errno.EINPROGRESS}:
                raise OSError(code, os.strerror(code))
            self.ready = self._connecting
            self.engine.watch(sock, self)
        except OSError as error:
            self._not_connected(error)

    def _not_connected(self, error: OSError) -> None:
        place = self.hop.place
        where = self.address[1] if self.address is not None else place.host
        where = f"[{where}]" if ":" in where else where
        self.fail(reason_of(error), f"cannot connect to {where}:{place.port}: {explain(error)}")

    def _dialed(self, sock: socket.SocketType | None, address: Address | None, error: OSError | None) -> None:
        self.cancel_step = None
        if sock is None:
            self._not_connected(error or OSError(errno.EHOSTUNREACH, "no route"))
            return
        self.sock, self.address = sock, address
        self.engine.hand_over(sock, self)
        self._connected()

    def _connecting(self, events: int) -> None:
        sock = self.sock
        if sock is None:
            return
        if events & FAILED:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._not_connected(OSError(code, os.strerror(code)))
                return
        self._connected()

    def _connected(self) -> None:
        now_s = perf_counter()
        self.connect_s += now_s - self.mark_s
        self.mark_s = now_s
        if self.hop.tls:
            self._begin_tls()
        else:
            self._send_request()

    # -- TLS ----------------------------------------------------------------------------------------------------

    def _begin_tls(self) -> None:
        plan, place = self.plan, self.hop.place
        self.doing = "in the TLS handshake"
        probe = plan.probe
        name = probe.tls.server_name if probe.tls.server_name and not self.hop.foreign else place.host.partition("%")[0]
        policy = plan.policy if self.failure is None else plan.inspect_policy
        self.resumption = known = plan.resumption(place.origin)
        session = None
        if known.session is not None and self.mark_s - known.full_s < probe.full_handshake_every:
            session = known.session
        try:
            self.channel = channel = self.engine.tls.channel(policy, name, session)
            channel.handshake()
        except TlsFailed as error:
            self.fail(error.reason, error.message)
            return
        self.ready = self._handshaking
        self._send(channel.outgoing())

    def _handshaking(self, events: int) -> None:
        channel, sock = self.channel, self.sock
        if channel is None or sock is None:
            return
        if self.outgoing:
            self._flush()
        try:
            while True:
                count = sock.recv_into(self.engine.buffer)
                channel.feed(self.engine.view[:count])
                if channel.handshake():
                    self._tls_done(channel)
                    return
                if data := channel.outgoing():
                    self._send(data)
                if self.sock is None or (count < READ_BYTES and not events & ENDING):
                    return
        except BlockingIOError:
            return
        except TlsFailed as error:
            self._tls_failed(error)
        except OSError as error:
            self.fail("reset" if reason_of(error) == "reset" else "tls", f"TLS handshake: {explain(error)}")

    def _tls_done(self, channel: TlsChannel) -> None:
        now_s = perf_counter()
        self.tls_s += now_s - self.mark_s
        self.mark_s = now_s
        known = self.resumption
        self.resumed = channel.resumed()
        self.tls_version = channel.version()
        if known is None:
            return
        if self.failure is not None:  # this handshake was only to see the certificate that was not trusted
            self.chain = channel.chain()
            self._finish()
            return
        if self.resumed:
            self.engine.tls.resumed_total += 1
            self.chain = known.chain
        else:
            self.engine.tls.full_total += 1
            known.refusals += known.session is not None and now_s - known.full_s < self.plan.probe.full_handshake_every
            self.chain = known.chain = channel.chain()
            known.full_s = now_s
            known.session = None
        self._send_request()

    def _tls_failed(self, error: TlsFailed) -> None:
        """End, after one more look without verification where the certificate was at fault: its dates say why."""
        if self.channel is not None:
            with suppress(OSError):
                if self.sock is not None:
                    self.sock.send(self.channel.outgoing())  # the alert
        if error.reason != "certificate" or self.failure is not None or self.address is None:
            self.fail(error.reason, f"TLS with {self.hop.place.host}: {error.message}")
            return
        self.tls_s += perf_counter() - self.mark_s
        self.failure = ("certificate", f"certificate of {self.hop.place.host}: {error.message}")
        self.plan.resumptions.clear()
        self._disconnect()
        self._connect((self.address,))

    # -- the other half -----------------------------------------------------------------------------------------

    def _send_request(self) -> None:
        raise NotImplementedError

    def _send(self, data: bytes) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        raise NotImplementedError
