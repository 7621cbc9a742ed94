"""The `otlp` sink: OpenTelemetry's logs over HTTP, as protobuf."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.fields import OWN, Record, level, severity_number, time_ns
from dogwatch.logs.records import records
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, in_parts

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

_APART = OWN | {"message", "timestamp", "level", "severity", "trace_id", "span_id"}


class OtlpSink(HttpOptions, frozen=True, kw_only=True):
    """Sends to an OpenTelemetry collector, or what speaks as one. A record's id is its `log.record.uid`.

    `timestamp`, `level`, `trace_id` and `span_id` go where the protocol has them; other columns become attributes.

    url: of the receiver, without the path. resource: attributes of the resource; `service.name` is the source unless it
    is given. headers, timeout, compression, ca_file, verify: of the connection; compression is gzip by default.
    """

    kind: ClassVar[str] = "otlp"
    short: ClassVar[str] = "url"

    resource: Mapping[str, str] = {}

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from self.url_faults()
        if self.compression == "zstd":
            yield ("compression",), "OTLP takes gzip or none", ""

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _Otlp(self, tools)


class _Otlp:
    def __init__(self, options: OtlpSink, tools: Tools) -> None:
        self._options = options
        self._tools = tools
        path = "" if options.url.rstrip("/").endswith("/v1/logs") else "/v1/logs"
        self._delivery = Delivery(options, tools, "application/x-protobuf", path)

    async def write(self, blocks: Sequence[Block]) -> None:
        await in_parts(blocks, self._send, self._tools)

    async def _send(self, blocks: Sequence[Block]) -> None:
        body = await self._tools.thread(lambda: self._delivery.pack(self._body(blocks)))
        answer = await self._delivery.post(body)
        await self._judge(answer.body, answer.headers.get("content-type", ""))

    def _body(self, blocks: Sequence[Block]) -> bytes:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

        request = ExportLogsServiceRequest()
        scopes = {}
        now_ns = time.time_ns()
        for block in blocks:
            if block.source not in scopes:
                resource = request.resource_logs.add()
                for name, value in {"service.name": block.source, **self._options.resource}.items():
                    resource.resource.attributes.add(key=name).value.string_value = value
                scopes[block.source] = resource.scope_logs.add()
                scopes[block.source].scope.name = "dogwatch"
            target = scopes[block.source].log_records
            for record in records(block):
                _fill(target.add(), record, now_ns)
        return bytes(request.SerializeToString())

    async def _judge(self, body: bytes, content_type: str) -> None:
        """Keep word of records that were refused: the protocol says how many, not which, and not to send them again."""
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        if not body or "protobuf" not in content_type:
            return
        answer = ExportLogsServiceResponse()
        try:
            answer.ParseFromString(body)
        except DecodeError:
            return
        if refused := answer.partial_success.rejected_log_records:
            reason = f"{refused} records refused: {answer.partial_success.error_message}"[:300]
            await self._tools.dead([{"refused": refused}], reason)

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""


def _fill(target: LogRecord, record: Record, now_ns: int) -> None:
    target.observed_time_unix_nano = now_ns
    target.time_unix_nano = time_ns(record, now_ns)
    if (known := level(record)) is not None:
        target.severity_text = known[0]
        target.severity_number = severity_number(*known)  # type: ignore[assignment]
    if "message" in record:
        _value(target.body, record["message"])
    target.trace_id = _hex(record.get("trace_id"), 16)
    target.span_id = _hex(record.get("span_id"), 8)
    own = {"log.record.uid": record["id"], "log.file.path": record["file"]}
    rest = {name: value for name, value in record.items() if name not in _APART}
    for name in ("trace_id", "span_id"):
        if name in record and not getattr(target, name):
            rest[name] = record[name]
    for name, value in {**own, **rest}.items():
        _value(target.attributes.add(key=name).value, value)


def _hex(value: object, size: int) -> bytes:
    """Return an id's bytes, or none where it is not one."""
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""
    return found if len(found) == size and any(found) else b""


def _value(target: AnyValue, value: object) -> None:
    match value:
        case bool():
            target.bool_value = value
        case int() if -(2**63) <= value < 2**63:
            target.int_value = value
        case float():
            target.double_value = value
        case list() | tuple():
            target.array_value.SetInParent()
            for one in value:
                _value(target.array_value.values.add(), one)
        case Mapping():
            target.kvlist_value.SetInParent()
            for name, one in value.items():
                _value(target.kvlist_value.values.add(key=str(name)).value, one)
        case None:
            pass
        case _:
            target.string_value = str(value)
