"""HTTP/1.1 on one connection: strict, and bounded in what a caller may send, how slowly, and what parsing it costs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from dogwatch.web.meter import Meter
from dogwatch.web.permissions import STREAMS
from dogwatch.web.recognise import CERTIFICATE
from dogwatch.web.tls import NOTHING_SHOWN, Tls, shown_by

# What parsing one request may cost of the loop. A body of one-byte chunks costs a hundred times what others do.
_PARSING_MOST_S = 0.25
# After this others have their turn: many such callers at once must not hold everybody up.
_PARSING_AT_ONCE_S = 0.01
# A head in one piece, so that one that is too large is told so and not that it is broken.
_HEAD_AT_ONCE, _BODY_AT_ONCE = 65536, 8192
_HEAD_END = b"\r\n\r\n"
_TOO_LARGE = "The head of the request is too large."


class HttpProtocol(HttpToolsProtocol):
    """Uvicorn's protocol over llhttp, in its strict form, where lenience would let a request be smuggled past a proxy.

    Uvicorn bounds neither the size of a head nor the time it takes, and takes trailers for headers; it would begin any
    number of requests that were sent at once. Here each waits, unparsed, until the one before is answered.
    """

    head_timeout_s = 20.0
    head_limit = 65536
    meter: Meter
    tls: Tls | None = None
    # Set on the server's own subclass, and so for all its connections at once.
    draining = False
    # Received, and not yet parsed.
    _waiting = b""
    _parsing_s = 0.0
    _head_bytes = 0
    # The end of what was parsed of a head: its empty line may be cut in two.
    _tail = b""
    _in_body = False
    _asked = False
    _head_timer: asyncio.TimerHandle | None = None
    _shown = NOTHING_SHOWN

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._shown = shown_by(transport.get_extra_info("ssl_object"), time.time())
        if self._shown.names:
            self.app_state = {**self.app_state, CERTIFICATE: self._shown.names}
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._waiting = b""
        super().connection_lost(exc)
        # Uvicorn would keep the lost connection until the timer rings.
        self._unset_keepalive_if_required()

    def end_if_shown(self) -> None:
        """End the connection, if it stands for a client's certificate and nothing is under way that ends by itself: the
        next one is verified anew.
        """
        idle = not self._answering() and not self._in_body and not self._head_bytes
        # Uvicorn makes it when a request begins, and sets the path only when the head is whole.
        scope: Any = self.scope
        path = str(scope.get("path", "")) if scope else ""
        if self._shown.names and (idle or path.endswith(STREAMS)):
            self.transport.close()

    # -- parsing -------------------------------------------------------------------------------------------------------

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
            late = turn_s > _PARSING_AT_ONCE_S
            if late or self._answering():
                self._waiting = data[start:]
                self.transport.pause_reading()
                if late:
                    self.loop.call_later(0.001, self._parse_on)
                break
            end = self._end_of_piece(data, start)
            began_s = time.thread_time()
            self._feed(data[start:end])
            turn_s += time.thread_time() - began_s
            start = end
            if self._parsing_s + turn_s > _PARSING_MOST_S:
                self.transport.abort()
                return
        self._parsing_s += turn_s
        self._parsed(before)

    def _answering(self) -> bool:
        """Return whether a request has arrived whole that is not answered."""
        cycle: RequestResponseCycle | None = self.cycle  # there is none before the first request
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def _end_of_piece(self, data: bytes, start: int) -> int:
        if self._in_body:
            return start + _BODY_AT_ONCE
        if self._tail:
            end = (self._tail + data[start : start + 3]).find(_HEAD_END)
            if end >= 0:
                return start + end + 4 - len(self._tail)
        end = data.find(_HEAD_END, start, start + _HEAD_AT_ONCE)
        return start + _HEAD_AT_ONCE if end < 0 else end + 4

    def _feed(self, piece: bytes) -> None:
        self._unset_keepalive_if_required()
        if not self._in_body:
            self._head_bytes += len(piece)
            self._tail = (self._tail + piece)[-3:]
            if self._head_bytes > self.head_limit and not piece.endswith(_HEAD_END):
                self._refuse_head()
                return
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # It is answered as if it had not asked for another protocol, and nothing after it is understood.
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self.logger.debug("a request that cannot be parsed")
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_body = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # else a trailer, which nobody has asked for
            super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """Raises: ValueError, which ends in a refusal, for a request that says twice or not at all whom it is for."""
        hosts = sum(name == b"host" for name, _value in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            raise ValueError("not one Host")
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise ValueError("not HTTP/1")
        self._in_body = True
        self._head_bytes, self._tail = 0, b""
        late = self._shown.names and not self._shown.holds(self.tls.changed_s if self.tls else 0.0, time.time())
        if late:
            # It may have been revoked since: whoever comes again is verified again.
            self.app_state = {key: value for key, value in self.app_state.items() if key != CERTIFICATE}
        super().on_headers_complete()
        if late:
            self.cycle.keep_alive = False
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _Unframed

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._waiting:
            self.loop.call_soon(self._parse_on)

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
        elif self._head_timer is None and self._asked and self.cycle.response_complete:
            # The next request of a kept connection has begun: its head gets its time.
            self._await_head()

    # -- refusals ------------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self.meter.refused(400)
        super().send_400_response(msg)

    def _refuse_head(self) -> None:
        self.meter.refused(431)
        head = f"HTTP/1.1 431 \r\ncontent-type: text/plain\r\ncontent-length: {len(_TOO_LARGE)}\r\nconnection: close"
        self.transport.write(f"{head}\r\n\r\n{_TOO_LARGE}".encode())
        self.transport.close()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._too_late)

    def _too_late(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Unframed(RequestResponseCycle):
    """An answer to HTTP/1.0, which knows no chunks: without a length it ends with the connection."""

    _framed = True

    async def send(self, message: Any) -> None:
        if not self.response_started:
            self._framed = any(name.lower() == b"content-length" for name, _value in message.get("headers", ()))
            scope = self.scope
            if not self._framed:
                self.scope = {**scope, "method": "HEAD"}  # for which uvicorn would frame nothing
            await super().send(message)
            self.scope = scope
            return
        if self._framed or self.scope["method"] == "HEAD":
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.transport.write(message.get("body", b""))
        if not message.get("more_body", False):
            self.response_complete = True
            self.message_event.set()
            self.transport.close()
            self.on_response()
