"""Lines that come in small pieces, made into blocks: for sources that are written to and cannot go back."""

from __future__ import annotations

import asyncio
import secrets

from dogwatch.logs.block import Block
from dogwatch.logs.multiline import INNER, Joiner
from dogwatch.logs.source import Intake

WAIT_S = 0.1
BLOCK_BYTES = 256 * 1024


def new_stream(kind: str) -> str:
    """Return a name that no other stream has: what is read from it comes only once."""
    return f"{kind}.{secrets.token_hex(6)}"


class Gathering:
    """One stream of lines. What is added is handed on as blocks, after a moment or once it is much."""

    def __init__(self, intake: Intake, stream: str, path: str, joiner: Joiner | None = None) -> None:
        self._intake = intake
        self._stream = stream
        self._path = path
        self._joiner = joiner
        self._at = 0
        self._lines = b""

    @property
    def waiting(self) -> int:
        return len(self._lines)

    async def add(self, lines: bytes) -> None:
        """Add whole lines; waits for room once they are much."""
        self._lines += lines
        if len(self._lines) >= BLOCK_BYTES:
            await self.flush(whole=False)

    async def flush(self, *, whole: bool = True) -> None:
        """Hand on what waits. whole: also a last record that may go on."""
        lines, starts, joined = self._lines, None, False
        if self._joiner is not None and lines:
            found = self._joiner.join(lines, whole=whole or len(lines) > 4 * BLOCK_BYTES)
            lines, starts, joined = found.data, tuple(self._at + at for at in found.starts), found.joined
            used = found.used
        else:
            used = len(lines)
        if not used:
            return
        block = Block(
            source=self._intake.source,
            stream=self._stream,
            path=self._path,
            begin=self._at,
            end=self._at + used,
            data=lines,
            count=lines.count(b"\n"),
            starts=starts,
            joined=joined,
        )
        self._at += used
        self._lines = self._lines[used:]
        await self._intake.put(block, self._intake.lanes)


async def lines_of(reader: asyncio.StreamReader, gathering: Gathering, *, line_bytes: int, wait_s: float) -> None:
    """Read lines until the end; longer ones are cut into parts. wait_s: after so long without more it is handed on."""
    rest = b""
    while True:
        try:
            async with asyncio.timeout(wait_s if gathering.waiting else None):
                data = await reader.read(BLOCK_BYTES)
        except TimeoutError:
            await gathering.flush()
            continue
        rest += data
        end = rest.rfind(b"\n") + 1
        if not data and rest:
            rest, end = rest + b"\n", len(rest) + 1
        elif not end and len(rest) >= line_bytes:
            rest = rest[:line_bytes] + b"\n" + rest[line_bytes:]
            end = line_bytes + 1
        if end:
            lines, rest = rest[:end], rest[end:]
            # The byte that stands for inner newlines must not come from outside.
            await gathering.add(lines.replace(INNER, b" "))
        if not data:
            await gathering.flush()
            return
