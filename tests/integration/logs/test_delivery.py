"""kill -9 at random instants under load, with rotations going on, for every source and every sink: nothing is lost, and
what comes twice carries the same id. One table; ten instants in the plain suite, a hundred and all pairs in the soak.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from tests.log_peers import Peer, free_port, program, running
from tests.log_targets import TARGETS, Target
from tests.log_world import Agent
from tests.receiver import receiving
from tests.soaking import Book, log_sources

# -- sources: each writes lines that must arrive


class Feeder:
    """written: what must arrive. config: the source, as YAML. do: transforms that bring the line back to `message`."""

    config = ""
    do = "[]"

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.written: list[str] = []
        self.number = 0

    def lines(self, count: int) -> list[str]:
        found = []
        for _ in range(count):
            self.number += 1
            found.append(f"line {self.number} {'x' * (self.number % 97)}")
        return found

    async def feed(self) -> None:
        """Write something."""
        raise NotImplementedError

    async def end(self) -> None:
        """Wait until all that was begun is written."""


class FileFeeder(Feeder):
    """Files that are rotated by rename, and compressed at times, also while the agent is down."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder, chance)
        self.config = f"file: {{paths: [{folder}/*.log], start: beginning, search: 100ms}}"
        self.rotations = 0
        for name in ("a", "b"):
            (folder / f"{name}.log").write_text("# the same first line\n")

    def form(self, lines: list[str]) -> str:
        return "".join(line + "\n" for line in lines)

    async def feed(self) -> None:
        name = self.chance.choice("ab")
        path = self.folder / f"{name}.log"
        lines = self.lines(self.chance.randrange(1, 200))
        with path.open("a") as file:
            file.write(self.form(lines))
        self.written += lines
        if self.chance.random() < 0.3:
            self.rotations += 1
            path.rename(self.folder / f"{name}.log.{self.rotations:04d}")
            path.write_text("# the same first line\n")
        if self.chance.random() < 0.15:
            rotated = sorted(self.folder.glob("*.log.[0-9]*[0-9]"))
            if rotated:
                old = self.chance.choice(rotated)
                old.with_suffix(old.suffix + ".gz").write_bytes(gzip.compress(old.read_bytes(), 1))
                old.unlink()


class ContainersFeeder(FileFeeder):
    do = "[container]"

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder, chance)
        multiline = "multiline: {preset: containers, timeout: 100ms}"
        self.config = f"containers: {{paths: ['{folder}/*.log'], start: beginning, search: 100ms, {multiline}}}"

    def form(self, lines: list[str]) -> str:
        found = []
        for number, line in enumerate(lines, self.number - len(lines)):
            time = f"2026-11-21T07:{number // 6000 % 60:02d}:{number // 100 % 60:02d}.{number % 100:02d}Z"
            cut = 5 if self.chance.random() < 0.2 else 0
            if cut:
                found.append(f"{time} stdout P {line[:cut]}")
            found.append(f"{time} stdout F {line[cut:]}")
        return "".join(line + "\n" for line in found)


class JournaldFeeder(Feeder):
    """A real journal whose files are changed at times."""

    do = "[json]"

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder, chance)
        self._writer = program("systemd-journal-remote")
        program("journalctl")
        self.config = f"journald: {{directory: {folder}, start: beginning}}"
        self.files = 0

    async def feed(self) -> None:
        if self.chance.random() < 0.2:
            self.files += 1
        lines = self.lines(self.chance.randrange(1, 100))
        entries = "".join(
            f"__REALTIME_TIMESTAMP={1_795_244_400_000_000 + 10_000 * (self.number - len(lines) + at)}\n"
            f"__MONOTONIC_TIMESTAMP={1_000_000 + self.number - len(lines) + at}\n"
            f"_BOOT_ID=0123456789abcdef0123456789abcdef\nMESSAGE={line}\n\n"
            for at, line in enumerate(lines)
        )
        path = self.folder / f"remote-{self.files}.journal"

        def write() -> None:
            subprocess.run([self._writer, "-o", path, "-"], input=entries.encode(), check=True, capture_output=True)

        await asyncio.to_thread(write)
        self.written += lines


