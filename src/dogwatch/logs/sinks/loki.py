"""The `loki` sink: Loki's push API, as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.fields import time_ns
from dogwatch.logs.records import records
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, in_parts

_PATH = "/loki/api/v1/push"
_OWN = ("id", "source", "file")
_STREAMS = 10_000
Labels = tuple[tuple[str, str], ...]


class LokiSink(HttpOptions, frozen=True, kw_only=True):
    """Pushes to Loki. Each line goes to the stream of its source and file; its id is structured metadata. Its time is
    its `timestamp`, or that of sending; of lines with the same time each is a nanosecond after the one before.

    url: of Loki, without the path. labels: further labels of every stream. by: columns whose values become labels; keep
    them few. tenant: `X-Scope-OrgID`. ids: send ids as structured metadata, which Loki has from 2.9 on. headers,
    timeout, compression, ca_file, verify: of the connection; compression is gzip by default. What Loki refuses for good
    (too old, too long) makes dead letters.
    """

    kind: ClassVar[str] = "loki"
    short: ClassVar[str] = "url"

    labels: Mapping[str, str] = {}
    by: tuple[str, ...] = ()
    tenant: str = ""
    ids: bool = True

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from self.url_faults()
        if self.compression == "zstd":
            yield ("compression",), "Loki takes gzip or none", ""
        for name in (*self.labels, *self.by):
            if not name.isidentifier() or not name.isascii():
                yield (("labels", name) if name in self.labels else ("by",)), f"'{name}' is not a label's name", ""

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _Loki(self, tools, time.time_ns)


class _Loki:
    def __init__(self, options: LokiSink, tools: Tools, now_ns: Callable[[], int]) -> None:
        self._options = options
        self._tools = tools
        self._now_ns = now_ns
        self._headers = (("X-Scope-OrgID", options.tenant),) if options.tenant else ()
        self._delivery = Delivery(options, tools, "application/json", _PATH)
        # stream → (time of its last line, time that was sent for it). Loki orders lines by time, and of equal lines of
        # one time it keeps one.
        self._last: dict[Labels, tuple[int, int]] = {}

    async def write(self, blocks: Sequence[Block]) -> None:
        await in_parts(blocks, self._send, self._tools)

    async def _send(self, blocks: Sequence[Block]) -> None:
        body = await self._tools.thread(lambda: self._delivery.pack(self._body(blocks)))
        await self._delivery.post(body, self._headers)

    def _body(self, blocks: Sequence[Block]) -> bytes:
        streams: dict[Labels, list[tuple[object, ...]]] = {}
        now_ns = self._now_ns()
        for block in blocks:
            for one in records(block):
                own = {"source": block.source, "file": block.path, **self._options.labels}
                own |= {name: str(one[name]) for name in self._options.by if name in one}
                labels = tuple(own.items())
                streams.setdefault(labels, []).append(self._entry(one, self._time_ns(labels, time_ns(one, now_ns))))
        return msgspec.json.encode(
            {"streams": [{"stream": dict(labels), "values": values} for labels, values in streams.items()]}
        )

    def _time_ns(self, labels: Labels, at_ns: int) -> int:
        before_ns, sent_ns = self._last.get(labels, (0, 0))
        sent_ns = sent_ns + 1 if before_ns == at_ns else at_ns
        if len(self._last) >= _STREAMS and labels not in self._last:
            self._last.clear()
        self._last[labels] = (at_ns, sent_ns)
        return sent_ns

    def _entry(self, record: dict[str, object], at_ns: int) -> tuple[object, ...]:
        rest = {name: value for name, value in record.items() if name not in _OWN}
        line = rest["message"] if rest.keys() == {"message"} else msgspec.json.encode(rest).decode()
        entry: tuple[object, ...] = (str(at_ns), line)
        return (*entry, {"id": record["id"]}) if self._options.ids else entry

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""
