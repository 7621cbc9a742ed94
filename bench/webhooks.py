"""How soon a webhook is acknowledged: signed deliveries at a fixed rate, each on disk with its run before the answer.

Beside it the same deliveries to a bare ASGI function that stores one row (bench/webhook_peer.py). Both are real
servers in processes of their own, on SQLite and PostgreSQL. Arrivals are on a fixed schedule, and an acknowledgement is
counted from when the request was due, so that a server that stalls cannot hide it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from tests.hooking import github
from tests.postgres import server as postgres_server

NAME = "webhooks"
ROOT = Path(__file__).parent.parent
RATE_PER_S = 200
TARGET_MS = 20.0
CONNECTIONS = 24
PROGRAMS = {"dogwatch": "tests.integration.hook_server", "bare ASGI": "bench.webhook_peer"}


@contextlib.contextmanager
def serving(program: str, where: str) -> Iterator[tuple[int, int]]:
    """Run a server; yield its port and process."""
    with subprocess.Popen(
        [sys.executable, "-m", program, where], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield int(process.stdout.readline()), process.pid  # type: ignore[union-attr]
        finally:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait(30)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _request(number: int) -> bytes:
    body = msgspec.json.encode(
        {
            "after": f"{number:040x}",
            "ref": "refs/heads/main",
            "commits": [{"id": f"{number + n:040x}", "message": "Change the colour of the shed"} for n in range(20)],
        }
    )
    lines = ["POST /hooks/shop HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in github(body, delivery=f"d-{number}").items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Client:
    """A few kept connections; a request takes the next free one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.refused = 0

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))

    async def send(self, request: bytes) -> None:
        reader, writer = connection = await self._free.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        await reader.readexactly(length)
        self.refused += b" 202 " not in head[:16]
        self._free.put_nowait(connection)

    def close(self) -> None:
        while not self._free.empty():
            self._free.get_nowait()[1].close()


async def _paced(port: int, pid: int, seconds: float) -> dict[str, float]:
    requests = [_request(number) for number in range(int(RATE_PER_S * (seconds + 1)))]
    client = Client(port)
    await client.open()
    waits: list[float] = []

    async def one(request: bytes, due_s: float, *, counts: bool) -> None:
        await client.send(request)
        if counts:
            waits.append(time.monotonic() - due_s)

    # A second to warm up: the first requests compile and open what later ones use.
    started_s, cpu_s = time.monotonic() + 0.05, 0.0
    tasks = []
    for number, request in enumerate(requests):
        due_s = started_s + number / RATE_PER_S
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        if number == RATE_PER_S:
            cpu_s = _cpu_s(pid)
        tasks.append(asyncio.create_task(one(request, due_s, counts=number >= RATE_PER_S)))
    await asyncio.gather(*tasks)
    core_share = (_cpu_s(pid) - cpu_s) / seconds
    client.close()
    waits.sort()
    return {
        "p50_ms": waits[len(waits) // 2] * 1000,
        "p99_ms": waits[int(len(waits) * 0.99)] * 1000,
        "worst_ms": waits[-1] * 1000,
        "core_share": core_share,
        "refused": client.refused,
    }


async def _flat_out(port: int, seconds: float) -> float:
    """Return deliveries acknowledged a second, as fast as the connections allow."""
    client = Client(port)
    await client.open()
    until_s = time.monotonic() + seconds
    done = 0

    async def one(first: int) -> None:
        nonlocal done
        number = first
        while time.monotonic() < until_s:
            await client.send(_request(number))
            number += CONNECTIONS
            done += 1

    await asyncio.gather(*(one(10**6 + number) for number in range(CONNECTIONS)))
    client.close()
    return done / seconds


def _measure(program: str, where: str, *, quick: bool) -> dict[str, Any]:
    with serving(program, where) as (port, pid):
        paced = uvloop.run(_paced(port, pid, 3.0 if quick else 20.0))
        return {**paced, "flat_out_per_s": uvloop.run(_flat_out(port, 1.0 if quick else 5.0))}


def run(quick: bool) -> dict[str, Any]:
    rows, targets = [], []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dogwatch-bench-")))
        postgres = stack.enter_context(postgres_server())
        for database in ("sqlite", "postgresql"):
            for name, program in PROGRAMS.items():
                where = str(folder / f"{name}.db") if database == "sqlite" else postgres.create()
                row = {"database": database, "program": name, "rate_per_s": RATE_PER_S}
                row |= _measure(program, where, quick=quick)
                rows.append(row)
                if name == "dogwatch":
                    p99_ms = float(row["p99_ms"])
                    what = f"acknowledged at {RATE_PER_S}/s on {database}, p99, ms"
                    good = p99_ms <= TARGET_MS and not row["refused"]
                    targets.append({"what": what, "target": TARGET_MS, "measured": p99_ms, "met": good})
    return {"name": NAME, "rows": rows, "targets": targets}
