"""The `tcp` kind."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Mapping
from time import perf_counter
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.probes.addresses import SocketAddress, host_faults, join_host_port, literal, split_host_port
from dogwatch.probes.dialogue import (
    DIALOGUE_MEANINGS,
    DIALOGUE_METRICS,
    DIALOGUE_VARIABLES,
    DialogueStep,
    LineEnd,
    converse,
    dialogue_faults,
)
from dogwatch.probes.probe import Attempt, Cancel, Done
from dogwatch.probes.progress import Progress, SteppedProbe, failure_of, inner_timeout
from dogwatch.probes.starttls import DEFAULT_PORTS, Protocol, ask_for_tls
from dogwatch.probes.stream import (
    CONNECTION_MEANINGS,
    CONNECTION_METRICS,
    CONNECTION_VARIABLES,
    TLS_MEANINGS,
    TLS_METRICS,
    TLS_VARIABLES,
    Destination,
    Stream,
    open_stream,
)
from dogwatch.probes.trust import TlsOptions, tls_failure, tls_option_faults, tls_options


class TcpProbe(SteppedProbe, frozen=True, kw_only=True):
    """Connects, and says and hears what the dialogue asks for.

    host: name or address; may carry the port: `db-1:5432`, `[::1]:22`. port: default: from `host`, or that of
    `starttls`. ip_version: 4 or 6; default: whichever answers. ip_fallback: take the other version if the name has none
    of that one; default false. source: our own address; default: the system's choice. tls: true or
    options: TLS from the first byte, or after `starttls`; default off. starttls: smtp, imap, pop3, ftp, nntp, sieve,
    postgres, mysql, ldap or xmpp: asks for TLS in that protocol; default none. dialogue: steps of what to expect and to
    send; default none. line_end: sent after each text: lf, crlf or none; default lf.
    """

    kind: ClassVar[str] = "tcp"
    short: ClassVar[str] = "host"
    variables: ClassVar[dict[str, str]] = {
        **CONNECTION_VARIABLES,
        **TLS_VARIABLES,
        **DIALOGUE_VARIABLES,
    }
    meanings: ClassVar[Mapping[str, str]] = {
        **CONNECTION_MEANINGS,
        **TLS_MEANINGS,
        **DIALOGUE_MEANINGS,
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        **CONNECTION_METRICS,
        **TLS_METRICS,
        **DIALOGUE_METRICS,
    }

    host: str
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    ip_version: Literal[4, 6] | None = None
    ip_fallback: bool = False
    source: str = ""
    tls: TlsOptions | bool = False
    starttls: Protocol = ""
    dialogue: Annotated[tuple[DialogueStep, ...], Meta(max_length=100)] = ()
    line_end: LineEnd = "lf"

    def _where(self) -> tuple[str, int]:
        host, port = split_host_port(self.host, DEFAULT_PORTS.get(self.starttls, 0))
        return host, self.port or port

    def address(self) -> str:
        try:
            return join_host_port(*self._where())
        except ValueError:
            return self.host

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        found = host_faults(self.host, self.port, DEFAULT_PORTS.get(self.starttls, 0)) + tls_option_faults(self.tls)
        found += dialogue_faults(self.dialogue)
        return found

    def launch(self, attempt: Attempt, done: Done) -> Cancel:
        # Most targets are a plain port on a known address: no task, no coroutine, half the CPU.
        if not (self.dialogue or self.tls or self.starttls):
            host, port = self._where()
            known = literal(host, port)
            if known is not None and self.ip_version in (None, 6 if known[0] == socket.AF_INET6 else 4):
                return _Knock(self, attempt, done).start(known, self.source)
        return super().launch(attempt, done)

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        host, port = self._where()
        to = Destination(
            host=host, port=port, ip_version=self.ip_version, ip_fallback=self.ip_fallback, source=self.source
        )
        progress.values["tls"] = False
        with await open_stream(attempt, to, progress) as stream:
            if self.starttls:
                await ask_for_tls(stream, self.starttls, host)
            later = any(step.starttls for step in self.dialogue)
            if self.starttls or (self.tls and not later):
                await self._start_tls(attempt, stream, host)
            if self.dialogue:
                await converse(stream, self.dialogue, self.line_end, lambda: self._start_tls(attempt, stream, host))

    async def _start_tls(self, attempt: Attempt, stream: Stream, host: str) -> None:
        try:
            await stream.start_tls(tls_options(self.tls) or TlsOptions(), host)
        except ssl.SSLError as error:
            raise tls_failure(error, stream.address) from error
        stream.progress.values.update(stream.certificate_values(attempt))


class _Knock:
    """One plain connect, driven by the event loop's own callbacks."""

    __slots__ = ("_attempt", "_done", "_loop", "_probe", "_progress", "_sock", "_timer")

    def __init__(self, probe: TcpProbe, attempt: Attempt, done: Done) -> None:
        self._probe = probe
        self._attempt = attempt
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._progress = Progress()
        self._sock: socket.socket | None = None
        self._timer: asyncio.Handle | None = None

    def start(self, to: tuple[int, SocketAddress], source: str) -> Cancel:
        family, sockaddr = to
        self._progress.values.update(
            {"tls": False, "ip": sockaddr[0], "ip_version": 6 if family == socket.AF_INET6 else 4}
        )
        number = 0
        try:
            self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            if source:
                self._sock.bind((source, 0))
            number = self._sock.connect_ex(sockaddr)
        except OSError as error:
            number = error.errno or errno.EINVAL
        if number == errno.EINPROGRESS and self._sock is not None:
            self._loop.add_writer(self._sock.fileno(), self._writable)
            self._timer = self._loop.call_later(inner_timeout(self._attempt.timeout_s), self._late)
        else:
            # Later, so that `done` is never called from within `launch`.
            self._timer = self._loop.call_soon(self._finish, number)
        return self._release

    def _writable(self) -> None:
        if self._sock is not None:
            self._finish(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _late(self) -> None:
        message = f"{self._probe.address()}: no answer within {self._attempt.timeout_s:g} s while connecting"
        self._end("timeout", message)

    def _finish(self, number: int) -> None:
        if number:
            failed = failure_of(OSError(number, os.strerror(number)), f"cannot connect to {self._probe.address()}")
            self._end(failed.reason, failed.message)
        else:
            self._end("", "")

    def _end(self, reason: str, message: str) -> None:
        self._progress.connect_s = perf_counter() - self._progress.started
        self._release()
        self._done(self._progress.result(reason, message))

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock is not None:
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._sock = None
