"""What the fault tests share: peers that misbehave, a listener on the live events, and a look at the process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.e2e.running import Daemon

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Announced = tuple[str, float, str, str]
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*(?:\{.*\})?) (\S+)$", re.MULTILINE)


class Peers:
    """Servers on loopback, in an event loop in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="peers")

    def __enter__(self) -> Peers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Transports close their sockets in a later turn.
        for _ in range(5):
            await asyncio.sleep(0)

    def serve(self, handler: Handler) -> int:
        """Serve on a free port of 127.0.0.1 and return it."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
                pass
            finally:
                writer.transport.abort()

        async def start() -> int:
            server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
            self._servers.append(server)
            return int(server.sockets[0].getsockname()[1])

        port: int = self.call(start())
        return port

    def protocol(self, factory: Callable[[], asyncio.Protocol]) -> int:
        """The same for a protocol, which takes hundreds of requests a second lightly."""

        async def start() -> int:
            server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, backlog=1024)
            self._servers.append(server)
            return int(server.sockets[0].getsockname()[1])

        port: int = self.call(start())
        return port


class Flipping:
    """Answers `/name` with 200 `run` times, then with 503 `run` times, and so on; notes when it answered whom.

    A name that begins with `steady` is always answered with 200.
    """

    def __init__(self, run: int = 3) -> None:
        self.run = run
        self.answered: defaultdict[str, list[float]] = defaultdict(list)

    def __call__(self) -> asyncio.Protocol:
        return _Flip(self)

    def answer(self, name: str) -> bytes:
        times = self.answered[name]
        times.append(time.time())
        if name.startswith("steady") or (len(times) - 1) // self.run % 2 == 0:
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        return b"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope"


class _Flip(asyncio.Protocol):
    def __init__(self, flipping: Flipping) -> None:
        self._flipping = flipping
        self._head = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head:
            name = self._head.split(b" ", 2)[1].decode().lstrip("/")
            self._transport.write(self._flipping.answer(name))
            self._transport.close()


def read_head(reader: asyncio.StreamReader) -> Awaitable[bytes]:
    return reader.readuntil(b"\r\n\r\n")


class Listener:
    """Keeps what the live events announce; begins again by itself when the stream ends."""

    def __init__(self, port: int, topics: str = "transition") -> None:
        self.announced: list[Announced] = []
        self.counts: Counter[str] = Counter()
        self.connected = threading.Event()
        self._port = port
        self._topics = topics
        self._stop = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="listener")

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        taken = self._socket
        if taken is not None:
            with contextlib.suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=15) as taken:
                    self._socket = taken
                    self._listen(taken)
            except OSError:
                pass
            self.connected.clear()
            self._stop.wait(0.02)

    def _listen(self, taken: socket.socket) -> None:
        taken.sendall(f"GET /api/v1/events?topics={self._topics} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        topic = ""
        with taken.makefile("rb") as stream:
            for line in stream:
                if self._stop.is_set():
                    return
                if line.startswith(b": hello"):
                    self.connected.set()
                elif line.startswith(b"event: "):
                    topic = line[7:].strip().decode()
                    self.counts[topic] += 1
                elif line.startswith(b"data: ") and topic == "transition" and line.endswith(b"\n"):
                    self._note(line[6:])

    def _note(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):  # cut off by a kill: it was not told
            told = json.loads(line)
            self.announced.append((told["target"], told["time_s"], told["before"], told["after"]))


def transitions_of(daemon: Daemon, name: str) -> list[Announced]:
    """Return what the API knows of one target, oldest first."""
    rows = daemon.get(f"/api/v1/targets/{name}/transitions?limit=500")["items"]
    return [(one["target"], one["time_s"], one["before"], one["after"]) for one in reversed(rows)]


def assert_kept(daemon: Daemon, announced: Sequence[Announced]) -> None:
    """Everything announced is on disk, once, and each target's transitions join without a gap."""
    assert len(set(announced)) == len(announced), "something was announced twice"
    for name in {one[0] for one in announced}:
        kept = transitions_of(daemon, name)
        missing = {one for one in announced if one[0] == name} - set(kept)
        assert not missing, f"{name}: announced, but not kept: {missing}"
        assert len(set(kept)) == len(kept), name
        for earlier, later in pairwise(kept):
            assert earlier[3] == later[2], f"{name}: {earlier} is followed by {later}"


def metrics(daemon: Daemon) -> dict[str, float]:
    """Return every series of /metrics by its text."""
    status, body = daemon.request("GET", "/metrics")
    assert status == 200
    return {name: float(value) for name, value in _SAMPLE.findall(body.decode())}


def summed(found: dict[str, float], name: str, *parts: str) -> float:
    """Return the sum over the series of a name whose labels hold all of the parts."""
    return sum(
        value for text, value in found.items() if text.partition("{")[0] == name and all(part in text for part in parts)
    )


def lateness_p(found: dict[str, float], before: dict[str, float], ratio: float) -> float:
    """Return the bound under which a share of the attempts between two scrapes started, in seconds."""
    name = "dogwatch_probe_lateness_seconds_bucket"
    total = found[f'{name}{{le="+Inf"}}'] - before.get(f'{name}{{le="+Inf"}}', 0.0)
    assert total > 0, "nothing was asked"
    for text, value in found.items():
        if text.startswith(name) and value - before.get(text, 0.0) >= ratio * total:
            return float(text.partition('le="')[2].partition('"')[0])
    return float("inf")


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has, without those it keeps below /proc (one a process of the machine)."""
    count = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += not str(path.readlink()).startswith("/proc/")
    return count


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208


def tasks(daemon: Daemon) -> int:
    """Return how many tasks the daemon's loop has, as its self-watch saw last."""
    return int(summed(metrics(daemon), "dogwatch_tasks"))


def store_file(daemon: Daemon) -> Path:
    return next(path for path in daemon.data.iterdir() if path.suffix == ".sqlite")


@contextlib.contextmanager
def copied_store(daemon: Daemon, folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of what a killed daemon left, so that looking at it mends nothing."""
    folder.mkdir()
    source = store_file(daemon)
    for path in source.parent.glob(source.name + "*"):
        if path.name in (source.name, source.name + "-wal"):
            shutil.copy(path, folder / path.name)
    connection = sqlite3.connect(folder / source.name)
    try:
        yield connection
    finally:
        connection.close()


class Pinger:
    """Calls heartbeats one after another, and keeps what was acknowledged."""

    def __init__(self, port: int, names: Sequence[str], pause_s: float = 0.03) -> None:
        self.acknowledged: list[tuple[str, str]] = []
        self.refused: Counter[str] = Counter()
        self._port = port
        self._names = names
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pinger")

    def __enter__(self) -> Pinger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._pause_s):
            name = self._names[number % len(self._names)]
            number += 1
            text = f"call {number}"
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            try:
                connection.request("POST", f"/ping/{name}", body=text.encode())
                answer = connection.getresponse()
                if answer.status == 200 and answer.read() == b"OK":
                    self.acknowledged.append((name, text))
                else:
                    self.refused[str(answer.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.refused[type(error).__name__] += 1
            finally:
                connection.close()
