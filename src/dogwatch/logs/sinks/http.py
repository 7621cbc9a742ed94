"""The `http` sink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import json_lines, plain_lines
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, in_parts


class HttpSink(HttpOptions, frozen=True, kw_only=True):
    """Posts records as JSON lines; each has an `id` by which a receiver can drop what comes twice after a crash.

    format: json, or lines as they were read, without ids; default json. url, headers, timeout, compression, ca_file,
    verify: of the connection; compression is gzip by default. 429, 5xx and refused access are tried again, with the
    server's `Retry-After`; other refusals make dead letters.
    """

    kind: ClassVar[str] = "http"
    short: ClassVar[str] = "url"

    format: Literal["json", "lines"] = "json"

    def takes_json(self) -> bool:
        return True

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        return self.url_faults()

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _Http(self, tools)


class _Http:
    def __init__(self, options: HttpSink, tools: Tools) -> None:
        json = options.format == "json"
        self._encode = json_lines if json else plain_lines
        self._tools = tools
        self._delivery = Delivery(options, tools, "application/x-ndjson" if json else "text/plain; charset=utf-8")

    async def write(self, blocks: Sequence[Block]) -> None:
        await in_parts(blocks, self._send, self._tools)

    async def _send(self, blocks: Sequence[Block]) -> None:
        body = await self._tools.thread(lambda: self._delivery.pack(b"".join(map(self._encode, blocks))))
        await self._delivery.post(body)

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""
