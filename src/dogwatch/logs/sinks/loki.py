"""The `loki` sink: Loki's push API, as JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal, NamedTuple

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.fields import time_ns
from dogwatch.logs.records import records
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, Refused, TooLarge

_PATH = "/loki/api/v1/push"
_OWN = ("id", "source", "file")
_STREAMS = 10_000
# What Loki says of times that it does not take, and since when it takes them.
_TIMES = re.compile(r"timestamp too (?:old|new)|too far behind")
_OLDEST = re.compile(r"oldest acceptable timestamp is: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z")
_NS = 1_000_000_000
# So many requests find out which records of a batch are refused; then the rest of it is given up as a whole.
_SEARCHES = 64
_TIMES_CHANGED = 3
Labels = tuple[tuple[str, str], ...]


class _Line(NamedTuple):
    """A record, and the time that it is sent with."""

    labels: Labels
    at_ns: int
    record: dict[str, object]


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
        await self._deliver(lines, [_SEARCHES])

    async def _deliver(self, lines: list[_Line], searches: list[int]) -> None:
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
            if changed is None or changed == lines:
                break
            lines = changed
        if not large:
            searches[0] -= 1
        if len(lines) <= 1 or searches[0] < 0:
            await self._tools.dead([one.record for one in lines], reason)
            return
        middle = len(lines) // 2
        await self._deliver(lines[:middle], searches)
        await self._deliver(lines[middle:], searches)

    def _in_time(self, lines: Sequence[_Line], said: str) -> list[_Line] | None:
        """Give lines whose time Loki does not take that of now; None if it is not their times."""
        if self._options.late != "now" or not _TIMES.search(said):
            return None
        oldest = [datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in _OLDEST.findall(said)]
        # Its limit moves on while we send.
        oldest_ns = int(max(oldest) * _NS) + 60 * _NS if oldest else 0
        now_ns = self._now_ns()
        return [
            one if oldest_ns <= one.at_ns <= now_ns else one._replace(at_ns=now_ns + at) for at, one in enumerate(lines)
        ]

    async def _push(self, lines: Sequence[_Line]) -> None:
        body = await self._tools.thread(lambda: self._delivery.pack(self._body(lines)))
        await self._delivery.post(body, self._headers)

    def _lines(self, blocks: Sequence[Block], now_ns: int) -> list[_Line]:
        found = []
        for block in blocks:
            for one in records(block):
                own = {"source": block.source, "file": block.path, **self._options.labels}
                own |= {name: str(one[name]) for name in self._options.by if name in one}
                labels = tuple(own.items())
                found.append(_Line(labels, self._time_ns(labels, time_ns(one, now_ns)), one))
        return found

    def _time_ns(self, labels: Labels, at_ns: int) -> int:
        before_ns, sent_ns = self._last.get(labels, (0, 0))
        sent_ns = sent_ns + 1 if before_ns == at_ns else at_ns
        if len(self._last) >= _STREAMS and labels not in self._last:
            self._last.clear()
        self._last[labels] = (at_ns, sent_ns)
        return sent_ns

    def _body(self, lines: Sequence[_Line]) -> bytes:
        streams: dict[Labels, list[tuple[object, ...]]] = {}
        for one in lines:
            streams.setdefault(one.labels, []).append(self._entry(one))
        return msgspec.json.encode(
            {"streams": [{"stream": dict(labels), "values": values} for labels, values in streams.items()]}
        )

    def _entry(self, one: _Line) -> tuple[object, ...]:
        rest = {name: value for name, value in one.record.items() if name not in _OWN}
        line = rest["message"] if rest.keys() == {"message"} else msgspec.json.encode(rest).decode()
        entry: tuple[object, ...] = (str(one.at_ns), line)
        return (*entry, {"id": one.record["id"]}) if self._options.ids else entry

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""
