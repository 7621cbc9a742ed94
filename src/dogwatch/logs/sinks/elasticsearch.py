"""The `elasticsearch` sink: the bulk API of Elasticsearch and OpenSearch; every item of an answer is judged alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import records
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions

_CREATED_BEFORE = 409


class ElasticsearchSink(HttpOptions, frozen=True, kw_only=True):
    """Creates documents by the bulk API, under their record ids: what comes twice after a crash is there once.

    url: of the cluster, without the path. index: index or data stream. pipeline: of ingest. headers, timeout,
    compression, ca_file, verify: of the connection; compression is gzip by default. Items that are refused for now
    (429, 5xx) are sent again alone; those that never will be taken make dead letters.
    """

    kind: ClassVar[str] = "elasticsearch"
    short: ClassVar[str] = "url"

    index: str = "logs-dogwatch-default"
    pipeline: str = ""

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from self.url_faults()
        if self.compression == "zstd":
            yield ("compression",), "bulk requests may be gzip or none", ""
        if not self.index or self.index != self.index.lower() or set(self.index) & set(' "*\\<|,>/?#:'):
            yield ("index",), "is not an index's name", ""

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _Elasticsearch(self, tools)


class _Answer(msgspec.Struct):
    """What a bulk request is answered. items: one mapping each, `{"create": {"status": 201}}`."""

    errors: bool = False
    items: list[dict[str, Any]] = []


class _Elasticsearch:
    def __init__(self, options: ElasticsearchSink, tools: Tools) -> None:
        self._index = options.index
        self._tools = tools
        path = "/_bulk" + (f"?pipeline={options.pipeline}" if options.pipeline else "")
        self._delivery = Delivery(options, tools, "application/x-ndjson", path)
        self._encoder = msgspec.json.Encoder()

    async def write(self, blocks: Sequence[Block]) -> None:
        left = await self._tools.thread(lambda: [one for block in blocks for one in records(block)])
        attempt = 0
        while left:
            attempt += 1
            body = await self._tools.thread(lambda batch=left: self._delivery.pack(self._body(batch)))  # type: ignore[misc]
            try:
                answer = await self._delivery.post(body)
            except TransientError as error:
                if attempt == 1:
                    raise
                # A part is taken already: only the rest is tried again, from here.
                await self._tools.pause(attempt, error.retry_after_s)
                continue
            left = await self._judge(left, answer.body)
            if left:
                await self._tools.pause(attempt, None)

    def _body(self, batch: Sequence[Mapping[str, object]]) -> bytes:
        lines: list[object] = []
        for one in batch:
            lines.append({"create": {"_index": self._index, "_id": one["id"]}})
            lines.append(one)
        return self._encoder.encode_lines(lines)

    async def _judge(self, batch: list[dict[str, object]], body: bytes) -> list[dict[str, object]]:
        """Return the records to be sent again. Those that never will be taken become dead letters."""
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except msgspec.MsgspecError:
            raise TransientError("answered something else than a bulk answer") from None
        if not answer.errors:
            return []
        if len(answer.items) != len(batch):
            raise TransientError(f"answered {len(answer.items)} items for {len(batch)}")
        again = []
        dead: dict[str, list[Mapping[str, object]]] = {}
        for record, item in zip(batch, answer.items, strict=True):
            result: Mapping[str, Any] = next(iter(item.values()), {})
            status = int(result.get("status", 0))
            if 200 <= status < 300 or status == _CREATED_BEFORE:
                continue
            if status == 429 or status >= 500 or not status:
                again.append(record)
            else:
                dead.setdefault(_reason(status, result), []).append(record)
        for reason, records_ in dead.items():
            await self._tools.dead(records_, reason)
        return again

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""


def _reason(status: int, result: Mapping[str, Any]) -> str:
    error = result.get("error")
    if isinstance(error, Mapping):
        return f"{status} {error.get('type', '')}: {error.get('reason', '')}"[:300]
    return f"{status} {error or ''}"[:300]
