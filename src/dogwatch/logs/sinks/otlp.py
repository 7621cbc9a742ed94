"""The `otlp` sink: OpenTelemetry's logs over HTTP, as protobuf."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import pieces
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, in_parts
from dogwatch.logs.sinks.otlp_bytes import Writer, key_value, sized


class OtlpSink(HttpOptions, frozen=True, kw_only=True):
    """Sends to an OpenTelemetry collector, or what speaks as one. A record's id is its `log.record.uid`.

    `timestamp`, `level`, `trace_id` and `span_id` go where the protocol has them; other columns become attributes, and
    so does what cannot be read as what these are.

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

    def takes_json(self) -> bool:
        return True

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _Otlp(self, tools)


class _Otlp:
    def __init__(self, options: OtlpSink, tools: Tools) -> None:
        self._options = options
        self._tools = tools
        self._writer = Writer()
        path = "" if options.url.rstrip("/").endswith("/v1/logs") else "/v1/logs"
        self._delivery = Delivery(options, tools, "application/x-protobuf", path)

    async def write(self, blocks: Sequence[Block]) -> None:
        await in_parts(blocks, self._send, self._tools)

    async def _send(self, blocks: Sequence[Block]) -> None:
        body = await self._tools.thread(lambda: self._delivery.pack(self._body(blocks)))
        answer = await self._delivery.post(body)
        await self._judge(answer.body, answer.headers.get("content-type", ""))

    def _body(self, blocks: Sequence[Block]) -> bytes:
        now_ns = time.time_ns()
        found: dict[str, list[bytes]] = {}
        for block in blocks:
            found.setdefault(block.source, []).append(self._writer.records(pieces(block), block.path, now_ns))
        return b"".join([self._resource_logs(source, b"".join(some)) for source, some in found.items()])

    def _resource_logs(self, source: str, log_records: bytes) -> bytes:
        named = {"service.name": source, **self._options.resource}
        resource = b"".join(sized(b"\x0a", key_value(name, value)) for name, value in named.items())
        scope = sized(b"\x0a", sized(b"\x0a", b"dogwatch"))
        return sized(b"\x0a", sized(b"\x0a", resource) + sized(b"\x12", scope + log_records))

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
