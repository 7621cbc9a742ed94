"""The usual shape of an http attempt: one request over plain TCP, answered in one piece. All else goes on as
HttpAttempt, from where it stands."""

from __future__ import annotations

import errno
import os
import socket
from select import EPOLLERR, EPOLLHUP, EPOLLRDHUP
from socket import SocketType
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from dogwatch.probes.engine.addresses import Address, socket_address
from dogwatch.probes.engine.dial import STREAM
from dogwatch.probes.engine.engine import READING
from dogwatch.probes.http.attempt import HttpAttempt, stays, whole_answer
from dogwatch.probes.http.kept import Kept
from dogwatch.probes.http.plan import HttpPlan
from dogwatch.probes.http.response import Body, Head, Refused, parse_head
from dogwatch.probes.http.result import build, charset_of, decode_text
from dogwatch.probes.lane import Landing, Lane
from dogwatch.probes.probe import Attempt, ProbeResult

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine

# What is final costs compiled code no look into a dictionary, and is looked at for every attempt.
_IPV4: Final = int(socket.AF_INET)
_TCP, _QUICKACK = int(socket.IPPROTO_TCP), int(socket.TCP_QUICKACK)
_FAILED: Final = int(EPOLLERR | EPOLLHUP)
_ENDING: Final = int(EPOLLERR | EPOLLHUP | EPOLLRDHUP)
_READ_BYTES: Final = 16 * 1024
_MORE_BYTES: Final = 128
# An answer up to here stays with its target, for those who look at it later.
_SMALL_BYTES: Final = 2048
# "Sun, 06 Nov 1994 08:49:37 GMT", the one line that differs in nearly every answer.
_DATE: Final = b"\r\nDate: "
_DATE_CHARS: Final = 29
# What expectations mostly read, and `values` can tell without building a result.
_QUICK = frozenset({"status", "body", "duration_s", "http_version", "reused", "body_bytes"})


class Shape:
    """A head as it comes again and again, but for the date: two stretches of bytes, and what they mean.

    prefix: up to the date, suffix: the head behind it. rest: all behind it, as it came last. total: bytes of the
    whole answer.
    """

    __slots__ = (
        "charset", "gap", "head", "prefix", "rest", "room", "size", "start", "status", "stays", "suffix", "total",
    )  # fmt: skip

    def __init__(self, data: bytes, end: int, head: Head) -> None:
        date = data.find(_DATE, 0, end)
        behind = date + len(_DATE) + _DATE_CHARS
        if date >= 0 and data.find(b"\r", date + 2) == behind and data.find(b"\n", date + 2) == behind + 1:
            self.prefix, self.suffix, self.gap = data[: date + len(_DATE)], data[behind:end], _DATE_CHARS
        else:
            self.prefix, self.suffix, self.gap = data[:end], b"", 0
        self.rest = data[len(self.prefix) + self.gap :]
        self.head = head
        self.status = head.status
        self.start = end
        self.total = len(data)
        # Little more than what is expected: it costs less to get than room for everything.
        self.room = min(_READ_BYTES, self.total + _MORE_BYTES)
        self.size = len(data) - end
        self.stays = stays(head)
        self.charset = charset_of(head.headers)

    def fits(self, data: bytes) -> int:
        """Return 0 for an answer with another head, 1 for one with this (and so this many bytes of content), 2 for
        one that is the same as the last from end to end, but for its date."""
        if len(data) != self.total or not data.startswith(self.prefix):
            return 0
        at = len(self.prefix)
        if self.gap and data.find(b"\n", at) <= at + self.gap:
            return 0
        if data.endswith(self.rest):
            return 2
        if not data.startswith(self.suffix, at + self.gap):
            return 0
        self.rest = data[at + self.gap :]
        return 1


