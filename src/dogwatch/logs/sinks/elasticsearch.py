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
from dogwatch.logs.fields import rfc3339, rfc3339s, times_ns
from dogwatch.logs.records import pieces
from dogwatch.logs.rows import ABSENT, mapping, once_each
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, TooLarge
from dogwatch.logs.wire import joined

_CREATED_BEFORE = 409
# What an operator mends: rights, a block on a full disk, an index that is not made by itself.
_LATER = frozenset({0, 401, 403, 404, 408, 429})
_NO_PIPELINE = re.compile(r"pipeline with id \[.*\] does not exist")
# A name that an object has twice: JSON for most, but not for them.
_REPEATED = "uplicate field"
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

    def takes_json(self) -> bool:
        return True

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _Elasticsearch(self, tools)


class _Answer(msgspec.Struct):
    """What a bulk request is answered. items: one mapping each, `{"create": {"status": 201}}`."""

    errors: bool = False
    items: list[dict[str, Any]] = []


class _Elasticsearch:
    def __init__(self, options: ElasticsearchSink, tools: Tools) -> None:
        self._tools = tools
        path = "/_bulk" + (f"?pipeline={options.pipeline}" if options.pipeline else "")
        self._delivery = Delivery(options, tools, "application/x-ndjson", path)
        self._create_in = b'{"create":{"_index":%b,"_id":"' % msgspec.json.encode(options.index)

    async def write(self, blocks: Sequence[Block]) -> None:
        now_ns = time.time_ns()
        body = await self._tools.thread(lambda: b"".join([self._actions(block, now_ns) for block in blocks]))
        await self._create(body)

    async def _create(self, body: bytes) -> None:
        """Create all. What is refused for now is sent again by itself some times, then the whole batch is.

        body: two lines for each record, what to do and the document.
        """
        left = body
        attempt = 0
        while left:
            attempt += 1
            packed = await self._tools.thread(lambda batch=left: self._delivery.pack(batch))  # type: ignore[misc]
            try:
                answer = await self._delivery.post(packed)
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
                if attempt == _ROUNDS or len(left) == len(body):
                    # It is shown as failing; what was taken is known by its id when it comes again.
                    raise TransientError(f"{_count(left)} of {_count(body)} records refused: {reason}")
                await self._tools.pause(attempt, None)

    async def _halve(self, body: bytes, error: TooLarge) -> None:
        items = _items(body)
        if len(items) == 1:
            await self._tools.dead([_document(one) for one in items], str(error))
            return
        middle = len(items) // 2
        await self._create(b"".join(items[:middle]))
        await self._create(b"".join(items[middle:]))

    def _actions(self, block: Block, now_ns: int) -> bytes:
        """Return the lines of a block's records."""
        found = pieces(block)
        times: Sequence[bytes] = ()
        if found.may_have((b"timestamp", _TIME.encode())):
            stamps, there = found.columns(("timestamp", _TIME))
            texts = rfc3339s(times_ns(stamps, now_ns))
            times = [
                b',"%b":"%b"' % (_TIME.encode(), text.encode()) if one is ABSENT else b""
                for text, one in zip(texts, there, strict=True)
            ]
        stamp = b"" if times else b',"%b":"%b"' % (_TIME.encode(), rfc3339(now_ns).encode())
        before = b'"}}\n{"id":"'
        if not times:
            return joined((self._create_in, before, found.frame + stamp, b"\n"), found.ids, found.ids, found.rests)
        between = (self._create_in, before, found.frame, b"", b"\n")
        return joined(between, found.ids, found.ids, times, found.rests)

    async def _judge(self, body: bytes, said: bytes) -> tuple[bytes, str]:
        """Return what is to be sent again, and why. What never will be taken becomes dead letters."""
        try:
            answer = msgspec.json.decode(said, type=_Answer)
        except msgspec.MsgspecError:
            raise TransientError("answered something else than a bulk answer") from None
        if not answer.errors:
            return b"", ""
        sent = _items(body)
        if len(answer.items) != len(sent):
            raise TransientError(f"answered {len(answer.items)} items for {len(sent)}")
        again, why = [], ""
        mended = []
        dead: dict[str, list[Mapping[str, object]]] = {}
        for one, item in zip(sent, answer.items, strict=True):
            result: Mapping[str, Any] = next(iter(item.values()), {})
            status = int(result.get("status", 0))
            if 200 <= status < 300 or status == _CREATED_BEFORE:
                continue
            reason = _reason(status, result)
            if status in _LATER or status >= 500 or _NO_PIPELINE.search(reason):
                again.append(one)
                why = reason
            elif _REPEATED in str(result.get("error")) and (other := _once_each(one)) != one:
                mended.append(other)
            else:
                dead.setdefault(reason, []).append(_document(one))
        # Before there are dead letters: it may fail, and then all comes again.
        await self._create(b"".join(mended))
        for text, records in dead.items():
            await self._tools.dead(records, text)
        return b"".join(again), why

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""


def _items(body: bytes) -> list[bytes]:
    """Return the two lines of each record."""
    lines = body.split(b"\n")
    return [b"%b\n%b\n" % pair for pair in zip(lines[0:-1:2], lines[1::2], strict=True)]


def _count(body: bytes) -> int:
    return body.count(b"\n") // 2


def _document(item: bytes) -> Mapping[str, object]:
    found: Mapping[str, object] = mapping(item.split(b"\n")[1])
    return found


def _once_each(item: bytes) -> bytes:
    what, document, _end = item.split(b"\n")
    return b"%b\n%b\n" % (what, once_each(document))


def _reason(status: int, result: Mapping[str, Any]) -> str:
    error = result.get("error")
    if isinstance(error, Mapping):
        cause = error.get("caused_by")
        # "failed to parse" alone helps nobody.
        deeper = f": {cause.get('reason', '')}" if isinstance(cause, Mapping) else ""
        return f"{status} {error.get('type', '')}: {error.get('reason', '')}{deeper}"[:300]
    return f"{status} {error or ''}"[:300]
