"""Runs the web server over a fake program, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from dogwatch.web.application import WebApplication, create_web
from dogwatch.web.options import WebOptions
from dogwatch.web.server import serve
from tests.fakes import FakeProgram


class Running:
    """A server on a port of its own."""

    def __init__(
        self, program: FakeProgram, port: int, stop: asyncio.Event, task: asyncio.Task[None], web: WebApplication
    ) -> None:
        self._web = web
        self.program = program
        self.port = port
        self.stop = stop
        self.task = task
        self.url = f"http://127.0.0.1:{port}"

    @property
    def streams(self) -> int:
        """Return how many live streams are open."""
        return self._web.context.streams.open

    async def raw(self, request: bytes) -> bytes:
        """Send bytes, return everything until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(60):
                return await reader.read()
        except ConnectionResetError:
            return b""  # refused while we were still sending
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def running(
    program: FakeProgram | None = None, *, grace_s: float = 5.0, **changes: object
) -> AsyncIterator[Running]:
    program = program or FakeProgram()
    app = create_web(program.services, msgspec.structs.replace(WebOptions(), **changes))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(serve(app, [listener], stop=stop, ready=ready, grace_s=grace_s))
        async with asyncio.timeout(60):
            await ready.wait()
        try:
            yield Running(program, listener.getsockname()[1], stop, task, app)
        finally:
            stop.set()
            async with asyncio.timeout(60):
                await task
