"""The `grpc` kind."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from dogwatch.core.units import Secret
from dogwatch.probes.addresses import host_faults, join_host_port, split_host_port
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
from dogwatch.probes.trust import TlsOptions, tls_failure, tls_option_faults, tls_options

if TYPE_CHECKING:
    from h2.connection import H2Connection

_PATH = "/grpc.health.v1.Health/Check"
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_MAX_BODY_BYTES = 64 * 1024
_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


class GrpcProbe(SteppedProbe, frozen=True, kw_only=True):
    """Asks a server over gRPC's health protocol (grpc.health.v1) whether it serves.

    host: name or address; may carry the port: `shop:50051`. port: default 443 with TLS, else 50051. service: the
    service asked about; default: the server as a whole. tls: true or options; default off (HTTP/2 without TLS).
    authority: the :authority sent; default: host and port. metadata: headers sent, such as authorization; never shown.
    Names ending in -bin carry base64. metadata_lists: the same for names with several values. ip_version: 4 or 6;
    default: whichever answers. ip_fallback: take the other version if the name has none of that one; default false.
    source: our own address; default: the system's choice.
    """

    kind: ClassVar[str] = "grpc"
    short: ClassVar[str] = "host"
    schemes: ClassVar[tuple[str, ...]] = ("grpcs",)
    variables: ClassVar[dict[str, str]] = {
        **CONNECTION_VARIABLES,
        **TLS_VARIABLES,
        "grpc_status": "int",
        "grpc_message": "string",
        "serving_status": "string",
        "http_status": "int",
        "check_s": "double",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        **CONNECTION_MEANINGS,
        **TLS_MEANINGS,
        "grpc_status": "status of the call; 0 is OK",
        "grpc_message": "message of the call",
        "serving_status": "SERVING, NOT_SERVING, UNKNOWN or SERVICE_UNKNOWN",
        "http_status": "HTTP status of the answer",
        "check_s": "time of the call itself",
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        **CONNECTION_METRICS,
        **TLS_METRICS,
        "tls": ("probe_grpc_ssl", "Indicates if SSL was used for the connection"),
        "grpc_status": ("probe_grpc_status_code", "Response gRPC status code"),
        "serving_status": ("probe_grpc_healthcheck_response{serving_status}", "Response HealthCheck response"),
        "check_s": ('probe_grpc_duration_seconds{phase="check"}', "Duration of gRPC request by phase"),
    }

    host: str
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    service: str = ""
    tls: TlsOptions | bool = False
    authority: str = ""
    metadata: dict[str, Secret] = msgspec.field(default_factory=dict)
    metadata_lists: dict[str, tuple[Secret, ...]] = msgspec.field(default_factory=dict)
    ip_version: Literal[4, 6] | None = None
    ip_fallback: bool = False
    source: str = ""

    def _where(self) -> tuple[str, int]:
        host, port = split_host_port(self.host, 443 if self.tls else 50051)
        return host, self.port or port

    def address(self) -> str:
        try:
            where = join_host_port(*self._where())
        except ValueError:
            return self.host
        return f"{where}/{self.service}" if self.service else where

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        found = host_faults(self.host, self.port, 50051) + tls_option_faults(self.tls)
        for name, value in self._metadata():
            if not name or name != name.lower() or not name.isascii() or any(char in name for char in " :\r\n"):
                found.append((("metadata", name), "is not a header name", "lower-case letters, digits, - and _"))
            if any(char in value for char in "\r\n\0"):
                found.append((("metadata", name), "has a line break in its value", ""))
        return found

    def _metadata(self) -> list[tuple[str, str]]:
        several = [(name, value) for name, values in self.metadata_lists.items() for value in values]
        return [*self.metadata.items(), *several]

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        host, port = self._where()
        to = Destination(
            host=host, port=port, ip_version=self.ip_version, ip_fallback=self.ip_fallback, source=self.source
        )
        options = tls_options(self.tls)
        progress.values["tls"] = options is not None
        with await open_stream(attempt, to, progress) as stream:
            if options is not None:
                await self._start_tls(attempt, stream, options, host)
            started = perf_counter()
            call = _Call(stream, self.address())
            await call.run(self._headers(stream, attempt, secure=options is not None), _request(self.service))
            progress.values["check_s"] = perf_counter() - started
            self._judge(call, progress)

    async def _start_tls(self, attempt: Attempt, stream: Stream, options: TlsOptions, host: str) -> None:
        try:
            await stream.start_tls(options, host, ("h2",))
        except ssl.SSLError as error:
            raise tls_failure(error, stream.address) from error
        stream.progress.values.update(stream.certificate_values(attempt))
        assert stream.tls is not None
        if stream.tls.selected_alpn_protocol() not in ("h2", None):
            raise ProbeFailed("protocol", f"{stream.address}: the server does not speak HTTP/2")

    def _headers(self, stream: Stream, attempt: Attempt, *, secure: bool) -> list[tuple[str, str]]:
        return [
            (":method", "POST"),
            (":scheme", "https" if secure else "http"),
            (":path", _PATH),
            (":authority", self.authority or stream.address),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "dogwatch"),
            # So that the server, too, gives up when nobody waits any more.
            ("grpc-timeout", f"{max(int(attempt.timeout_s * 1000), 1)}m"),
            *self._metadata(),
        ]

    def _judge(self, call: _Call, progress: Progress) -> None:
        progress.headers = tuple(call.headers.items())[:100]
        progress.hear(bytes(call.body))
        http_status = _number(call.headers.get(":status"), 0)
        progress.values["http_status"] = http_status
        status = call.headers.get("grpc-status")
        if http_status != 200 or status is None:
            raise ProbeFailed("protocol", f"{self.address()}: not a gRPC answer (HTTP status {http_status})")
        code, message = _number(status, 2), unquote(call.headers.get("grpc-message", ""))[:500]
        progress.values.update({"grpc_status": code, "grpc_message": message})
        if code:
            name = _CODES[code] if code < len(_CODES) else str(code)
            why = f": {message}" if message else ""
            raise ProbeFailed("status", f"{self.address()}: the server answered {name}{why}")
        serving = _serving_status(bytes(call.body), self.address())
        progress.values["serving_status"] = serving
        if serving != "SERVING":
            raise ProbeFailed("unhealthy", f"{self.address()}: the server says {serving}")


class _Call:
    """One unary call on a new HTTP/2 connection."""

    def __init__(self, stream: Stream, address: str) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self._stream = stream
        self._address = address
        self._ended = False

    async def run(self, headers: list[tuple[str, str]], body: bytes) -> None:
        import h2.config
        import h2.connection
        import h2.exceptions

        progress = self._stream.progress
        progress.doing = "waiting for the answer to the health check"
        connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8", normalize_inbound_headers=False)
        )
        connection.initiate_connection()
        stream_id = connection.get_next_available_stream_id()
        try:
            connection.send_headers(stream_id, [(name, _encoded(name, value)) for name, value in headers])
            connection.send_data(stream_id, body, end_stream=True)
            await self._stream.send(connection.data_to_send())
            asked = perf_counter()
            while not self._ended:
                data = await self._stream.recv()
                progress.first_byte_s = progress.first_byte_s or perf_counter() - asked
                if not data:
                    raise ProbeFailed("reset", f"{self._address}: the connection ended before the answer")
                for event in connection.receive_data(data):
                    self._take(connection, stream_id, event)
                await self._stream.send(connection.data_to_send())
            connection.close_connection()
            await self._say_goodbye(connection)
        except (h2.exceptions.ProtocolError, UnicodeDecodeError) as error:
            why = str(error) or type(error).__name__
            raise ProbeFailed("protocol", f"{self._address}: not valid HTTP/2: {why[:200]}") from error
        progress.transfer_s = perf_counter() - asked - progress.first_byte_s

    async def _say_goodbye(self, connection: H2Connection) -> None:
        try:
            await self._stream.send(connection.data_to_send())
        except (OSError, ssl.SSLError):
            return  # the answer is here: a server that hung up first is no failure

    def _take(self, connection: H2Connection, stream_id: int, event: Any) -> None:
        import h2.events

        if getattr(event, "stream_id", stream_id) != stream_id:
            return
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.headers.update({str(name): str(value)[:1000] for name, value in list(event.headers or ())[:100]})
        elif isinstance(event, h2.events.DataReceived):
            self.body += event.data or b""
            connection.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
            if len(self.body) > _MAX_BODY_BYTES:
                raise ProbeFailed("too_large", f"{self._address}: the answer has more than {_MAX_BODY_BYTES} bytes")
        elif isinstance(event, h2.events.StreamEnded):
            self._ended = True
        elif isinstance(event, h2.events.StreamReset):
            raise ProbeFailed("reset", f"{self._address}: the server reset the call (code {event.error_code})")
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise ProbeFailed("reset", f"{self._address}: the server ended the connection (code {event.error_code})")


def _encoded(name: str, value: str) -> str:
    # gRPC leaves out the padding of binary metadata.
    return base64.b64encode(value.encode()).decode().rstrip("=") if name.endswith("-bin") else value


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else default


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _request(service: str) -> bytes:
    """Return a framed HealthCheckRequest: field 1, the service's name."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
        shift += 7
    raise ValueError("bad varint")


def _serving_status(body: bytes, address: str) -> str:
    """Return the status of a framed HealthCheckResponse; its field 1, and UNKNOWN where that is absent."""
    length = int.from_bytes(body[1:5], "big")
    if len(body) < 5 or body[0] or len(body) - 5 < length:
        raise ProbeFailed("protocol", f"{address}: the health check's answer cannot be read")
    message, at, status = body[5 : 5 + length], 0, 0
    try:
        while at < len(message):
            tag, at = _read_varint(message, at)
            wire_type = tag & 7
            value, after = _read_varint(message, at) if wire_type in (0, 2) else (0, at)
            if wire_type == 0 and tag >> 3 == 1:
                status = value
            at = {0: after, 1: at + 8, 2: after + value, 5: at + 4}[wire_type]
    except (ValueError, KeyError) as error:
        raise ProbeFailed("protocol", f"{address}: the health check's answer cannot be read") from error
    return _STATUSES[status] if status < len(_STATUSES) else str(status)
