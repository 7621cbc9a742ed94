"""Servers that answer by the book of a test: raw bytes, at any pace, over TCP or TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trustme

from dogwatch.probes.engine import Engine, EngineOptions
from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.lane import Landing, Lane
from dogwatch.probes.probe import Attempt, ProbeEnv, ProbeResult, attempt_once

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Script = Callable[[bytes, Writer], Awaitable[None]]


class Server:
    """Counts connections and keeps requests. url: where it listens."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.context = context
        self.connections = 0
        self.requests: list[bytes] = []
        self.resumed: list[bool] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://localhost:{self.port}/"

    async def serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        try:
            if self.context is not None:
                self.resumed.append(writer.get_extra_info("ssl_object").session_reused)
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                await self.script(request, writer)
                await writer.drain()
                if b"connection: close" in head.lower():
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Script | bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve a script, or the same bytes to every request, on a port of 127.0.0.1."""
    if isinstance(script, bytes):
        content = script

        async def constant(_request: bytes, writer: Writer) -> None:
            writer.write(content)

        script = constant
    server = Server(script, context)
    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: Reader, writer: Writer) -> None:
        task = asyncio.get_running_loop().create_task(server.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Let the loop run until a condition holds; fail the test if it never does."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is the kernel's, and sets no event
            await asyncio.sleep(0.01)


class Client:
    """An engine with what attempts need; `ask` runs one attempt of a probe.

    by_lane: by the probe's lane where it has one and takes the attempt, as the watch does. by_lane_total: how many
    were.
    """

    by_lane = False
    by_lane_total = 0

    def __init__(self, **options: Any) -> None:
        self.env = ProbeEnv(engine=Engine(EngineOptions(**options)), tasks=set(), extra={})
        self.memories: dict[Any, dict[str, Any]] = {}
        self.lanes: dict[Any, tuple[HttpProbe, Lane | None]] = {}
        self.landing = Landing(self._land, lambda future: future.set_result)

    @property
    def engine(self) -> Engine:
        engine: Engine = self.env.engine
        return engine

    async def ask(
        self, url: str, *, timeout_s: float = 5.0, wants: tuple[str, ...] = ("body", "headers"), **options: Any
    ) -> ProbeResult:
        if self.by_lane and "//localhost" in url and "ip_version" not in options:
            options["ip_version"] = "4"  # localhost has one address then, as a lane needs it
        probe = HttpProbe(url=url, **options)
        memory = self.memories.setdefault(repr(probe), {})
        attempt = Attempt(target="test", timeout_s=timeout_s, env=self.env, wants=frozenset(wants), memory=memory)
        if self.by_lane:
            key = repr(probe), timeout_s, wants
            if key not in self.lanes:
                self.lanes[key] = probe, probe.lane(attempt, self.landing, None)
            probe, lane = self.lanes[key]
            if lane is not None:
                return await self._ask_lane(probe, attempt, lane)
        return await attempt_once(probe, attempt)

    async def _ask_lane(self, probe: HttpProbe, attempt: Attempt, lane: Lane) -> ProbeResult:
        lane.owner = asyncio.get_running_loop().create_future()
        if not lane.start():
            return await attempt_once(probe, attempt)
        Client.by_lane_total += 1
        try:
            result: ProbeResult = await lane.owner
        finally:
            lane.cancel()
        return result

    @staticmethod
    def _land(lanes: list[Lane]) -> None:
        for lane in lanes:
            if lane.fresh:
                lane.fresh = False
                values = lane.values()
                result = lane.result()
                assert {name: result.values[name] for name in values} == values
                lane.owner.set_result(result)


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[Client]:
    """Yield a client; at the end nothing of it may be left."""
    made = Client(**options)
    made.engine.open()
    try:
        yield made
        assert made.engine.active == 0
        assert len(made.engine._waiting) == 0
    finally:
        made.engine.close()
        assert len(made.engine._table) == 0


class Authority:
    """A P-256 authority, its file, and server contexts signed by it."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.file = str(directory / "ca.pem")
        self.ca.cert_pem.write_to_path(self.file)
        self.directory = directory

    def server(self, *names: str, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = self.ca.issue_cert(
            *(names or ("localhost", "127.0.0.1")), key_type=trustme.KeyType.ECDSA, **options
        )
        certificate.configure_cert(context)
        return context

    def client_files(self) -> tuple[str, str]:
        certificate = self.ca.issue_cert("client@example.org", key_type=trustme.KeyType.ECDSA)
        cert, key = str(self.directory / "client.pem"), str(self.directory / "client.key")
        certificate.cert_chain_pems[0].write_to_path(cert)
        certificate.private_key_pem.write_to_path(key)
        return cert, key
