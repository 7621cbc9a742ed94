"""The `stdout` sink."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar, Literal

from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import json_lines, plain_lines
from dogwatch.logs.sink import Sink, Tools, Worker


class StdoutSink(Sink, frozen=True, kw_only=True):
    """Writes to standard output. format: lines as they were read, or json with ids; default lines."""

    kind: ClassVar[str] = "stdout"
    format: Literal["lines", "json"] = "lines"

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _Stdout(json_lines if self.format == "json" else plain_lines, tools)


class _Stdout:
    def __init__(self, encode: object, tools: Tools) -> None:
        self._encode = encode
        self._tools = tools

    async def write(self, blocks: Sequence[Block]) -> None:
        await self._tools.thread(lambda: self._write(blocks))

    def _write(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            view = memoryview(self._encode(block))  # type: ignore[operator]
            while view:
                view = view[os.write(1, view) :]

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """Nothing can be promised of a pipe."""

    async def close(self) -> None:
        """It is not ours."""
