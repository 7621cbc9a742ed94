"""API reads with permission checks, over a socket, the server alone on one core; and what one check costs."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

NAME = "access"
_CLIENTS = 16


def _run(listener: socket.socket, ready: Any, folder: str) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_served(listener, ready, Path(folder)))


async def _served(listener: socket.socket, ready: Any, folder: Path) -> None:
    from tests.fakes import FakeProgram
    from tests.fakes_watch import many

    from dogwatch.access.identity import local
    from dogwatch.access.options import AccessOptions
    from dogwatch.access.permissions import Rule
    from dogwatch.access.service import Access
    from dogwatch.access.tables import access_tables
    from dogwatch.core.clock import SystemClock
    from dogwatch.store.state_sqlite import open_sqlite
    from dogwatch.web.application import create_web
    from dogwatch.web.server import serve

    os.sched_setaffinity(0, {0})
    clock = SystemClock()
    program = FakeProgram(many(200, clock.now_s()))
    options = AccessOptions(roles={"shop": (Rule(nouns=("probe",), labels={"team": "shop"}),)})
    database = await open_sqlite(folder / "state.db", [access_tables()], clock)
    access = Access(database, folder, clock, options)
    await access.open()
    tokens = []
    for role, labels in (("viewer", {}), ("viewer", {"team": "shop"})):
        secret, _token = await access.add_token(local("bench"), role, [role], labels=labels, expires_after_s=None)
        tokens.append(secret)
    program.services.access = access
    program.watch.replace("service-00007", labels={"team": "shop"})
    stop = asyncio.Event()
    ready.send(tokens)
    asyncio.get_running_loop().add_reader(ready.fileno(), stop.set)
    await serve(create_web(program.services), [listener], stop=stop)
    await database.close()


class _Client(asyncio.Protocol):
    """Asks again as soon as it is answered. As little of its own as can be: what is measured is the server."""

    def __init__(self, request: bytes, times: list[float], until_s: float) -> None:
        self._request, self._times, self._until_s = request, times, until_s
        self._began_s = 0.0
        self._wanted = 0
        self._got = b""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._got, self._wanted = b"", 0
        self._began_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._wanted:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            assert self._got.startswith(b"HTTP/1.1 200"), self._got
            at = self._got.index(b"content-length: ") + 16
            self._wanted = end + 4 + int(self._got[at : self._got.index(b"\r", at)])
        if len(self._got) < self._wanted:
            return
        now_s = time.perf_counter()
        self._times.append(now_s - self._began_s)
        if now_s < self._until_s:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.ended.done():
            self.ended.set_result(None)


async def _clients(port: int, request: bytes, until_s: float) -> list[float]:
    times: list[float] = []
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Client(request, times, until_s), "127.0.0.1", port)
        for _ in range(_CLIENTS)
    ]
    await asyncio.gather(*(client.ended for _transport, client in made))
    return times


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _load(pid: int, port: int, path: str, token: str, seconds: float) -> dict[str, float]:
    """per_core: what one core would serve; the server's own processor time, which neighbours do not disturb."""
    request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n\r\n".encode()
    began_s, began_cpu_s = time.perf_counter(), _cpu_s(pid)
    times = await _clients(port, request, began_s + seconds)
    took_s = time.perf_counter() - began_s
    return {
        "requests_per_s": round(len(times) / took_s),
        "per_core": round(len(times) / max(_cpu_s(pid) - began_cpu_s, 0.01)),
        "p50_ms": round(statistics.median(times) * 1000, 2),
        "p99_ms": round(statistics.quantiles(times, n=100)[98] * 1000, 2),
    }


def _checks() -> float:
    """Return checks per second of a label-limited right."""
    from dogwatch.access.permissions import Permission, Rights, Role, Rule, allows

    rights = Rights([Role(name="shop", rules=(Rule(nouns=("probe",), labels={"team": "shop"}),))])
    permission, labels, count = Permission("probe", "read"), {"team": "shop", "zone": "a"}, 200_000
    began_s = time.perf_counter()
    for _ in range(count):
        allows(rights, permission, labels)
    return round(count / (time.perf_counter() - began_s))


def run(quick: bool) -> dict[str, Any]:
    import uvloop

    seconds = 2.0 if quick else 8.0
    cores = os.sched_getaffinity(0)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        ours, theirs = context.Pipe()
        server = context.Process(target=_run, args=(listener, theirs, folder))
        server.start()
        whole, limited = ours.recv()
        port = listener.getsockname()[1]
        found: dict[str, Any] = {"checks_per_s": _checks()}
        # The server has the first core for itself.
        os.sched_setaffinity(0, cores - {0} or cores)
        try:
            for name, path, token in (
                ("one target", "/api/v1/targets/service-00007", whole),
                ("one target, limited to labels", "/api/v1/targets/service-00007", limited),
                ("status of 200", "/api/v1/status", whole),
            ):
                uvloop.run(_load(server.pid or 0, port, path, token, 0.5))
                found[name] = uvloop.run(_load(server.pid or 0, port, path, token, seconds))
        finally:
            os.sched_setaffinity(0, cores)
            ours.send("stop")
            server.join(20)
    return found
