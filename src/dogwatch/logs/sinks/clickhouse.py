"""The `clickhouse` sink: inserts over HTTP, as JSONEachRow."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar
from urllib.parse import urlencode

from dogwatch.core.units import Secret
from dogwatch.errors import PermanentError, TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import json_lines
from dogwatch.logs.rows import mapping, once_each
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What it says of values that do not fit their columns; older servers answer 500 to these, too.
_NEVER = re.compile(r"Code: (6|26|27|38|41|53|69|72|117|130|131|190|321|349|376|441|467)\b")


class ClickhouseSink(HttpOptions, frozen=True, kw_only=True):
    """Inserts into a table of ClickHouse; fields that the table has no column for are left out.

    One record that does not fit is found by halving the batch, and becomes a dead letter; the others are inserted. A
    batch that is sent again has the same deduplication token; for what comes twice after a crash, order a
    ReplacingMergeTree by `id`.

    url: of its HTTP port. database, table: where to. user, password: of the account. deduplicate: send the token, which
    ClickHouse knows from 22.2 on. settings: further ones of the insert, `async_insert: "1"`. headers, timeout,
    compression, ca_file, verify: of the connection; compression is gzip by default.
    """

    kind: ClassVar[str] = "clickhouse"
    short: ClassVar[str] = "url"

    database: str = "default"
    table: str = "logs"
    user: str = ""
    password: Secret = ""
    deduplicate: bool = True
    settings: Mapping[str, str] = {}

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from self.url_faults()
        for name in ("database", "table"):
            if not _NAME.fullmatch(getattr(self, name)):
                yield (name,), "is not a name", ""
        for name in self.settings:
            if not _NAME.fullmatch(name):
                yield ("settings", name), "is not a setting's name", ""

    def takes_json(self) -> bool:
        return True

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _Clickhouse(self, tools)


class _Clickhouse:
    def __init__(self, options: ClickhouseSink, tools: Tools) -> None:
        self._options = options
        self._tools = tools
        self._delivery = Delivery(options, tools, "application/x-ndjson")
        self._headers: tuple[tuple[str, str], ...] = ()
        if options.user:
            self._headers = (("X-ClickHouse-User", options.user), ("X-ClickHouse-Key", options.password))

    async def write(self, blocks: Sequence[Block]) -> None:
        await self._insert(await self._tools.thread(lambda: b"".join(map(json_lines, blocks))))

    async def _insert(self, lines: bytes, *, once: bool = False) -> None:
        """Insert them; where one does not fit, both halves by themselves.

        once: whether each object has a name only once: ClickHouse refuses others.
        """
        if not lines:
            return
        try:
            await self._send(lines)
        except PermanentError as error:
            mended = lines if once else await self._tools.thread(lambda: _once_each(lines))
            if mended != lines:
                await self._insert(mended, once=True)
                return
            found = lines.splitlines(keepends=True)
            if len(found) == 1:
                await self._tools.dead([mapping(lines)], str(error))
                return
            middle = len(found) // 2
            await self._insert(b"".join(found[:middle]), once=True)
            await self._insert(b"".join(found[middle:]), once=True)

    async def _send(self, lines: bytes) -> None:
        body = await self._tools.thread(lambda: self._delivery.pack(lines))
        query = {
            "query": f"INSERT INTO {self._options.database}.{self._options.table} FORMAT JSONEachRow",
            "input_format_skip_unknown_fields": "1",
            "date_time_input_format": "best_effort",
            **self._options.settings,
        }
        if self._options.deduplicate:
            # Ids are in it: what is sent again is the same, and nothing else is.
            query["insert_deduplication_token"] = hashlib.sha256(lines).hexdigest()
        try:
            await self._delivery.post(body, self._headers, urlencode(query))
        except TransientError as error:
            if _NEVER.search(str(error)):
                raise PermanentError(str(error)) from None
            raise

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""


def _once_each(lines: bytes) -> bytes:
    return b"".join(once_each(one) + b"\n" for one in lines.splitlines())
