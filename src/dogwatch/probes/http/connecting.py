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
from socket import SocketType
from time import perf_counter
from typing import TYPE_CHECKING

from dogwatch.probes.engine.addresses import Address, socket_address
from dogwatch.probes.engine.dial import STREAM, explain, open_socket, reason_of
from dogwatch.probes.engine.engine import READ_BYTES, READING
from dogwatch.probes.engine.tls import TlsChannel, TlsFailed
from dogwatch.probes.http.plan import HttpPlan, Resumption
from dogwatch.probes.http.request import Hop
from dogwatch.probes.http.response import Body, Head
from dogwatch.probes.http.result import build
from dogwatch.probes.probe import Attempt, Done

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

_IPV4, _TCP, _QUICKACK = int(socket.AF_INET), socket.IPPROTO_TCP, socket.TCP_QUICKACK
FAILED = EPOLLERR | EPOLLHUP
ENDING = EPOLLERR | EPOLLHUP | EPOLLRDHUP


def idle(_events: int) -> None:
    """The state in which nothing is expected."""


class ConnectingAttempt:
    """The half of an attempt up to a connection that can be written to.

    Timings are sums over redirects; `mark_s` is where the running phase began. Plain slots: setting a field of a
    msgspec struct costs seven times as much, and an attempt sets some thirty.
    """

    __slots__ = (
        "address", "attempt", "body", "bucket", "buffer", "cancel_step", "chain", "channel", "connect_s", "doing",
        "done", "ending", "engine", "failure", "finished", "first_byte_s", "head", "hop", "interim", "keep",
        "launched_s", "launching", "mark_s", "outgoing", "plan", "ready", "received_any", "redirects", "resolve_s",
        "resolving", "resumed", "resumption", "reused", "scanned", "sock", "started", "tls_cipher", "tls_s",
        "tls_version", "transfer_s",
    )  # fmt: skip

    def __init__(self, engine: Engine, plan: HttpPlan, attempt: Attempt, done: Done) -> None:
        self.engine = engine
        self.plan = plan
        self.attempt = attempt
        self.done: Done | None = done
        self.hop = plan.first
        self.keep = plan.keep(attempt.wants)
        self.ready: Callable[[int], None] = idle
        self.sock: socket.SocketType | None = None
        self.channel: TlsChannel | None = None
        self.resumption: Resumption | None = None
        self.address: Address | None = None
        self.cancel_step: Callable[[], None] | None = None
        self.head: Head | None = None
        self.body: Body | None = None
        self.buffer: bytes | bytearray = b""
        self.outgoing = b""
        self.chain: tuple[bytes, ...] = ()
        self.tls_version = self.tls_cipher = ""
        self.failure: tuple[str, str] | None = None
        self.scanned = self.interim = self.redirects = self.bucket = 0
        self.started = self.finished = self.reused = self.resumed = False
        self.ending = self.received_any = self.resolving = False
        self.launching = True
        self.doing = "waiting for a free slot"
        self.launched_s = self.mark_s = 0.0
        self.resolve_s = self.connect_s = self.tls_s = self.first_byte_s = self.transfer_s = 0.0

    # -- beginning and end --------------------------------------------------------------------------------------

    def launch(self) -> None:
        engine = self.engine
        self.launched_s = self.mark_s = now_s = perf_counter()
        self.bucket = engine.expire_at(now_s + self.attempt.timeout_s, self)
        if not engine.admit(self):
            self.fail("local", "too many attempts are waiting for a free slot already")
        self.launching = False

    def resume(
        self,
        times_s: tuple[float, float, float],
        address: Address | None,
        sock: socket.SocketType | None,
        *,
        reused: bool,
    ) -> None:
        """Take over from a lane that has a slot already. times_s: launched_s, mark_s, connect_s.

        One of the methods below says how it goes on.
        """
        self.launched_s, self.mark_s, self.connect_s = times_s
        self.started = True
        self.launching = False
        self.address, self.sock, self.reused = address, sock, reused
        self.bucket = self.engine.expire_at(self.launched_s + self.attempt.timeout_s, self)
        self.doing = "connecting"
        if sock is not None:
            self.engine.hand_over(sock, self)

    def start(self) -> None:
        self.started = True
        if not self.launching:  # it has waited for its slot
            self.launched_s = self.mark_s = perf_counter()
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
        self._finish(perf_counter())

    def _finish(self, now_s: float) -> None:
        self.finished = True
        self._release()
        done = self.done
        if done is None:
            return
        result = build(self, now_s)
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
        """Begin one request, at `mark_s`: on the kept connection, or on a new one."""
        self.hop = hop
        plan = self.plan
        kept = plan.kept
        if kept is not None and hop is plan.first:
            sock = kept.take()
            if sock is not None:
                self.sock, self.channel, self.address, self.reused = sock, kept.channel, kept.address, True
                if kept.channel is not None:
                    self.chain = plan.resumption(hop.place.origin).chain
                    self.tls_version = kept.channel.version()
                self.engine.hand_over(sock, self)
                self._send_request()
                return
        address = hop.address if hop.foreign or plan.override is None else plan.override
        if address is not None:
            self.connect_to(address)
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
        if len(addresses) > 1:
            place, options = self.hop.place, self.plan.socket_options
            self.doing = f"connecting to {place.host} ({len(addresses)} addresses)"
            self.cancel_step = cancel = self.engine.dial(addresses, place.port, self._dialed, options)
            if self.sock is not None or self.finished:
                cancel()
                self.cancel_step = None
            return
        self.connect_to(addresses[0])

    def connect_to(self, address: Address) -> None:
        plan, engine = self.plan, self.engine
        self.address = address
        self.doing = "connecting"
        try:
            options = plan.socket_options
            sock = open_socket(address[0], options) if options is not None else SocketType(address[0], STREAM, 0)
        except OSError as error:
            engine.local_errors_total += 1
            self.fail("local", f"cannot open a socket: {explain(error)}")
            return
        self.sock = sock
        try:
            # Whatever we speak, we speak first: our half of the handshake's end leaves with it, one packet less.
            sock.setsockopt(_TCP, _QUICKACK, 0)
            port = self.hop.place.port
            code = sock.connect_ex((address[1], port) if address[0] == _IPV4 else socket_address(address, port))
            if code and code != errno.EINPROGRESS:
                raise OSError(code, os.strerror(code))
            if plan.near and not self.hop.tls and self._sent_at_once(sock):
                return
            self.ready = self.connecting
            engine.watch(sock, self)
        except OSError as error:
            self.not_connected(error)

    def _sent_at_once(self, sock: socket.SocketType) -> bool:
        """Send the request right behind the call to connect; False if the peer has not answered that yet.

        On the same machine or a fast network it has, and waiting to be told so costs a turn of the loop. Where it
        has not, the target is not near, and this is not tried again.
        Raises: OSError that says why there is no connection.
        """
        request = self.hop.request
        try:
            sent = sock.send(request)
        except BlockingIOError:
            self.plan.near = False
            return False
        now_s = perf_counter()
        self.connect_s += now_s - self.mark_s
        self.mark_s = now_s
        self._expect_answer()
        if sent == len(request):
            # Not for being writable, which it is: that would be reported at once.
            self.engine.watch(sock, self, READING)
        else:
            self.outgoing = request[sent:]
            self.engine.watch(sock, self)
        return True

    def not_connected(self, error: OSError) -> None:
        place = self.hop.place
        where = self.address[1] if self.address is not None else place.host
        where = f"[{where}]" if ":" in where else where
        self.fail(reason_of(error), f"cannot connect to {where}:{place.port}: {explain(error)}")

    def _dialed(self, sock: socket.SocketType | None, address: Address | None, error: OSError | None) -> None:
        self.cancel_step = None
        if sock is None:
            self.not_connected(error or OSError(errno.EHOSTUNREACH, "no route"))
            return
        self.sock, self.address = sock, address
        self.engine.hand_over(sock, self)
        self._connected()

    def connecting(self, events: int) -> None:
        sock = self.sock
        if sock is None:
            return
        if events & FAILED:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.not_connected(OSError(code, os.strerror(code)))
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
        except TlsFailed as failed:
            self._tls_failed(failed)
        except OSError as error:
            self.fail("reset" if reason_of(error) == "reset" else "tls", f"TLS handshake: {explain(error)}")

    def _tls_done(self, channel: TlsChannel) -> None:
        now_s = perf_counter()
        self.tls_s += now_s - self.mark_s
        self.mark_s = now_s
        known = self.resumption
        self.resumed = channel.resumed()
        self.tls_version = channel.version()
        self.tls_cipher = channel.cipher()
        if known is None:
            return
        if self.failure is not None:  # this handshake was only to see the certificate that was not trusted
            self.chain = channel.chain()
            self._finish(perf_counter())
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
        self.mark_s = perf_counter()
        self.connect_to(self.address)

    # -- the other half -----------------------------------------------------------------------------------------

    def _expect_answer(self) -> None:
        raise NotImplementedError

    def _send_request(self) -> None:
        raise NotImplementedError

    def _send(self, data: bytes) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        raise NotImplementedError