class HttpFeeder(Feeder):
    """A client that sends again, under the same key, until it is answered."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder, chance)
        self.port = free_port()
        self.config = f"http: {{listen: '127.0.0.1:{self.port}'}}"
        self._sending: list[asyncio.Task[None]] = []

    async def feed(self) -> None:
        lines = self.lines(self.chance.randrange(1, 200))
        self.written += lines
        self._sending.append(asyncio.create_task(self._send(lines)))

    async def _send(self, lines: list[str]) -> None:
        body = "".join(line + "\n" for line in lines)
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    headers = {"Idempotency-Key": lines[0].strip()}
                    answer = await client.post(
                        f"http://127.0.0.1:{self.port}/", content=body, headers=headers, timeout=20
                    )
                    if answer.status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        await asyncio.gather(*self._sending)


FEEDERS: dict[str, type[Feeder]] = {
    "file": FileFeeder,
    "containers": ContainersFeeder,
    "journald": JournaldFeeder,
    "http": HttpFeeder,
}


# -- the table


@pytest.fixture(scope="module")
def peers() -> Iterator[Callable[[type[Peer]], Peer]]:
    """Servers, started when they are first asked for."""
    with contextlib.ExitStack() as stack:
        started: dict[type[Peer], Peer] = {}

        def get(kind: type[Peer]) -> Peer:
            if kind not in started:
                started[kind] = stack.enter_context(running(kind))
            return started[kind]

        yield get


def configured(folder: Path, feeder: Feeder, target: Target) -> Path:
    path = folder / "c.yaml"
    path.write_text(
        f"logs:\n  checkpoint: 200ms\n  sources: [{{name: s, {feeder.config}}}]\n"
        f"  routes: [{{do: {feeder.do}}}]\n"
        f"  sinks: [{{name: o, {target.config}, retry: {{base: 10ms, cap: 100ms}}}}]\n"
    )
    return path


class Shown(NamedTuple):
    """lines: that were written, and arrived. twice: deliveries beyond the first. took_s: of all."""

    lines: int
    twice: int
    took_s: float


async def killed(folder: Path, feeder: Feeder, target: Target, kills: int, chance: random.Random) -> Shown:
    began_s = time.monotonic()
    agent = Agent(configured(folder, feeder, target), folder / "state")
    await agent.start()
    if isinstance(feeder, FileFeeder):
        # What was rotated before the very first search is none of its business.
        async with asyncio.timeout(60):
            while not (folder / "state" / "checkpoint").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    for life in range(kills):
        if life % 2:
            # Not every life may end before it has delivered anything: then all kills would meet the same beginning.
            await _moved(folder / "state" / "checkpoint", feeder)
        for _ in range(chance.randrange(1, 6)):
            await feeder.feed()
            await asyncio.sleep(chance.random() * 0.12)
        await agent.kill()
        for _ in range(chance.randrange(3)):
            await feeder.feed()
        await agent.start()
    await feeder.feed()
    await feeder.end()
    wanted = set(feeder.written)
    missing = wanted
    for _ in range(300):
        missing = wanted - {message for _id, message in await asyncio.to_thread(target.received)}
        if not missing:
            break
        await asyncio.sleep(0.1)
    assert await agent.stop() == 0
    assert not missing, f"{len(missing)} lost: {sorted(missing, key=lambda one: int(one.split()[1]))[:5]}"
    found = await asyncio.to_thread(target.received)
    ids: dict[str, set[str]] = {}
    for one, message in found:
        if not message.startswith("#"):
            ids.setdefault(message, set()).add(one)
    assert set(ids) == wanted, "what nobody wrote"
    several = {message: known for message, known in ids.items() if len(known) > 1}
    assert not several, f"two ids for one record: {list(several.items())[:3]}"
    # A client whose answer was lost sends again: under the same ids.
    lines = [message for _id, message in found if not message.startswith("#")]
    if target.exactly_once and not isinstance(feeder, HttpFeeder):
        assert len(lines) == len(wanted), "a record is there twice"
    return Shown(len(wanted), len(lines) - len(wanted), time.monotonic() - began_s)


async def _moved(checkpoint: Path, feeder: Feeder) -> None:
    """Wait until something more was accepted, but not for ever: the sink may have all there is."""

    def saved_ns() -> int:
        try:
            return checkpoint.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    before_ns = saved_ns()
    await feeder.feed()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3):
            while saved_ns() == before_ns:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


PAIRS = [(source, sink) for source in FEEDERS for sink in TARGETS]
# These two take ten seconds to start.
PLAIN = [pair for pair in PAIRS if "file" in pair and pair[1] not in {"real-loki", "real-elasticsearch"}]


def lazy(test: Callable[..., object]) -> Callable[..., object]:
    for kind in ("fd", "process", "thread"):
        test = pytest.mark.allow_leak(f"{kind}:*", reason="receivers begin with the first test that needs them")(test)
    return test


async def _pair(
    source: str, sink: str, kills: int, seed: int, folder: Path, peers: Callable[[type[Peer]], Peer]
) -> Shown:
    chance = random.Random(seed)
    (folder / "in").mkdir()
    feeder = FEEDERS[source](folder / "in", chance)
    kind = TARGETS[sink].peer
    peer = await asyncio.to_thread(peers, kind) if kind is not None else None
    async with receiving() as receiver:
        target = await asyncio.to_thread(TARGETS[sink], folder, peer, receiver)
        try:
            return await killed(folder, feeder, target, kills, chance)
        finally:
            await asyncio.to_thread(target.close)


@lazy
@pytest.mark.parametrize(("source", "sink"), PLAIN)
async def test_killed_at_ten_instants(
    source: str, sink: str, tmp_path: Path, peers: Callable[[type[Peer]], Peer]
) -> None:
    await _pair(source, sink, 10, 10, tmp_path, peers)


@lazy
@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("source", "sink"), PAIRS)
async def test_killed_at_a_hundred_instants(
    source: str, sink: str, tmp_path: Path, peers: Callable[[type[Peer]], Peer]
) -> None:
    """What passed is not done again until the agent's sources change: a soak goes on where it was ended.

    DOGWATCH_SOAK_KILLS: another number of instants, where a hundred take too long.
    """
    kills = int(os.environ.get("DOGWATCH_SOAK_KILLS", "100"))
    book = Book("log-delivery", log_sources())
    before = book.passed().get(f"{source}-{sink}")
    if before and int(str(before["kills"])) >= kills:
        pytest.skip(f"passed at {before['at']}: {before['lines']} lines, {before['twice']} came twice")
    shown = await _pair(source, sink, kills, 100, tmp_path, peers)
    book.note(f"{source}-{sink}", kills=kills, lines=shown.lines, twice=shown.twice, took_s=round(shown.took_s))
