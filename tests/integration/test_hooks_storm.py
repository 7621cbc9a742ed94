"""A storm of webhooks on a real server: good ones, forged, repeated, replayed, far too large, malformed, slow."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest
from tests.hooking import SECRET, github
from tests.postgres import Postgres

ROOT = Path(__file__).parent.parent.parent
REQUESTS = 5000
AT_ONCE = 120
# What the server may grow by, beyond what it has before the storm: bodies in flight are bounded, the rest is small.
GROWTH_MIB = 100.0
CHUNK = b"x" * 65536


@contextmanager
def program(where: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.hook_server", where],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def resident_mib(pid: int, key: str = "VmRSS") -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(key))


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def head(name: str, headers: dict[str, str], length: int | None) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST /hooks/{name} HTTP/1.1", "Host: localhost", size, "Connection: close"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    whole = await reader.read()
    if not whole:
        return 0, {}  # closed before it could be read: the rest of a body was still on its way
    start, _, body = whole.partition(b"\r\n\r\n")
    return int(start.split()[1]), msgspec.json.decode(body) if body else {}


async def post(port: int, name: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, object]]:
    async with connected(port) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(head(name, headers, len(body)) + body)
            await writer.drain()
            return await answer(reader)
    return 0, {}


async def pour(port: int, *, chunked: bool) -> tuple[int, int]:
    """Send 10 MiB, and look for an answer meanwhile as clients do; return the status and how many bytes were taken."""
    sent = 0
    async with connected(port) as (reader, writer):
        writer.transport.set_write_buffer_limits(high=65536)
        # What the kernel holds for us would count as taken.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        told = asyncio.create_task(reader.readline())
        with contextlib.suppress(ConnectionError):
            writer.write(head("shop", github(b"x"), None if chunked else 10 * 1024 * 1024))
            for _ in range(160):
                if told.done():
                    break
                writer.write(b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK) if chunked else CHUNK)
                await writer.drain()
                sent += len(CHUNK)
        return int((await told).split()[1]), sent


async def dawdle(port: int) -> int:
    """Send a body a byte at a time until the server has had enough."""
    async with connected(port) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(head("shop", github(b"x" * 100), 100))
            for _ in range(100):
                writer.write(b"x")
                await writer.drain()
                if reader.at_eof():
                    break
                await asyncio.sleep(0.1)
            return (await answer(reader))[0]
    return 0


class Storm:
    def __init__(self, port: int, chance: random.Random) -> None:
        self.port, self.chance = port, chance
        self.seen: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
        self.accepted: dict[str, str] = {}
        self.sent: list[tuple[dict[str, str], bytes]] = []
        self.most_poured = 0

    async def one(self, number: int) -> None:
        kind = self.chance.choices(
            ["good", "forged", "duplicate", "replay", "malformed", "large", "ignored", "unknown", "small"],
            [40, 20, 12, 8, 6, 1, 5, 4, 4],
        )[0]
        body = msgspec.json.encode({"after": f"sha-{number}", "ref": "refs/heads/main", "pad": "é" * (number % 700)})
        status, told = await getattr(self, f"_{kind}")(number, body)
        self.seen[kind][status] += 1
        if told.get("state") == "accepted":
            assert told["id"] not in self.accepted
            self.accepted[str(told["id"])] = str(told["run"])

    async def _good(self, number: int, body: bytes) -> tuple[int, dict[str, object]]:
        headers = github(body, delivery=f"g-{number}")
        answered = await post(self.port, "shop", headers, body)
        if answered[0] == 202:
            self.sent.append((headers, body))
        return answered

    async def _forged(self, number: int, body: bytes) -> tuple[int, dict[str, object]]:
        headers = github(body, delivery=f"f-{number}")
        odd = self.chance.choice(
            ["sha256=" + "0" * 64, "", "sha1=x", "sha256=" + "é" * 64, headers["x-github-delivery"]]
        )
        return await post(self.port, "shop", {**headers, "x-hub-signature-256": odd.encode().decode("latin-1")}, body)

    async def _duplicate(self, number: int, body: bytes) -> tuple[int, dict[str, object]]:
        if not self.sent:
            return await self._good(number, body)
        return await post(self.port, "shop", *self.chance.choice(self.sent))

    async def _replay(self, number: int, body: bytes) -> tuple[int, dict[str, object]]:
        if not self.sent:
            return await self._good(number, body)
        headers, body = self.chance.choice(self.sent)
        return await post(self.port, "shop", {**headers, "x-github-delivery": f"r-{number}"}, body)

    async def _malformed(self, number: int, body: bytes) -> tuple[int, dict[str, object]]:
        body = self.chance.choice([body[:-1], b"\xff" + body, b"[" * 20_000, b'{"a": 1e}', b"nul", b'"\\ud800"'])
        return await post(self.port, "shop", github(body, delivery=f"m-{number}"), body)

    async def _large(self, number: int, _body: bytes) -> tuple[int, dict[str, object]]:
        status, sent = await pour(self.port, chunked=bool(number % 2))
        self.most_poured = max(self.most_poured, sent)
        return status, {}

    async def _ignored(self, number: int, _body: bytes) -> tuple[int, dict[str, object]]:
        body = msgspec.json.encode({"skip": number})
        return await post(self.port, "shop", github(body, delivery=f"i-{number}"), body)

    async def _unknown(self, number: int, body: bytes) -> tuple[int, dict[str, object]]:
        return await post(self.port, f"scan-{number}", github(body), body)

    async def _small(self, number: int, body: bytes) -> tuple[int, dict[str, object]]:
        return await post(self.port, "small", github(body, delivery=f"s-{number}"), body)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "state.db")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    yield postgres.create()


def rows(where: str, query: str) -> list[tuple[object, ...]]:
    if where.startswith("postgresql:"):
        with psycopg.connect(where, options="-c search_path=dogwatch") as connection:
            return list(connection.execute(query.encode()).fetchall())
    with contextlib.closing(sqlite3.connect(where)) as database:
        return list(database.execute(query).fetchall())


@pytest.mark.serial
async def test_a_storm(where: str) -> None:
    chance = random.Random(20261121)
    with program(where) as (process, port):
        storm = Storm(port, chance)
        for number in range(20):
            await storm.one(-1 - number)
        before_mib = resident_mib(process.pid)
        slow = [asyncio.create_task(dawdle(port)) for _ in range(50)]
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with room:
                await storm.one(number)

        async with asyncio.timeout(100):
            await asyncio.gather(*(one(number) for number in range(REQUESTS)))
            dawdled = await asyncio.gather(*slow)
        grown_mib = resident_mib(process.pid, "VmHWM") - before_mib
        # It is well, and still takes what is good.
        assert (await storm._good(10**6, b'{"after": "x", "ref": "y"}'))[0] == 202
    assert process.returncode == 0
    seen = storm.seen
    statuses = {status for counter in seen.values() for status in counter} | set(dawdled)
    assert not [status for status in statuses if status >= 500], seen
    assert set(seen["good"]) == {202}
    assert set(seen["forged"]) == {401}
    assert set(seen["duplicate"]) | set(seen["replay"]) <= {200, 202}
    assert set(seen["malformed"]) == {400}
    assert set(seen["large"]) == {413}
    assert storm.most_poured < 4 * 1024 * 1024, "a body over the limit was read on"
    assert set(seen["ignored"]) == {202}
    assert set(seen["unknown"]) == {404}
    assert set(seen["small"]) == {202, 413}
    assert set(dawdled) <= {408, 0}
    assert grown_mib < GROWTH_MIB
    _check_rows(where, storm)


def _check_rows(where: str, storm: Storm) -> None:
    """Every accepted delivery has exactly one run, and there is no other run."""
    deliveries = rows(where, "SELECT delivery_id, run_id FROM hook_deliveries WHERE state = 'accepted'")
    runs = [run_id for (run_id,) in rows(where, "SELECT run_id FROM runs")]
    assert len(runs) == len(set(runs)) == len(deliveries)
    assert {run_id for _, run_id in deliveries} == set(runs)
    known = {str(one): str(run_id) for one, run_id in deliveries}
    assert known.items() >= storm.accepted.items()
    # And one that was answered last, outside of the count.
    assert len(known) == len(storm.accepted) + 1
    text = str(rows(where, "SELECT headers, query, reason FROM hook_deliveries"))
    assert SECRET not in text
    assert "sha256=" not in text


async def test_killed_while_deliveries_come_in(where: str) -> None:
    """What was answered is on disk, with its run; what was not may be there, with its run as well, or not at all."""
    chance = random.Random(5)
    answered: dict[str, str] = {}
    sent = 0
    for life in range(4):
        with program(where) as (process, port):
            storm = Storm(port, chance)
            enough = chance.randrange(20, 200)

            async def stream(first: int, storm: Storm = storm, enough: int = enough) -> None:
                nonlocal sent
                number = first
                while len(storm.accepted) < enough:
                    number += 16
                    sent += 1
                    try:
                        await storm.one(number)
                    except ConnectionError:
                        return

            streams = [asyncio.create_task(stream(life * 10**6 + number)) for number in range(16)]
            async with asyncio.timeout(60):
                await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
            process.kill()
            await asyncio.gather(*streams, return_exceptions=True)
            answered |= storm.accepted
    deliveries = dict(rows(where, "SELECT delivery_id, run_id FROM hook_deliveries WHERE state = 'accepted'"))
    runs = [run_id for (run_id,) in rows(where, "SELECT run_id FROM runs")]
    assert len(answered) >= 80
    assert deliveries.items() >= answered.items()
    assert sorted(map(str, deliveries.values())) == sorted(map(str, runs))
