"""One attempt: a state per function, driven by the engine's epoll.

waiting for a slot → resolving → connecting → (TLS) → sending → receiving → done; a redirect goes back to resolving.
`ready` is the current state: the engine calls whatever function stands there.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from select import EPOLLERR, EPOLLHUP, EPOLLRDHUP
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from dogwatch.probes.engine.addresses import Address, socket_address
from dogwatch.probes.engine.dial import explain, open_socket, reason_of
from dogwatch.probes.engine.engine import READ_BYTES
from dogwatch.probes.engine.tls import TlsChannel, TlsFailed
from dogwatch.probes.http.plan import HttpPlan, Resumption
from dogwatch.probes.http.request import Hop, join_url
from dogwatch.probes.http.response import Body, Head, Refused, body_of, head_end, parse_head
from dogwatch.probes.http.result import build
from dogwatch.probes.probe import Attempt, Done

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

_FAILED = EPOLLERR | EPOLLHUP
_ENDING = EPOLLERR | EPOLLHUP | EPOLLRDHUP
# One attempt reads at most this often in a row before others get their turn.
READS_PER_TURN = 8
# A kept connection that nobody uses any more (its probe is gone) goes after this time.
KEPT_S = 120.0
MAX_INTERIM = 16
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REFUSALS = 3
_WAITING = "waiting for the first byte"


def idle(_events: int) -> None:
    """The state in which nothing is expected."""


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


class HttpAttempt(msgspec.Struct, eq=False, dict=False):
    """Asks once. Timings are kept as sums over redirects; `mark_s` is where the running phase began.

    A msgspec struct because its many fields get their defaults in C: a fifth of what an `__init__` costs.
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
        self.plan.resumptions.clear()  # the next handshake is a full one, whatever was wrong
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
        if events & _FAILED:
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
                if self.sock is None or (count < READ_BYTES and not events & _ENDING):
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
            try:
                if self.sock is not None:
                    self.sock.send(self.channel.outgoing())  # the alert
            except OSError:
                pass
        if error.reason != "certificate" or self.failure is not None or self.address is None:
            self.fail(error.reason, f"TLS with {self.hop.place.host}: {error.message}")
            return
        self.tls_s += perf_counter() - self.mark_s
        self.failure = ("certificate", f"certificate of {self.hop.place.host}: {error.message}")
        self.plan.resumptions.clear()
        self._disconnect()
        self._connect((self.address,))

    # -- sending ------------------------------------------------------------------------------------------------

    def _send_request(self) -> None:
        self.head = self.body = None
        self.buffer = b""
        self.scanned = 0
        self.received_any = False
        self.doing = _WAITING
        self.ready = self._receiving
        channel = self.channel
        if channel is None:
            self._send(self.hop.request)
            return
        try:
            channel.write(self.hop.request)
        except TlsFailed as error:
            self.fail(error.reason, error.message)
            return
        # In TLS 1.3 our last handshake message and the request leave together.
        self._send(channel.outgoing())

    def _send(self, data: bytes) -> None:
        """Send, or keep what the kernel does not take yet: its next report goes on with it."""
        if self.outgoing:
            self.outgoing += data
            return
        self.outgoing = data
        self._flush()

    def _flush(self) -> None:
        sock = self.sock
        if sock is None:
            return
        try:
            while data := self.outgoing:
                sent = sock.send(data)
                self.outgoing = data[sent:] if sent < len(data) else b""
        except BlockingIOError:
            return
        except OSError as error:
            # The server may have answered and closed without reading everything (413): look before giving up.
            self.outgoing = b""
            if self.doing == _WAITING and not self.reused:
                self.engine.again(sock)
            else:
                self._lost(error)

    # -- receiving ----------------------------------------------------------------------------------------------

    def _receiving(self, events: int) -> None:
        if self.outgoing:
            self._flush()
            if self.doing != _WAITING and not self.received_any:
                return  # it failed, or goes on elsewhere
        self.ending = events & _ENDING != 0
        buffer, view, channel, sock = self.engine.buffer, self.engine.view, self.channel, self.sock
        if sock is None:
            return
        try:
            for _ in range(READS_PER_TURN):
                count = sock.recv_into(buffer)
                if channel is None:
                    over = self._arrived(bytes(view[:count])) if count else self._ended()
                else:
                    over = self._decrypted(channel, count)
                if over or (count < READ_BYTES and not self.ending):
                    return
        except BlockingIOError:
            return
        except Refused as error:
            self.fail(error.reason, error.message)
            return
        except TlsFailed as error:
            self.fail(error.reason, error.message)
            return
        except OSError as error:
            self._lost(error)
            return
        if self.sock is not None:
            self.engine.again(self.sock)

    def _decrypted(self, channel: TlsChannel, count: int) -> bool:
        channel.feed(self.engine.view[:count])
        while (data := channel.read()) is not None:
            if (self._arrived(data) if data else self._ended()) or self.channel is not channel:
                return True
        if data := channel.outgoing():  # a key update to be answered
            self._send(data)
        return False

    def _arrived(self, data: bytes) -> bool:
        """Take plain bytes; True once the attempt has left this answer behind."""
        body = self.body
        if body is None:
            if not self.received_any:
                self.received_any = True
                now_s = perf_counter()
                self.first_byte_s += now_s - self.mark_s
                self.mark_s = now_s
                self.doing = "reading the answer"
            rest = self._head_arrived(data)
            head = self.head
            if rest is None or head is None:
                return False
            if head.status in REDIRECTS and self._redirect(head):
                return True
            probe = self.plan.probe
            body = self.body = body_of(
                head, self.hop.method, probe.body_limit, probe.body_over == "truncate", self.keep
            )
            if body.length == len(rest) and body.whole(rest):
                self._complete(body, clean=True)
                return True
            if body.length == 0:
                self._complete(body, clean=False)
                return True
            if not rest:
                return False
            data = rest
        if body.feed(data):
            body.check()
            self._complete(body, clean=not body.truncated)
            return True
        return False

    def _head_arrived(self, data: bytes) -> bytes | None:
        """Return what follows the head once it is complete, None before."""
        whole: bytes | bytearray = data
        if self.buffer:
            if not isinstance(self.buffer, bytearray):
                self.buffer = bytearray(self.buffer)
            self.buffer += data
            whole = self.buffer
        limit = self.plan.probe.header_limit
        while True:
            end = head_end(whole, max(0, self.scanned - 3))
            if end > limit or (end < 0 and len(whole) > limit):
                raise Refused("too_large", f"the headers have more than {limit} bytes")
            if end < 0:
                self.scanned = len(whole)
                self.buffer = whole
                return None
            head = parse_head(bytes(whole[:end]))
            rest = bytes(whole[end:])
            if head.status >= 200 or head.status == 101:
                self.head = head
                self.buffer = b""
                return rest
            self.interim += 1
            if self.interim > MAX_INTERIM:
                raise Refused("protocol", f"more than {MAX_INTERIM} interim answers")
            whole, self.scanned, self.buffer = rest, 0, b""

    def _ended(self) -> bool:
        """The peer closed its side."""
        body = self.body
        if body is None:
            if self.reused and not self.received_any:
                self._afresh()
            elif not self.received_any:
                self.fail("reset", "the connection was closed without an answer")
            else:
                self.fail("protocol", "the connection was closed within the headers")
            return True
        body.end()
        self._complete(body, clean=False)
        return True

    def _lost(self, error: OSError) -> None:
        if self.reused and not self.received_any:
            self._afresh()
            return
        self.fail(reason_of(error), f"connection lost {self.doing}: {explain(error)}")

    def _afresh(self) -> None:
        """The kept connection had died meanwhile, which says nothing about the target: ask on a new one."""
        self._disconnect()
        self.reused = False
        self.outgoing = b""
        self._hop(self.hop)

    def _redirect(self, head: Head) -> bool:
        """Go where the answer points; False if it is to be taken as it is."""
        probe = self.plan.probe
        location = head.headers.get("location")
        if not probe.follow_redirects or not location:
            return False
        if self.redirects >= probe.redirect_limit:
            self.fail("redirects", f"more than {probe.redirect_limit} redirects, the last to {location[:200]}")
            return True
        hop = self.hop
        try:
            place = join_url(hop.place, location)
        except ValueError as error:
            self.fail("redirects", f"redirected to a URL that cannot be followed: {error}")
            return True
        method, body = hop.method, self.plan.body
        if (head.status == 303 and method != "HEAD") or (head.status in {301, 302} and method not in {"GET", "HEAD"}):
            method = "GET"
        if method in {"GET", "HEAD"} and method != probe.method:
            body = b""
        self.redirects += 1
        self._goodbye()
        self._disconnect()
        self.head = None
        self.reused = False
        foreign = hop.foreign or place.origin != self.plan.first.place.origin
        self._hop(self.plan.hop(place, method, body, foreign=foreign))
        return True

    def _goodbye(self) -> None:
        """Say that we close; nobody waits for the answer."""
        if self.channel is not None and self.sock is not None:
            try:
                self.sock.send(self.channel.goodbye())
            except OSError:
                pass

    def _complete(self, body: Body, *, clean: bool) -> None:
        """The answer is here. clean: the connection stands right behind it."""
        self.transfer_s += perf_counter() - self.mark_s
        channel, known, sock = self.channel, self.resumption, self.sock
        if channel is not None and known is not None and not self.resumed and not self.reused:
            if self.plan.probe.full_handshake_every > 0 and known.refusals < MAX_REFUSALS:
                known.session = channel.resumption()
        if (
            self.plan.probe.keep_alive
            and clean
            and not self.ending
            and not self.redirects
            and self.address is not None
            and sock is not None
            and _stays(self.head, body)
        ):
            self.sock = None
            self.plan.kept = Kept(self.engine, sock, channel, self.address)
        else:
            self._goodbye()
        self._finish()


def _stays(head: Head | None, body: Body) -> bool:
    if head is None or body.until_close:
        return False
    connection = head.headers.get("connection", "").lower()
    return "close" not in connection and (head.version > 1.0 or "keep-alive" in connection)
