"""The `loki` sink: Loki's push API, as JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal, NamedTuple

import msgspec

from dogwatch.core.fanout import all_or_first_error
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.fields import times_ns
from dogwatch.logs.records import pieces, records
from dogwatch.logs.rows import ABSENT
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, Refused, TooLarge
from dogwatch.logs.wire import joined

_PATH = "/loki/api/v1/push"
_STREAMS = 10_000
# What Loki says of times that it does not take, and since when it takes them.
_TIMES = re.compile(r"timestamp too (?:old|new)|too far behind")
_OLDEST = re.compile(r"oldest acceptable timestamp is: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z")
_NS = 1_000_000_000
# So many requests find out which records of a batch are refused; then the rest of it is given up as a whole.
_SEARCHES = 64
_TIMES_CHANGED = 3
_AT_ONCE = 8
Labels = tuple[tuple[str, str], ...]


class _Lines(NamedTuple):
    """Lines in columns. labels: of their streams. times: that they are sent with, in nanoseconds. texts: as JSON.
    ids: as JSON without quotes. places: in the batch.
    """

    labels: list[Labels]
    times: list[int]
    texts: list[bytes]
    ids: list[bytes]
    places: list[int]

    def part(self, begin: int, end: int) -> _Lines:
        return self.at(range(begin, end))

    def at(self, rows: Sequence[int]) -> _Lines:
        return _Lines(
            [self.labels[row] for row in rows],
            [self.times[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.ids[row] for row in rows],
            [self.places[row] for row in rows],
        )

    def streams(self) -> dict[Labels, _Lines]:
        """Return the lines of each stream."""
        if self.labels.count(self.labels[0]) == len(self.labels):
            return {self.labels[0]: self}
        rows: dict[Labels, list[int]] = {}
        for row, labels in enumerate(self.labels):
            rows.setdefault(labels, []).append(row)
        return {labels: self.at(some) for labels, some in rows.items()}


class LokiSink(HttpOptions, frozen=True, kw_only=True):
    """Pushes to Loki. Each line goes to the stream of its source and file; its id is structured metadata. Its time is
    its `timestamp`, or that of sending; of lines with the same time each is a nanosecond after the one before.

    url: of Loki, without the path. labels: further labels of every stream. by: columns whose values become labels; keep
    them few. tenant: `X-Scope-OrgID`. ids: send ids as structured metadata, which Loki has from 2.9 on. late: what
    becomes of a line whose time Loki does not take, because it is too old, too far behind the newest of its stream, or
    in the future: `now` sends it with the time of sending (its own is in the line), `dead` makes a dead letter of it;
    default now. headers, timeout, compression, ca_file, verify: of the connection; compression is gzip by default. Of a
    batch that Loki refuses in part, what it takes is taken; the others make dead letters.
    """

    kind: ClassVar[str] = "loki"
    short: ClassVar[str] = "url"

    labels: Mapping[str, str] = {}
    by: tuple[str, ...] = ()
    tenant: str = ""
    ids: bool = True
    late: Literal["now", "dead"] = "now"

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from self.url_faults()
        if self.compression == "zstd":
            yield ("compression",), "Loki takes gzip or none", ""
        for name in (*self.labels, *self.by):
            if not name.isidentifier() or not name.isascii():
                yield (("labels", name) if name in self.labels else ("by",)), f"'{name}' is not a label's name", ""

    def takes_json(self) -> bool:
        return True

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
        lines = await self._tools.thread(lambda: self._lines(blocks, self._now_ns()))
        if not lines.ids:
            return
        streams = list(lines.streams().values())
        searches = [_SEARCHES]

        async def push(index: int) -> None:
            await self._deliver(streams[index], searches, blocks)

        # Each by itself: of several in one push Loki's ingester refuses lines and tells it of the last stream alone.
        await all_or_first_error(push, range(len(streams)), limit=_AT_ONCE)

    async def _deliver(self, lines: _Lines, searches: list[int], blocks: Sequence[Block]) -> None:
        """Push lines. Of what is refused in part Loki has taken the rest, and does not say which it is: half by half
        is looked for it. What is sent again has the same time, so that Loki drops it. searches: how many are left.
        """
        reason = ""
        # Each stream has a limit of its own, of which only some are said at once.
        for _ in range(_TIMES_CHANGED + 1):
            try:
                await self._push(lines)
                return
            except Refused as error:
                reason, large = str(error), isinstance(error, TooLarge)
                changed = None if large else self._in_time(lines, error.said)
            if changed is None or changed.times == lines.times:
                break
            lines = changed
        if not large:
            searches[0] -= 1
        count = len(lines.ids)
        if count <= 1 or searches[0] < 0:
            found = await self._tools.thread(lambda: [one for block in blocks for one in records(block)])
            await self._tools.dead([found[at] for at in lines.places], reason)
            return
        await self._deliver(lines.part(0, count // 2), searches, blocks)
        await self._deliver(lines.part(count // 2, count), searches, blocks)

    def _in_time(self, lines: _Lines, said: str) -> _Lines | None:
        """Give lines whose time Loki does not take that of now; None if it is not their times."""
        if self._options.late != "now" or not _TIMES.search(said):
            return None
        oldest = [datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in _OLDEST.findall(said)]
        # Its limit moves on while we send.
        oldest_ns = int(max(oldest) * _NS) + 60 * _NS if oldest else 0
        now_ns = self._now_ns()
        times = [at_ns if oldest_ns <= at_ns <= now_ns else now_ns + at for at, at_ns in enumerate(lines.times)]
        return lines._replace(times=times)

    async def _push(self, lines: _Lines) -> None:
        body = await self._tools.thread(lambda: self._delivery.pack(self._body(lines)))
        await self._delivery.post(body, self._headers)

    def _lines(self, blocks: Sequence[Block], now_ns: int) -> _Lines:
        found = _Lines([], [], [], [], [])
        for block in blocks:
            some = pieces(block)
            count = len(some.ids)
            by = self._options.by
            names = ("timestamp", *by)
            columns = some.columns(names) if some.may_have([one.encode() for one in names]) else ()
            own = {"source": block.source, "file": block.path, **self._options.labels}
            labels = [tuple(own.items())] * count
            if columns and by:
                labels = [_labels(own, by, row) for row in zip(*columns[1:], strict=True)]
            found.labels.extend(labels)
            times = times_ns(columns[0], now_ns) if columns else [now_ns] * count
            found.times.extend(self._times(labels, times))
            found.texts.extend(some.messages())
            found.ids.extend(some.ids)
        found.places.extend(range(len(found.ids)))
        return found

    def _times(self, labels: Sequence[Labels], times: Sequence[int]) -> list[int]:
        """Return the times that lines are sent with: of those that have the same in one stream, each is later."""
        found, known = [], self._last
        for stream, at_ns in zip(labels, times, strict=True):
            before_ns, sent_ns = known.get(stream, (0, 0))
            sent_ns = sent_ns + 1 if before_ns == at_ns else at_ns
            if len(known) >= _STREAMS and stream not in known:
                known.clear()
            known[stream] = (at_ns, sent_ns)
            found.append(sent_ns)
        return found

    def _body(self, lines: _Lines) -> bytes:
        parts = []
        for labels, some in lines.streams().items():
            times = msgspec.json.encode(some.times)[1:-1].split(b",")
            if self._options.ids:
                values = joined((b'["', b'",', b',{"id":"', b'"}],'), times, some.texts, some.ids)
            else:
                values = joined((b'["', b'",', b"],"), times, some.texts)
            parts.append(b'{"stream":%b,"values":[%b]}' % (msgspec.json.encode(dict(labels)), values[:-1]))
        return b'{"streams":[%b]}' % b",".join(parts)

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""


def _labels(own: Mapping[str, str], names: Sequence[str], values: Sequence[object]) -> Labels:
    there = {name: str(one) for name, one in zip(names, values, strict=True) if one is not ABSENT and one is not None}
    return tuple({**own, **there}.items())
