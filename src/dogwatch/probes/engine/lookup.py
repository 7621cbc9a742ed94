"""One lookup: the search list, A and AAAA at the same time, servers in turn, UDP first and TCP where it must."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from dogwatch.probes.engine import dnsmessage as dns
from dogwatch.probes.engine.addresses import literal, socket_address

if TYPE_CHECKING:
    from dogwatch.probes.engine.engine import Engine
    from dogwatch.probes.engine.resolver import Resolver

# RFC 8305, section 3: how long an answer of one family waits for the other's.
OTHER_FAMILY_S = 0.05
MAX_UDP_BYTES = 4096
_UDP = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_TCP = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class _Question:
    """One record type asked for."""

    __slots__ = ("answer", "edns", "query_id", "record_type")

    def __init__(self, record_type: int, query_id: int) -> None:
        self.record_type = record_type
        self.query_id = query_id
        self.edns = True
        self.answer: dns.Answer | None = None


class _Timer:
    """Tells the lookup that a try, or the wait for the other family, is over."""

    __slots__ = ("lookup",)

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup

    def expire(self) -> None:
        self.lookup.waited()


class Lookup:
    """Asks until it knows, or has asked every server often enough. Stopped by `stop` at any time."""

    __slots__ = (
        "_bucket",
        "_exchange",
        "_names",
        "_patient",
        "_questions",
        "_resolver",
        "_settling",
        "_sock",
        "_tcp",
        "_timer",
        "_tries",
        "_trouble",
        "_wire",
        "key",
    )

    def __init__(self, resolver: Resolver, name: str, key: tuple[str, str]) -> None:
        self.key = key
        self._resolver = resolver
        self._names = candidates(name, resolver.config.search, resolver.config.ndots)
        self._wire = b""
        self._questions: list[_Question] = []
        self._sock: socket.SocketType | None = None
        self._tcp: _Question | None = None
        self._exchange: TcpExchange | None = None
        self._timer = _Timer(self)
        self._bucket = 0
        self._tries = 0
        self._trouble = ""
        self._settling = False

    def start(self) -> None:
        """Ask for the next candidate name; says so to the resolver if there is none left."""
        if not self._names:
            self._end((), (), self._trouble or "no such name", 0.0)
            return
        try:
            self._wire = dns.encode_name(self._names.pop(0))
        except (ValueError, UnicodeError) as error:
            self._end((), (), str(error), 0.0)
            return
        types = [dns.A] if self.key[1] == "4" else [dns.AAAA] if self.key[1] == "6" else [dns.A, dns.AAAA]
        self._questions = [_Question(kind, self._resolver.random.getrandbits(16)) for kind in types]
        self._tries = 0
        self._settling = False
        self._ask()

    def servers_text(self) -> str:
        return "name server " + ", ".join(host for host, _ in self._resolver.config.servers)

    def stop(self) -> None:
        if self._sock is not None:
            self._resolver.engine.drop(self._sock)
            self._sock = None
        if self._exchange is not None:
            self._exchange.stop()
            self._exchange = None
        self._tcp = None
        self._forget_timer()

    def _forget_timer(self) -> None:
        if self._bucket:
            self._resolver.engine.forget(self._bucket, self._timer)
            self._bucket = 0

    def _wait(self, seconds: float) -> None:
        self._forget_timer()
        self._bucket = self._resolver.engine.expire_at(perf_counter() + seconds, self._timer)

    def waited(self) -> None:
        self._bucket = 0
        if self._settling:
            self._settle()
        else:
            self._next_server(f"no answer from name server {self._server()[0]}")

    def _server(self) -> tuple[str, int]:
        servers = self._resolver.config.servers
        start = self._resolver.queries_total if self._resolver.config.rotate and not self._tries else 0
        return servers[(self._tries + start) % len(servers)]

    def _next_server(self, trouble: str) -> None:
        self.stop()
        self._trouble = trouble
        self._tries += 1
        config = self._resolver.config
        if self._tries >= config.attempts * len(config.servers):
            self._end((), (), trouble, 0.0)
            return
        self._ask()

    def _ask(self) -> None:
        """Send the open questions to the current server, from a fresh random port."""
        engine = self._resolver.engine
        host, port = self._server()
        address = literal(host)
        if address is None:
            self._next_server(f"name server {host} is not an address")
            return
        # A dead first server must not use up the whole deadline of a probe: one second each, the last ones longer.
        first_round = self._tries < len(self._resolver.config.servers)
        try:
            sock = socket.SocketType(address[0], _UDP, 0)
        except OSError as error:
            engine.local_errors_total += 1
            self._end((), (), f"cannot ask a name server: {error.strerror}", 0.0)
            return
        self._sock = sock
        try:
            # Connected: the kernel passes on only what that server sends, and its refusal.
            sock.connect(socket_address(address, port))
            engine.watch(sock, self)
            for question in self._questions:
                if question.answer is None:
                    self._resolver.queries_total += 1
                    sock.send(dns.encode_query(question.query_id, self._wire, question.record_type, edns=question.edns))
        except OSError as error:
            self._wait(0.05)
            self._trouble = f"name server {host}: {error.strerror}"
            return
        self._wait(min(1.0, self._resolver.config.timeout_s) if first_round else self._resolver.config.timeout_s)

    def broken(self, error: Exception) -> None:
        self.stop()
        self._end((), (), f"internal error: {error!r}", 0.0)

    def ready(self, _events: int) -> None:
        for _ in range(16):
            if self._sock is None:
                return
            try:
                message = self._sock.recv(MAX_UDP_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._next_server(f"name server {self._server()[0]}: {(error.strerror or '').lower()}")
                return
            self._read(message)
        if self._sock is not None:
            self._resolver.engine.again(self._sock)

    def _read(self, message: bytes) -> None:
        for question in self._questions:
            if question.answer is None and dns.matches(message, question.query_id, self._wire, question.record_type):
                try:
                    answer = dns.decode_answer(message, self._wire, question.record_type)
                except ValueError as error:
                    self._next_server(f"name server {self._server()[0]} sent nonsense: {error}")
                    return
                self._take(question, answer)
                return
        # Anything else is late, forged or noise: it is passed over, and the deadline stays.

    def _take(self, question: _Question, answer: dns.Answer) -> None:
        if answer.truncated and self._tcp is None:
            self._ask_tcp(question)
            return
        if answer.rcode in {dns.FORMERR, dns.NOTIMP} and question.edns and self._sock is not None:
            # A server from before EDNS: ask it again plainly.
            question.edns = False
            self._resolver.queries_total += 1
            self._send_again(question)
            return
        if answer.rcode not in {dns.NOERROR, dns.NXDOMAIN}:
            self._next_server(f"name server {self._server()[0]} answered {dns.rcode_name(answer.rcode)}")
            return
        question.answer = answer
        open_questions = [other for other in self._questions if other.answer is None]
        if not open_questions:
            self._settle()
        elif answer.addresses and not self._settling:
            self._settling = True
            self._wait(OTHER_FAMILY_S)

    def _send_again(self, question: _Question) -> None:
        try:
            if self._sock is not None:
                self._sock.send(dns.encode_query(question.query_id, self._wire, question.record_type, edns=False))
        except OSError as error:
            self._next_server(f"name server {self._server()[0]}: {error.strerror}")

    def _settle(self) -> None:
        """Decide with the answers that are here: addresses, the next candidate, or no such name."""
        self.stop()
        answers = {question.record_type: question.answer for question in self._questions if question.answer}
        four = answers[dns.A].addresses if dns.A in answers else ()
        six = answers[dns.AAAA].addresses if dns.AAAA in answers else ()
        if four or six:
            # An empty family must not be kept longer than its own answer allows, nor one that never came at all.
            complete = len(answers) == len(self._questions)
            ttl_s = min(answer.ttl_s for answer in answers.values() if answer.addresses) if complete else 1.0
            self._end(four, six, "", max(ttl_s, 1.0))
            return
        missing = any(answer.rcode == dns.NXDOMAIN for answer in answers.values())
        if self._names:
            self.start()
            return
        ttl_s = min((answer.ttl_s for answer in answers.values()), default=0.0)
        self._end((), (), "no such name" if missing else "the name has no address", ttl_s)

    def _end(self, four: tuple[str, ...], six: tuple[str, ...], message: str, ttl_s: float) -> None:
        self.stop()
        self._resolver.finished(self, four, six, message, ttl_s)

    # -- TCP ----------------------------------------------------------------------------------------------------

    def _ask_tcp(self, question: _Question) -> None:
        """Ask one question over TCP, because its answer did not fit; the wait for the other family starts anew."""
        self.stop()
        self._settling = False
        self._wait(self._resolver.config.timeout_s)
        self._resolver.queries_total += 1
        query = dns.encode_query(question.query_id, self._wire, question.record_type, edns=True)
        self._tcp = question
        self._exchange = TcpExchange(self._resolver.engine, self._server(), query, self._heard)
        self._exchange.start()

    def _heard(self, message: bytes, trouble: str) -> None:
        question, self._tcp, self._exchange = self._tcp, None, None
        if question is None or not dns.matches(message, question.query_id, self._wire, question.record_type):
            self._next_server(f"name server {self._server()[0]} over TCP: {trouble or 'not our answer'}")
            return
        try:
            question.answer = dns.decode_answer(message, self._wire, question.record_type)
        except ValueError as error:
            self._next_server(f"name server {self._server()[0]} sent nonsense: {error}")
            return
        if all(other.answer is not None for other in self._questions):
            self._settle()
        else:
            self._forget_timer()
            self._ask()


class TcpExchange:
    """One query and its answer over TCP (RFC 7766); whoever started it keeps the time."""

    __slots__ = ("_buffer", "_done", "_engine", "_query", "_server", "_sock")

    def __init__(
        self, engine: Engine, server: tuple[str, int], query: bytes, done: Callable[[bytes, str], None]
    ) -> None:
        self._engine = engine
        self._server = server
        self._query = len(query).to_bytes(2, "big") + query
        self._done = done
        self._buffer = bytearray()
        self._sock: socket.SocketType | None = None

    def start(self) -> None:
        host, port = self._server
        address = literal(host)
        try:
            if address is None:
                raise OSError(errno.EINVAL, "not an address")
            self._sock = socket.SocketType(address[0], _TCP, 0)
            code = self._sock.connect_ex(socket_address(address, port))
            if code not in {0, errno.EINPROGRESS}:
                raise OSError(code, os.strerror(code))
            self._engine.watch(self._sock, self)
        except OSError as error:
            self._finish(b"", error.strerror or "cannot connect")

    def stop(self) -> None:
        if self._sock is not None:
            self._engine.drop(self._sock)
            self._sock = None

    def broken(self, error: Exception) -> None:
        self._finish(b"", f"internal error: {error!r}")

    def ready(self, _events: int) -> None:
        if self._sock is None:
            return
        try:
            while self._query:
                self._query = self._query[self._sock.send(self._query) :]
            while data := self._sock.recv(16 * 1024):
                self._buffer += data
                size = 2 + int.from_bytes(self._buffer[:2], "big")
                if len(self._buffer) >= 2 and len(self._buffer) >= size:
                    self._finish(bytes(self._buffer[2:size]), "")
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(b"", error.strerror or "connection lost")
            return
        self._finish(b"", "closed before the answer")

    def _finish(self, message: bytes, trouble: str) -> None:
        self.stop()
        self._done(message, trouble)


def candidates(name: str, search: tuple[str, ...], ndots: int) -> list[str]:
    """Return the full names to ask for, in order: as resolv.conf(5) has it."""
    if name.endswith(".") or not search:
        return [name]
    listed = [f"{name}.{domain.strip('.')}" for domain in search]
    return [name, *listed] if name.count(".") >= ndots else [*listed, name]
