"""Container engines that lie, hang or are not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dogwatch.core.clock import SystemClock
from dogwatch.hosts.collectors.containers import ContainersCollector
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Entry, Runner
from dogwatch.hosts.unixhttp import EngineError, get

Answer = Callable[[str], bytes]


def ok(body: object) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + text


def status(code: int, body: bytes = b'{"message":"no"}') -> bytes:
    return b"HTTP/1.0 %d No\r\n\r\n" % code + body


class Engine:
    """A container engine on a unix socket that answers what the test says."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = str(path)
        self.answer = answer
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.hold: asyncio.Event | None = None

    async def __aenter__(self) -> Engine:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        self.asked.append(path)
        if self.hold is not None:
            await self.hold.wait()
        else:
            await asyncio.sleep(0)
        self.at_once -= 1
        writer.write(self.answer(path))
        writer.close()


async def run_once(collector: ContainersCollector, root: str = "/") -> tuple[Runner, Entry]:
    entry = Entry(collector, collector.open(Machine(root)), every_s=15.0)
    runner = Runner(SystemClock(), lambda _at, _entries: None)
    runner.replace({entry.name: entry})
    runner.run_due()
    while entry.task is not None:
        await asyncio.wait([entry.task])
    return runner, entry


def many(count: int) -> Answer:
    listed = [{"Id": f"{n:064x}", "Names": [f"/c{n}"], "Image": "i", "State": "running"} for n in range(count)]

    def answer(path: str) -> bytes:
        if path.startswith("/containers/json"):
            return ok(listed)
        if "/stats" in path:
            memory = {"usage": 10, "limit": 2**63, "stats": {"inactive_file": 4}}
            return ok({"cpu_stats": {"cpu_usage": {"total_usage": 5}}, "memory_stats": memory})
        return ok({"RestartCount": 2, "State": {"Health": {"Status": "healthy"}}})

    return answer


async def test_requests_at_one_time_and_containers_are_bounded(tmp_path: Path) -> None:
    async with Engine(tmp_path / "s", many(30)) as engine:
        runner, entry = await run_once(ContainersCollector(socket=engine.path, max_containers=20, concurrency=3))
    views = runner.glance().containers
    assert [view.name for view in views] == [f"c{n}" for n in range(20)], "in the engine's order"
    assert engine.most_at_once <= 3
    assert views[0].memory_bytes == 6
    assert views[0].memory_limit_bytes is None
    assert (views[0].health, views[0].restarts) == ("healthy", 2)
    assert not entry.view().ok
    assert "10 containers beyond max_containers" in entry.view().message
    await entry.close()


async def test_one_that_vanished_is_no_fault_and_one_that_fails_hurts_no_other(tmp_path: Path) -> None:
    good = many(3)

    def answer(path: str) -> bytes:
        if path == f"/containers/{0:064x}/json":
            return status(404)
        if path == f"/containers/{1:064x}/json":
            return status(500, b"broken")
        return good(path)

    async with Engine(tmp_path / "s", answer) as engine:
        runner, entry = await run_once(ContainersCollector(socket=engine.path))
    assert [view.name for view in runner.glance().containers] == ["c2"]
    assert "c1: " in entry.view().message
    assert "broken" in entry.view().message
    assert "c0" not in entry.view().message
    await entry.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n{",
        b"HTTP/1.0 200 OK\r\n\r\n[1]",
        b"SSH-2.0-x\r\n\r\n",
        status(500),
    ],
)
async def test_answers_that_make_no_sense_are_reported(tmp_path: Path, answer: bytes) -> None:
    async with Engine(tmp_path / "s", lambda _path: answer) as engine:
        _, entry = await run_once(ContainersCollector(socket=engine.path))
    assert not entry.view().ok
    assert entry.view().message
    assert "Traceback" not in entry.view().message
    await entry.close()


async def test_an_engine_that_hangs_ends_at_the_deadline(tmp_path: Path) -> None:
    async with Engine(tmp_path / "s", many(1)) as engine:
        engine.hold = asyncio.Event()
        _, entry = await run_once(ContainersCollector(socket=engine.path, timeout=0.05))
        assert entry.timeouts.value == 1
        assert entry.view().message == "gave no answer in 50ms"
        assert not [task for task in asyncio.all_tasks() if "container" in task.get_name()]
        engine.hold.set()
    await entry.close()


async def test_an_endless_answer_is_cut(tmp_path: Path) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * (1 << 20))
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_unix_server(endless, str(tmp_path / "s"))
    with pytest.raises(EngineError, match="more than 32 MiB"):
        await get(str(tmp_path / "s"), "/containers/json")
    server.close()
    await server.wait_closed()


async def test_a_socket_that_was_there_and_is_not_answering_is_a_fault(tmp_path: Path) -> None:
    _, entry = await run_once(ContainersCollector(socket=str(tmp_path / "gone")))
    assert not entry.view().ok
    assert "No such file" in entry.view().message
    await entry.close()


async def test_podmans_socket_is_found_where_docker_is_not(tmp_path: Path) -> None:
    place = tmp_path / "run/podman/podman.sock"
    place.parent.mkdir(parents=True)
    async with Engine(place, many(1)):
        runner, entry = await run_once(ContainersCollector(), str(tmp_path))
    assert [view.name for view in runner.glance().containers] == ["c0"]
    await entry.close()
