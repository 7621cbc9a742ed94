"""The `elasticsearch` sink: the bulk API of Elasticsearch and OpenSearch; every item of an answer is judged alone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.fields import rfc3339, time_ns
from dogwatch.logs.records import records
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, TooLarge

_CREATED_BEFORE = 409
# What an operator mends: rights, a block on a full disk, an index that is not made by itself.
_LATER = frozenset({0, 401, 403, 404, 408, 429})
_NO_PIPELINE = re.compile(r"pipeline with id \[.*\] does not exist")
_ROUNDS = 5
_TIME = "@timestamp"


class ElasticsearchSink(HttpOptions, frozen=True, kw_only=True):
    """Creates documents by the bulk API, under their record ids: what comes twice after a crash is there once.

    Each document has the `@timestamp` that data streams ask for: its own, its `timestamp`, or the time of sending.

    url: of the cluster, without the path. index: index or data stream. pipeline: of ingest. headers, timeout,
    compression, ca_file, verify: of the connection; compression is gzip by default. Items that are refused for now
    (429, 5xx, missing rights, blocked or missing index) are sent again alone; those that never will be taken make dead
    letters. A request that is too large (413) is halved.
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
        now_ns = time.time_ns()
        found = await self._tools.thread(lambda: [_timed(one, now_ns) for block in blocks for one in records(block)])
        await self._create(found)

    async def _create(self, found: list[dict[str, object]]) -> None:
        """Create all. What is refused for now is sent again by itself some times, then the whole batch is."""
        left = found
        attempt = 0
        while left:
            attempt += 1
            body = await self._tools.thread(lambda batch=left: self._delivery.pack(self._body(batch)))  # type: ignore[misc]
            try:
                answer = await self._delivery.post(body)
            except TooLarge as error:
                await self._halve(left, error)
                return
            except TransientError as error:
                if attempt == 1 or attempt >= _ROUNDS:
                    raise
                # A part is taken already: only the rest is tried again, from here.
                await self._tools.pause(attempt, error.retry_after_s)
                continue
            left, reason = await self._judge(left, answer.body)
            if left:
                if attempt == _ROUNDS or len(left) == len(found):
                    # It is shown as failing; what was taken is known by its id when it comes again.
                    raise TransientError(f"{len(left)} of {len(found)} records refused: {reason}")
                await self._tools.pause(attempt, None)

    async def _halve(self, found: list[dict[str, object]], error: TooLarge) -> None:
        if len(found) == 1:
            await self._tools.dead(found, str(error))
            return
        middle = len(found) // 2
        await self._create(found[:middle])
        await self._create(found[middle:])

    def _body(self, batch: Sequence[Mapping[str, object]]) -> bytes:
        lines: list[object] = []
        for one in batch:
            lines.append({"create": {"_index": self._index, "_id": one["id"]}})
            lines.append(one)
        return self._encoder.encode_lines(lines)

    async def _judge(self, batch: list[dict[str, object]], body: bytes) -> tuple[list[dict[str, object]], str]:
        """Return the records to be sent again, and why. Those that never will be taken become dead letters."""
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except msgspec.MsgspecError:
            raise TransientError("answered something else than a bulk answer") from None
        if not answer.errors:
            return [], ""
        if len(answer.items) != len(batch):
            raise TransientError(f"answered {len(answer.items)} items for {len(batch)}")
        again, why = [], ""
        dead: dict[str, list[Mapping[str, object]]] = {}
        for record, item in zip(batch, answer.items, strict=True):
            result: Mapping[str, Any] = next(iter(item.values()), {})
            status = int(result.get("status", 0))
            if 200 <= status < 300 or status == _CREATED_BEFORE:
                continue
            reason = _reason(status, result)
            if status in _LATER or status >= 500 or _NO_PIPELINE.search(reason):
                again.append(record)
                why = reason
            else:
                dead.setdefault(reason, []).append(record)
        for text, records_ in dead.items():
            await self._tools.dead(records_, text)
        return again, why

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""


def _timed(record: dict[str, object], now_ns: int) -> dict[str, object]:
    return record if _TIME in record else {**record, _TIME: rfc3339(time_ns(record, now_ns))}


def _reason(status: int, result: Mapping[str, Any]) -> str:
    error = result.get("error")
    if isinstance(error, Mapping):
        cause = error.get("caused_by")
        # "failed to parse" alone helps nobody.
        deeper = f": {cause.get('reason', '')}" if isinstance(cause, Mapping) else ""
        return f"{status} {error.get('type', '')}: {error.get('reason', '')}{deeper}"[:300]
    return f"{status} {error or ''}"[:300]
