"""The `stdin` source."""

from __future__ import annotations

import asyncio
import os
from typing import ClassVar

from dogwatch.logs.block import Block
from dogwatch.logs.source import Intake, Source

_BLOCK_BYTES = 1024 * 1024


class StdinSource(Source, frozen=True, kw_only=True):
    """Reads lines from standard input, once: what was read and not accepted when the agent is killed is lost."""

    kind: ClassVar[str] = "stdin"

    async def run(self, intake: Intake) -> None:
        at, rest = 0, b""
        while True:
            await _readable(0)
            data = await intake.thread(lambda: os.read(0, _BLOCK_BYTES))
            rest += data
            end = rest.rfind(b"\n") + 1 if data else len(rest)
            if end or (rest and len(rest) >= _BLOCK_BYTES):
                end = end or len(rest)
                lines, rest = rest[:end], rest[end:]
                if not lines.endswith(b"\n"):
                    lines += b"\n"
                stream = f"stdin.{os.getpid():x}"
                count = lines.count(b"\n")
                block = Block(
                    source=intake.source, stream=stream, path="-", begin=at, end=at + end, data=lines, count=count
                )
                at += end
                await intake.put(block, intake.lanes)
            if not data:
                return


async def _readable(fd: int) -> None:
    """Wait until a read will not block: a thread that blocks could not be ended."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(fd, _set, ready)
    except (OSError, ValueError):
        return  # a regular file never blocks
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
