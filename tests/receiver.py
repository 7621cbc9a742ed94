"""An HTTP server for tests that records what it is sent and answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """answer: is given the request, returns status and headers, and a body where it matters; "hang" never answers,
    "cut" closes at once.
    """

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    answer: Callable[[Received], tuple[int, dict[str, str]] | tuple[int, dict[str, str], bytes] | str] = (
        lambda _request: (200, {})
    )
    at_once: int = 0
    most_at_once: int = 0
    delay_s: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int) -> list[Received]:
        """Wait for so many requests."""
        async with asyncio.timeout(60):
            while len(self.requests) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.requests

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Received(lines[0].split()[1], headers, body)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                self.requests.append(request)
                self.changed.set()
                answer = self.answer(request)
                if answer == "hang":
                    await asyncio.Event().wait()
                if isinstance(answer, str):
                    return
            finally:
                self.at_once -= 1
            status, more, *rest = answer
            said = rest[0] if rest else b"ok"
            extra = "".join(f"{name}: {value}\r\n" for name, value in more.items())
            writer.write(f"HTTP/1.1 {status} x\r\n{extra}Content-Length: {len(said)}\r\n\r\n".encode() + said)
            await writer.drain()


@asynccontextmanager
async def receiving(port: int = 0, **options: object) -> AsyncIterator[Receiver]:
    receiver = Receiver(**options)  # type: ignore[arg-type]
    tasks: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            # A cancelled handler would be an error in asyncio's own log.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await receiver.take(reader, writer)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(take, "127.0.0.1", port)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
