"""The `websocket` kind."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from dogwatch.core.units import Secret
from dogwatch.probes.addresses import join_host_port
from dogwatch.probes.patterns import expand, pattern, pattern_faults
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import ProbeFailed, Progress, SteppedProbe
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
from dogwatch.probes.trust import TlsOptions, tls_failure, tls_option_faults

if TYPE_CHECKING:
    from wsproto import WSConnection

_MAX_MESSAGES = 1000


class MessageStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step: wait, then send.

    expect: regular expression (RE2) that the next message must match. send: text message to send; `$1` and `$name`
    stand for groups of this step's match, `$$` for a dollar sign. It may hold a password and is never shown.
    """

    expect: str | None = None
    send: Secret | None = None


class WebsocketProbe(SteppedProbe, frozen=True, kw_only=True):
    """Does the WebSocket handshake, and sends, expects, pings as asked.

    url: ws:// or wss://. headers: sent with the handshake; never shown. subprotocols: offered; one of them must be
    taken; default none. send: text message to send after the handshake; may hold a password and is never shown;
    default none. expect_message: regular expression (RE2) that one of the messages received must match; default: none
    is waited for. dialogue: steps of what to expect and to send, after those; default none. ping: send a ping and wait
    for its pong; default false. close_code: code that the server must answer our close with; default: any, and it is
    not waited for. max_message: longest message taken; default 64KiB. tls: options for wss. ip_version: 4 or 6;
    default: whichever answers. ip_fallback: take the other one if the name has none of that; default false. source: our
    own address; default: the system's choice.
    """

    kind: ClassVar[str] = "websocket"
    short: ClassVar[str] = "url"
    schemes: ClassVar[tuple[str, ...]] = ("ws", "wss")
    variables: ClassVar[dict[str, str]] = {
        **CONNECTION_VARIABLES,
        **TLS_VARIABLES,
        "status": "int",
        "subprotocol": "string",
        "message": "string",
        "ping_s": "double",
        "close_code": "int",
        "failed_regex": "bool",
        "upgraded": "bool",
        "connect_s": "double",
        "dialogue_s": "double",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        **CONNECTION_MEANINGS,
        **TLS_MEANINGS,
        "status": "HTTP status of the handshake",
        "subprotocol": "the one that was agreed",
        "message": "the message that was received",
        "ping_s": "time from ping to pong",
        "close_code": "code of the closing frame",
        "failed_regex": "whether the expected message did not come",
        "upgraded": "whether the handshake succeeded",
        "connect_s": "time to connect",
        "dialogue_s": "time of the dialogue",
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        **CONNECTION_METRICS,
        **TLS_METRICS,
        "status": ("probe_websocket_status_code", "HTTP status of the handshake"),
        "ping_s": ("probe_websocket_ping_seconds", "Time from a ping to its pong"),
        "failed_regex": ("probe_failed_due_to_regex", "Indicates if probe failed due to regex"),
    }

    url: str
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    subprotocols: Annotated[tuple[str, ...], Meta(max_length=20)] = ()
    send: Secret | None = None
    expect_message: str | None = None
    dialogue: Annotated[tuple[MessageStep, ...], Meta(max_length=100)] = ()
    ping: bool = False
    close_code: Annotated[int, Meta(ge=1000, le=4999)] | None = None
    max_message: Annotated[int, Meta(ge=1, le=1024 * 1024, extra={"unit": "size"})] = 64 * 1024
    tls: TlsOptions = TlsOptions()
    ip_version: Literal[4, 6] | None = None
    ip_fallback: bool = False
    source: str = ""

    def address(self) -> str:
        # Neither user:password nor a token in the query is for others to see.
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        found = tls_option_faults(self.tls) + pattern_faults(self.expect_message, "expect_message")
        for number, step in enumerate(self.dialogue):
            found += pattern_faults(step.expect, "dialogue", number, "expect")
            if step.expect is None and step.send is None:
                found.append((("dialogue", number), "does nothing", "give expect or send"))
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("ws", "wss") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            sound = False
        if not sound or any(char.isspace() for char in self.url):
            found.append((("url",), "is not a WebSocket address", "write it as ws://host/path or wss://host/path"))
        for name, value in self.headers.items():
            if not name or any(char in name for char in " :\r\n") or any(char in value for char in "\r\n\0"):
                found.append((("headers", name), "is not a header", ""))
        return found

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        parts = urlsplit(self.url)
        secure = parts.scheme == "wss"
        host = parts.hostname or ""
        port = parts.port or (443 if secure else 80)
        progress.values["tls"] = secure
        to = Destination(
            host=host, port=port, ip_version=self.ip_version, ip_fallback=self.ip_fallback, source=self.source
        )
        progress.values["upgraded"] = False
        with await open_stream(attempt, to, progress) as stream:
            progress.values["connect_s"] = progress.connect_s
            if secure:
                try:
                    await stream.start_tls(self.tls, host, ("http/1.1",))
                except ssl.SSLError as error:
                    raise tls_failure(error, stream.address) from error
                progress.values.update(stream.certificate_values(attempt))
            await self._talk(_Conversation(stream, self), parts, port if parts.port else 0)

    async def _talk(self, conversation: _Conversation, parts: SplitResult, port: int) -> None:
        progress = conversation.stream.progress
        host = parts.hostname or ""
        shown = f"[{host}]" if ":" in host else host
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        await conversation.shake_hands(join_host_port(host, port) if port else shown, target)
        if self.send is not None:
            progress.doing = "sending a message"
            await conversation.send_text(self.send)
        if self.expect_message is not None:
            progress.values["failed_regex"] = True  # until it matched: a timeout must show it, too
            progress.doing = f"waiting for a message matching '{self.expect_message}'"
            await conversation.expect(self.expect_message)
            progress.values["failed_regex"] = False
        if self.dialogue:
            await conversation.go_through(self.dialogue)
        if self.ping:
            progress.doing = "waiting for a pong"
            progress.values["ping_s"] = await conversation.ping()
        progress.doing = "waiting for the close"
        await conversation.close(self.close_code)


