"""The second half of an attempt: sending → receiving → done; a redirect goes back to resolving."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter

from dogwatch.probes.engine.dial import explain, reason_of
from dogwatch.probes.engine.engine import READ_BYTES
from dogwatch.probes.engine.tls import TlsChannel, TlsFailed
from dogwatch.probes.http.connecting import ENDING, ConnectingAttempt
from dogwatch.probes.http.kept import Kept
from dogwatch.probes.http.request import join_url
from dogwatch.probes.http.response import Body, Head, Refused, body_of, head_end, parse_head

# One attempt reads at most this often in a row before others get their turn.
READS_PER_TURN = 8
MAX_INTERIM = 16
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A server that does not resume after all is not asked to again: keeping its session costs a fifth of a handshake.
MAX_REFUSALS = 3
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# Statuses whose answers are followed, or have no body whatever their content length says.
_NOT_COUNTED = REDIRECTS | {204, 304}
_WAITING = "waiting for the first byte"


class HttpAttempt(ConnectingAttempt):
    """Asks once, over HTTP/1.1."""

    __slots__ = ()

    # -- sending ------------------------------------------------------------------------------------------------

    def _expect_answer(self) -> None:
        self.doing = _WAITING
        self.ready = self._receiving

    def send_rest(self, sent: int) -> None:
        """Go on behind a request of which so many bytes have left."""
        self._expect_answer()
        self.outgoing = self.hop.request[sent:]
        self._flush()

    def received(self, data: bytes, events: int) -> None:
        """Go on with the first bytes of an answer."""
        self._expect_answer()
        try:
            over = self._arrived(data) if data else self._ended()
        except Refused as error:
            self.fail(error.reason, error.message)
            return
        if not over:
            self.ready(events)

    def lost(self, error: OSError) -> None:
        """Go on with an error instead of an answer."""
        self._expect_answer()
        self._lost(error)

    def expired(self, *, asked: bool) -> None:
        """End, as the time is up. asked: the request has been sent."""
        if asked:
            self._expect_answer()
        self.expire()

    def _send_request(self) -> None:
        self._expect_answer()
        channel = self.channel
        if channel is None:
            self.outgoing = self.hop.request
            self._flush()
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
            self.engine.again(sock)  # it may be watched for reading only
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
        self.ending = events & ENDING != 0
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
        except Refused as refused:
            self.fail(refused.reason, refused.message)
            return
        except TlsFailed as failed:
            self.fail(failed.reason, failed.message)
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
                if self._came_whole(data):
                    return True
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

    def _came_whole(self, data: bytes) -> bool:
        """Take an answer that one piece brought in full, as nearly all do; False leaves it to the general path."""
        probe = self.plan.probe
        found = whole_answer(data, probe.header_limit, probe.body_limit) if self.hop.method != "HEAD" else None
        if found is None:
            return False
        self.head, end = found
        size = len(data) - end
        rest = data[end:] if size <= self.keep else data[end : end + self.keep]
        self.body = body = Body(size, probe.body_limit, False, self.keep)
        body.took(rest, size)
        self._complete(body, clean=True)
        return True

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
            if self._stale():
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
        if self._stale():
            self._afresh()
            return
        self.fail(reason_of(error), f"connection lost {self.doing}: {explain(error)}")

    def _stale(self) -> bool:
        """Whether a kept connection died before it answered, and asking again can do no harm (RFC 9110, 9.2.2)."""
        return self.reused and not self.received_any and self.hop.method in _IDEMPOTENT

    def _afresh(self) -> None:
        """The kept connection had died meanwhile, which says nothing about the target: ask on a new one."""
        self._disconnect()
        self.reused = False
        self.outgoing = b""
        self.mark_s = perf_counter()
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
        self.head = self.body = None
        self.buffer = b""
        self.scanned = 0
        self.received_any = self.reused = False
        self.mark_s = perf_counter()
        foreign = hop.foreign or place.origin != self.plan.first.place.origin
        self._hop(self.plan.hop(place, method, body, foreign=foreign))
        return True

    def _goodbye(self) -> None:
        """Say that we close; nobody waits for the answer."""
        if self.channel is not None and self.sock is not None:
            with suppress(OSError):
                self.sock.send(self.channel.goodbye())

    def _complete(self, body: Body, *, clean: bool) -> None:
        """The answer is here. clean: the connection stands right behind it."""
        now_s = perf_counter()
        self.transfer_s += now_s - self.mark_s
        plan, channel, known = self.plan, self.channel, self.resumption
        if channel is not None and known is not None and not (self.resumed or self.reused):
            wanted = plan.probe.full_handshake_every > 0 and known.refusals < MAX_REFUSALS
            known.session = channel.resumption() if wanted else None
        if not (plan.probe.keep_alive and clean and self._kept(body, now_s)) and channel is not None:
            self._goodbye()
        self._finish(now_s)

    def _kept(self, body: Body, now_s: float) -> bool:
        """Put the connection aside for the next attempt; False if it cannot be used again."""
        sock, address, plan = self.sock, self.address, self.plan
        if self.ending or self.redirects or sock is None or address is None:
            return False
        if self.head is None or body.until_close or not stays(self.head):
            return False
        if plan.kept is None:
            plan.kept = Kept(self.engine, address)
        plan.kept.put(sock, self.channel, address, now_s)
        self.sock = None
        return True


def whole_answer(data: bytes, header_limit: int, body_limit: int) -> tuple[Head, int] | None:
    """Return the head and where it ends, if this is a whole answer that needs no more than counting; else None.

    That is: a final status that is no redirect, a content length that is exactly what follows the head, no coding.
    Whoever takes it must find the same as the general path, only sooner.
    Raises: Refused.
    """
    end = data.find(b"\r\n\r\n") + 4
    if not 4 <= end <= header_limit or b"\n\n" in data[:end] or b"chunked" in data[:end]:
        return None
    head = parse_head(data[:end])
    headers, status, size = head.headers, head.status, len(data) - end
    if (
        headers.get("content-length") != str(size)
        or not 200 <= status < 600
        or status in _NOT_COUNTED
        or "transfer-encoding" in headers
        or "content-encoding" in headers
        or size > body_limit
    ):
        return None
    return head, end


def stays(head: Head) -> bool:
    """Return whether the connection stays open behind a whole answer."""
    connection = head.headers.get("connection", "").lower()
    return "close" not in connection and (head.version > 1.0 or "keep-alive" in connection)