class HttpLane(Lane):
    """One target's attempts over plain HTTP, on a kept connection or a new one to the one address it has."""

    __slots__ = (
        "_address", "_attempt", "_bucket", "_busy", "_connecting", "_data", "_ended_s", "_engine", "_found",
        "_general", "_landing", "_launched_s", "_mark_s", "_plan", "_quick", "_reads_body", "_reads_more",
        "_request", "_reused", "_shape", "_sock", "_spent_s", "_was_at", "_was_reused",
    )  # fmt: skip

    def __init__(self, engine: Engine, plan: HttpPlan, attempt: Attempt, landing: Landing, owner: Any) -> None:
        super().__init__(owner)
        self._engine = engine
        self._plan = plan
        self._attempt = attempt
        self._landing = landing
        self._request = plan.first.request
        self._quick = attempt.wants <= _QUICK
        self._reads_body = "body" in attempt.wants
        self._reads_more = not attempt.wants <= {"status", "body"}
        self._address: Address | None = None
        self._sock: socket.SocketType | None = None
        self._general: HttpAttempt | None = None
        self._shape: Shape | None = None
        self._data = b""
        self._found: dict[str, Any] = {}
        self._bucket = 0
        self._busy = self._connecting = self._reused = False
        # Of the attempt under way; what is told of the last one stays as it is until this one has ended.
        self._launched_s = self._mark_s = self._spent_s = 0.0
        # Of the last one: the address, and whether a kept connection was used.
        self._was_at: Address | None = None
        self._was_reused = False
        self._ended_s = 0.0

    # -- asking -------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        engine, kept = self._engine, self._plan.kept
        sock = kept.sock if kept is not None and kept.user is None else None
        address = None
        if sock is None:
            address = self._known_address()
            if address is None:
                return False
        if not engine.enter():
            return False
        self._general = None
        self._busy, self._connecting, self.fresh = True, False, False
        self._launched_s = self._mark_s = now_s = perf_counter()
        if not self._bucket:
            # It stays where it is while attempts come and go, and is looked at when it is due.
            self._bucket = engine.expire_at(now_s + self._attempt.timeout_s, self)
        if sock is not None and kept is not None:
            self._ask_kept(kept, sock)
        elif address is not None:
            self._ask_anew(address)
        self._settle()
        return True

    def _settle(self) -> None:
        """Let an attempt that left the lane within `start` tell its end from now on at once."""
        if self._general is not None:
            self._general.launching = False

    def _known_address(self) -> Address | None:
        """Return the address to connect to, where it is known and there is no other."""
        plan = self._plan
        if plan.socket_options is not None:
            return None
        address = plan.first.address if plan.override is None else plan.override
        if address is None:
            name = plan.probe.resolve or plan.first.place.host
            known = self._engine.resolver.known(name, plan.family)
            if known is not None and len(known) == 1:
                address = known[0]
        return address

    def _ask_kept(self, kept: Kept, sock: socket.SocketType) -> None:
        self._sock, self._address, self._reused, self._spent_s = sock, kept.address, True, 0.0
        kept.user = self
        try:
            sent = sock.send(self._request)
        except OSError:
            self._go_on(launching=True).send_rest(0)  # it finds the same, and knows what to do
            return
        if sent != len(self._request):
            self._go_on(launching=True).send_rest(sent)

    def _ask_anew(self, address: Address) -> None:
        plan, engine = self._plan, self._engine
        self._address, self._reused = address, False
        port = plan.first.place.port
        try:
            self._sock = sock = SocketType(address[0], STREAM, 0)
        except OSError:
            self._sock = None
            self._go_on(launching=True).connect_to(address)
            return
        try:
            sock.setsockopt(_TCP, _QUICKACK, 0)
            code = sock.connect_ex((address[1], port) if address[0] == _IPV4 else socket_address(address, port))
            if code and code != errno.EINPROGRESS:
                raise OSError(code, os.strerror(code))
            if plan.near:
                try:
                    sent = sock.send(self._request)
                except BlockingIOError:
                    plan.near = False
                else:
                    self._mark_s = now_s = perf_counter()
                    self._spent_s = now_s - self._launched_s
                    engine.watch(sock, self, READING)
                    if sent != len(self._request):
                        self._go_on(launching=True).send_rest(sent)
                    return
            self._connecting = True
            engine.watch(sock, self)
        except OSError as error:
            self._go_on(launching=True).not_connected(error)

    def _connected(self, sock: socket.SocketType) -> None:
        self._connecting = False
        self._mark_s = now_s = perf_counter()
        self._spent_s = now_s - self._launched_s
        try:
            sent = sock.send(self._request)
        except OSError:
            self._go_on().send_rest(0)
            return
        if sent != len(self._request):
            self._go_on().send_rest(sent)

    # -- the answer ---------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        sock = self._sock
        if not self._busy or sock is None:
            return
        if self._connecting:
            if events & _FAILED:
                self._go_on().connecting(events)
            else:
                self._connected(sock)
            return
        shape = self._shape
        room = shape.room if shape is not None else _READ_BYTES
        try:
            data = sock.recv(room)
        except BlockingIOError:
            return
        except OSError as error:
            self._go_on().lost(error)
            return
        now_s = perf_counter()
        fits = shape.fits(data) if shape is not None else 0
        if fits != 2:
            self.answer = data
        if shape is None or not fits:
            # With no room left there may be more, of which nobody would tell us again.
            shape = self._learn(data) if len(data) < room else None
            if shape is None:
                self._go_on().received(data, events)
                return
            self._shape = shape
        self._data = data
        self.small = shape.total <= _SMALL_BYTES
        self.duration_s = now_s - self._launched_s
        self.first_byte_s = now_s - self._mark_s
        self.connect_s = self._spent_s
        self._was_at, self._was_reused, self._ended_s = self._address, self._reused, now_s
        self._land(sock, now_s, keep=shape.stays and not events & _ENDING)

    def _learn(self, data: bytes) -> Shape | None:
        """Take an answer with another head; None if it is not the usual kind of answer."""
        plan = self._plan
        try:
            found = whole_answer(data, plan.probe.header_limit, plan.probe.body_limit)
        except Refused:
            return None  # HttpAttempt says why
        if found is None:
            return None
        head, end = found
        if plan.particular or head.status not in plan.accept_status:
            return None
        return Shape(data, end, head)

    def _land(self, sock: socket.SocketType, now_s: float, *, keep: bool) -> None:
        engine, plan = self._engine, self._plan
        kept = plan.kept
        self._busy = False
        if keep and plan.probe.keep_alive and self._address is not None:
            if kept is None:
                kept = plan.kept = Kept(engine, self._address)
            if kept.sock is sock:
                kept.user = None
                kept.since_s = now_s
            else:
                kept.put(sock, None, self._address, now_s)
        else:
            if kept is not None and kept.user is self:
                kept.take()
            engine.drop(sock)
        self._sock = None
        self.fresh = True
        engine.leave()
        if self._landing.add(self):
            engine.after_turn(self._landing.clear)

    # -- what was found -----------------------------------------------------------------------------------------

    def values(self) -> dict[str, Any]:
        shape = self._shape
        if not self._quick or shape is None:
            return dict(self.result().values)
        found = self._found
        found["status"] = shape.status
        if self._reads_body:
            found["body"] = decode_text(shape.charset, self._data[shape.start :])
        if self._reads_more:
            found["duration_s"], found["reused"] = self.duration_s, self._was_reused
            found["http_version"], found["body_bytes"] = shape.head.version, shape.size
        return found

    def result(self) -> ProbeResult:
        shape, plan = self._shape, self._plan
        now_s = self._ended_s
        attempt = HttpAttempt(self._engine, plan, self._attempt, _nowhere)
        attempt.launched_s = now_s - self.duration_s
        attempt.connect_s, attempt.first_byte_s = self.connect_s, self.first_byte_s
        attempt.address, attempt.reused = self._was_at, self._was_reused
        if shape is not None:
            data, keep = self._data, attempt.keep
            attempt.head = parse_head(data[: shape.start])
            rest = data[shape.start : shape.start + keep]
            attempt.body = Body(shape.size, plan.probe.body_limit, False, keep)
            attempt.body.took(rest, shape.size)
        if not self.small:
            self._data = b""
        return build(attempt, now_s)

    # -- the unusual --------------------------------------------------------------------------------------------

    def _go_on(self, *, launching: bool = False) -> HttpAttempt:
        """Leave the attempt to HttpAttempt, as far as it has come."""
        engine, kept, sock = self._engine, self._plan.kept, self._sock
        attempt = HttpAttempt(engine, self._plan, self._attempt, self._landing.done_for(self.owner))
        if kept is not None and kept.user is self:
            kept.take()
        self._busy, self._sock = False, None
        times_s = self._launched_s, self._mark_s, self._spent_s
        attempt.resume(times_s, self._address, sock, reused=self._reused)
        attempt.launching = launching
        self._general = attempt
        return attempt

    def expire(self) -> None:
        self._bucket = 0
        if not self._busy:
            return
        due_s = self._launched_s + self._attempt.timeout_s
        if due_s > perf_counter():
            self._bucket = self._engine.expire_at(due_s, self)
        else:
            waiting = not self._connecting
            self._go_on().expired(asked=waiting)

    def broken(self, error: Exception) -> None:
        if self._busy:
            self._go_on().broken(error)

    def cancel(self) -> None:
        self.fresh = False
        general, self._general = self._general, None
        if general is not None:
            general.cancel()
        elif self._busy:
            sock, kept = self._sock, self._plan.kept
            self._busy, self._sock = False, None
            if kept is not None and kept.user is self:
                kept.take()
            if sock is not None:
                self._engine.drop(sock)
            self._engine.leave()


def _nowhere(_result: ProbeResult) -> None:
    """The attempt is only there for its result."""
