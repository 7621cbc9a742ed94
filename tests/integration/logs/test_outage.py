"""A sink that is down for ten minutes while logs are written and rotated: with injected waits in the suite, in real
time in the soak.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.log_peers import free_port
from tests.log_world import Agent as Process
from tests.log_world import Writer, in_order
from tests.receiver import Received, Receiver, receiving
from tests.soaking import Book, log_sources

from dogwatch.config.load import Loader
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.agent import Agent
from dogwatch.logs.section import LOGS

assert frames.OFFSET
pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
OUTAGE_S = 600.0
MEMORY, DISK = 128 * 1024, 512 * 1024
# What one turn of the source had read already when the buffers were full.
READ_AHEAD = 6 * 1024 * 1024


class Waits:
    """Time that passes only where the agent waits to try again."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.each: list[float] = []

    async def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s
        self.each.append(wait_s)
        await asyncio.sleep(0.1)


def configured(folder: Path, url: str) -> Path:
    path = folder / "c.yaml"
    (folder / "in").mkdir()
    path.write_text(
        "logs:\n  checkpoint: 100ms\n  grace: 100ms\n"
        f"  sources: [{{name: s, file: {{paths: [{folder}/in/*.log], start: beginning, search: 50ms}}}}]\n"
        f"  sinks:\n    - {{name: here, file: {{path: {folder}/out.log}}}}\n"
        f"    - {{name: away, http: {{url: '{url}', compression: none, timeout: 5s}},\n"
        f"       buffer: {{memory: {MEMORY}B, disk: {DISK}B}}}}\n"
    )
    return path


@asynccontextmanager
async def running(config: Path, state: Path, waits: Waits) -> AsyncIterator[Agent]:
    spec = Loader([config], [LOGS], environ={}).load().get(LOGS)
    agent = Agent(spec, state, sleep=waits.sleep)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


async def until(done: Callable[[], bool], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def out(folder: Path) -> set[str]:
    path = folder / "out.log"
    return set(path.read_text().splitlines()) if path.exists() else set()


def arrived(receiver: Receiver, taken: list[int]) -> list[dict[str, str]]:
    return [json.loads(line) for at in taken for line in receiver.requests[at].body.splitlines()]


def all_there(receiver: Receiver, taken: list[int], wanted: set[str]) -> Callable[[], bool]:
    """Return what says whether all arrived; it reads each request once, for the receiver runs in the same loop."""
    missing, read = set(wanted), 0

    def look() -> bool:
        nonlocal read
        missing.difference_update(one["message"] for one in arrived(receiver, taken[read:]))
        read = len(taken)
        return not missing

    return look


def judged(found: list[dict[str, str]], written: set[str]) -> None:
    """Check that all is there, each record under one id and in its file's order."""
    ids: dict[str, str] = {}
    for one in found:
        assert ids.setdefault(one["id"], one["message"]) == one["message"]
    assert len(set(ids.values())) == len(ids), "two ids for one record"
    assert set(ids.values()) == written
    in_order(list(dict.fromkeys(one["message"] for one in found)))


@pytest.mark.parametrize("way", ["503", "cut"])
async def test_ten_minutes_down(way: str, tmp_path: Path) -> None:
    waits = Waits()
    taken: list[int] = []

    def answer(_request: Received) -> tuple[int, dict[str, str]] | str:
        if waits.now_s < OUTAGE_S:
            return "cut" if way == "cut" else (503, {})
        taken.append(len(receiver.requests) - 1)
        return 200, {}

    async with receiving(answer=answer) as receiver:
        config = configured(tmp_path, receiver.url)
        writer = Writer(tmp_path / "in", 3)
        state = tmp_path / "state"
        most = 0

        async def a_while(agent: Agent, end_s: float) -> None:
            nonlocal most
            before_s = waits.now_s
            while waits.now_s < end_s:
                writer.write(1000)
                await until(lambda: out(tmp_path) == writer.all())
                writer.rotate(f"f{writer.generation % 3}")
                await until(lambda before_s=before_s: waits.now_s > before_s)  # type: ignore[misc]
                before_s = waits.now_s
                away = agent.status()[1][1]
                assert away.waiting_bytes <= MEMORY + DISK + READ_AHEAD
                assert away.failing or waits.now_s > OUTAGE_S
                most = max(most, away.waiting_bytes)

        async with running(config, state, waits) as agent:
            await a_while(agent, OUTAGE_S / 2)
        async with running(config, state, waits) as agent:
            await a_while(agent, OUTAGE_S)
            asked = len(waits.each)
            await until(all_there(receiver, taken, writer.all()))
            await until(lambda: not agent.status()[1][1].failing)
            assert agent.status()[1][1].dropped == 0
        judged(arrived(receiver, taken), writer.all())
    assert most > MEMORY + DISK, "the buffers were not full: the test did not reach what it is for"
    assert max(waits.each) <= 60, "it is never longer than `retry.cap` until it is tried again"
    assert 10 < asked < 120, "it does not hammer"
    assert not (state / "dead").exists()


def memory_kib(agent: Process) -> int:
    assert agent._process is not None
    status = Path(f"/proc/{agent._process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_ten_minutes_down_in_real_time(tmp_path: Path) -> None:
    """Nothing listens, then something refuses; two kills meanwhile, and rotation each few seconds."""
    book = Book("log-outage", [*log_sources(), Path(__file__)])
    if before := book.passed().get("ten minutes"):
        pytest.skip(f"passed at {before['at']}: {before}")
    port = free_port()
    config = configured(tmp_path, f"http://127.0.0.1:{port}/")
    writer = Writer(tmp_path / "in", 3)
    agent = Process(config, tmp_path / "state")
    await agent.start()
    began_s, most_kib = time.monotonic(), 0
    kills = [0.3 * OUTAGE_S, 0.75 * OUTAGE_S]

    async def a_while(end_s: float) -> None:
        nonlocal most_kib
        turn = 0
        while (now_s := time.monotonic() - began_s) < end_s:
            turn += 1
            writer.write(60)
            if turn % 5 == 0:
                writer.rotate(f"f{turn % 3}")
            most_kib = max(most_kib, memory_kib(agent))
            if kills and now_s > kills[0]:
                kills.pop(0)
                await agent.kill()
                await agent.start()
            await asyncio.sleep(1)

    await a_while(OUTAGE_S / 2)
    well = False
    taken: list[int] = []

    def answer(_request: Received) -> tuple[int, dict[str, str]] | str:
        if not well:
            return 503, {"Retry-After": "3"}
        taken.append(len(receiver.requests) - 1)
        return 200, {}

    async with receiving(answer=answer, port=port) as receiver:
        await a_while(OUTAGE_S)
        assert out(tmp_path) == writer.all(), "the other sink had all of it all the time"
        well, back_s = True, time.monotonic()
        await until(all_there(receiver, taken, writer.all()), 180)
        back_s = time.monotonic() - back_s
        assert await agent.stop() == 0
        judged(arrived(receiver, taken), writer.all())
    assert most_kib < 200 * 1024
    assert not (tmp_path / "state" / "dead").exists()
    book.note("ten minutes", lines=writer.number, caught_up_s=round(back_s), most_mib=most_kib // 1024)