class _Conversation:
    """A WebSocket on a stream. Messages that come while something else is awaited are evidence only."""

    def __init__(self, stream: Stream, probe: WebsocketProbe) -> None:
        import wsproto

        self.stream = stream
        self._probe = probe
        self._address = probe.address()
        self._ws: WSConnection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._events: list[Any] = []
        self._partial: list[str | bytes] = []
        self._partial_bytes = 0
        self._messages = 0

    async def _send(self, event: Any) -> None:
        await self.stream.send(self._ws.send(event))

    async def _next(self) -> Any:
        """Return the next event; pings are answered on the way.

        Raises: ProbeFailed.
        """
        import wsproto.events
        import wsproto.utilities

        while True:
            while not self._events:
                data = await self.stream.recv()
                try:
                    self._ws.receive_data(data or None)
                    self._events = list(self._ws.events())
                except (wsproto.utilities.RemoteProtocolError, wsproto.utilities.LocalProtocolError) as error:
                    message = f"{self._address}: not a WebSocket server: {str(error)[:200]}"
                    raise ProbeFailed("protocol", message) from error
                if not data and not self._events:
                    raise ProbeFailed("reset", f"{self._address}: the connection ended")
            event = self._events.pop(0)
            if not isinstance(event, wsproto.events.Ping):
                return event
            await self._send(event.response())

    async def shake_hands(self, host: str, target: str) -> None:
        import wsproto.events

        progress = self.stream.progress
        progress.doing = "waiting for the handshake"
        asked = perf_counter()
        try:
            await self._send(
                wsproto.events.Request(
                    host=host,
                    target=target,
                    subprotocols=list(self._probe.subprotocols),
                    extra_headers=[(name.encode(), value.encode()) for name, value in self._probe.headers.items()],
                )
            )
            event = await self._next()
        finally:
            progress.first_byte_s = perf_counter() - asked
        if isinstance(event, wsproto.events.AcceptConnection):
            progress.values.update({"status": 101, "upgraded": True, "subprotocol": event.subprotocol or ""})
            if self._probe.subprotocols and not event.subprotocol:
                raise ProbeFailed("mismatch", f"{self._address}: the server took none of the subprotocols")
            return
        await self._refused(event)

    async def _refused(self, event: Any) -> None:
        """Raise what a refusal says, with the answer as evidence."""
        import wsproto.events

        progress = self.stream.progress
        status = getattr(event, "status_code", 0)
        if isinstance(event, wsproto.events.RejectConnection):
            progress.values["status"] = status
            progress.headers = tuple(
                (bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in event.headers[:100]
            )
            while event is not None and not getattr(event, "body_finished", not getattr(event, "has_body", False)):
                event = await self._next()
                progress.hear(getattr(event, "data", b""))
                if progress.truncated:
                    break
        raise ProbeFailed("status", f"{self._address}: the handshake was answered with status {status}")

    async def _message(self) -> str | bytes:
        """Return the next whole message."""
        import wsproto.events

        while True:
            event = await self._next()
            if isinstance(event, wsproto.events.CloseConnection):
                self.stream.progress.values["close_code"] = int(event.code)
                raise ProbeFailed(
                    "reset", f"{self._address}: the server closed the connection (code {int(event.code)})"
                )
            message = self._assemble(event)
            if message is not None:
                return message

    def _assemble(self, event: Any) -> str | bytes | None:
        """Return a message once its last piece is here, bounded in size and number."""
        import wsproto.events

        if not isinstance(event, wsproto.events.Message):
            return None
        self._partial.append(event.data)
        self._partial_bytes += len(event.data)
        if self._partial_bytes > self._probe.max_message:
            raise ProbeFailed("too_large", f"{self._address}: a message has more than {self._probe.max_message} bytes")
        if not event.message_finished:
            return None
        first = self._partial[0]
        whole = first[:0].join(self._partial)  # type: ignore[arg-type]
        self._partial, self._partial_bytes = [], 0
        self._messages += 1
        if self._messages > _MAX_MESSAGES:
            raise ProbeFailed("too_large", f"{self._address}: sent more than {_MAX_MESSAGES} messages")
        self.stream.progress.hear((whole.encode() if isinstance(whole, str) else bytes(whole)) + b"\n")
        return whole if isinstance(whole, str) else bytes(whole)

    async def send_text(self, text: str) -> None:
        import wsproto.events

        await self._send(wsproto.events.TextMessage(data=text))

    async def expect(self, expression: str) -> None:
        progress = self.stream.progress
        compiled = pattern(expression)
        started = perf_counter()
        while True:
            message = await self._message()
            text = message if isinstance(message, str) else message.decode("utf-8", "replace")
            progress.values["message"] = text[:1000]
            if compiled.search(message) is not None:
                progress.transfer_s = perf_counter() - started
                return

    async def go_through(self, steps: tuple[MessageStep, ...]) -> None:
        """Do one step after the other; a message that does not match ends it."""
        progress = self.stream.progress
        started = perf_counter()
        progress.values["failed_regex"] = False
        try:
            for number, step in enumerate(steps, 1):
                match = None
                if step.expect is not None:
                    progress.doing = f"waiting for a message (dialogue step {number})"
                    match = await self._matched(step.expect, number)
                if step.send is not None:
                    progress.doing = f"sending a message (dialogue step {number})"
                    await self.send_text(expand(step.send, match))
        finally:
            progress.values["dialogue_s"] = perf_counter() - started
        progress.transfer_s = perf_counter() - started

    async def _matched(self, expression: str, number: int) -> Any:
        values = self.stream.progress.values
        values["failed_regex"] = True  # until it matched: a timeout must show it, too
        message = await self._message()
        text = message if isinstance(message, str) else message.decode("utf-8", "replace")
        values["message"] = text[:1000]
        match = pattern(expression).search(message)
        if match is None:
            why = f"the message does not match '{expression}' (dialogue step {number})"
            raise ProbeFailed("mismatch", f"{self._address}: {why}")
        values["failed_regex"] = False
        return match

    async def ping(self) -> float:
        """Return the time to the pong."""
        import wsproto.events

        payload = secrets.token_bytes(8)
        started = perf_counter()
        await self._send(wsproto.events.Ping(payload=payload))
        while True:
            event = await self._next()
            if isinstance(event, wsproto.events.Pong) and bytes(event.payload) == payload:
                return perf_counter() - started
            if isinstance(event, wsproto.events.CloseConnection):
                raise ProbeFailed("reset", f"{self._address}: the server closed instead of a pong (code {event.code})")
            self._assemble(event)

    async def close(self, wanted: int | None) -> None:
        """Close; wait for the server's own close only where its code matters."""
        import wsproto.events

        await self._send(wsproto.events.CloseConnection(code=1000))
        if wanted is None:
            return
        while True:
            event = await self._next()
            if isinstance(event, wsproto.events.CloseConnection):
                break
            self._assemble(event)
        self.stream.progress.values["close_code"] = int(event.code)
        if event.code != wanted:
            raise ProbeFailed("mismatch", f"{self._address}: closed with code {int(event.code)}, wanted {wanted}")
