"""What bounding buys: one task for each item against the pool, 10,000 items, a loopback round trip each.

Every run is a process of its own, so that its peak memory is its own, against one server that answers 16 KiB. An item
connects, sends a request, reads the answer and closes. The runs alternate. Latency is what the target sees: from the
item's first step to its last. Memory is the growth of the peak resident set, over the number of items.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import statistics
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

NAME = "bounding"
WORKERS = 16
ANSWER = b"x" * 16384
# Published figures of the approach that is to be beaten (issue 2): one task per item → bounded.
REFERENCE_TASKS, REFERENCE_BYTES = 16, 48_000
ATTEMPTS = 8


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))


# -- the other side


async def _serve() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(64)
            writer.write(ANSWER)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


# -- our side


class Load:
    """The items of one run and what was measured of them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.latencies_s: list[float] = []
        self.failed = 0
        self.peak_tasks = 0

    async def item(self) -> None:
        started_s = time.perf_counter()
        try:
            for attempt in range(ATTEMPTS):
                try:
                    await self._round_trip()
                    break
                except ConnectionError:
                    # The flood of the unbounded run overflows the server's queue; whoever is turned away comes again.
                    if attempt == ATTEMPTS - 1:
                        raise
                    await asyncio.sleep(0.05)
        except (OSError, asyncio.IncompleteReadError):
            self.failed += 1
        self.latencies_s.append(time.perf_counter() - started_s)

    async def _round_trip(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        # A reset instead of TIME_WAIT, or the second run finds no port left.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            writer.write(b"q" * 64)
            await reader.readexactly(len(ANSWER))
        finally:
            writer.transport.abort()

    async def watch(self) -> None:
        while True:
            self.peak_tasks = max(self.peak_tasks, len(asyncio.all_tasks()) - 2)  # without main and this one
            await asyncio.sleep(0.02)


async def _one_task_per_item(load: Load, count: int) -> None:
    await asyncio.gather(*(asyncio.create_task(load.item()) for _ in range(count)))


async def _pool(load: Load, count: int) -> None:
    from dogwatch.core.pool import Pool

    async with Pool(workers=WORKERS, queue=WORKERS) as pool:
        for _ in range(count):
            await pool.submit(partial(load.item))


async def _measure(mode: str, count: int, port: int) -> dict[str, float]:
    load = Load(port)
    run = {"task per item": _one_task_per_item, "pool": _pool}[mode]
    await load.item()  # what the first connection loads is nobody's cost
    load.latencies_s.clear()
    watching = asyncio.create_task(load.watch())
    await asyncio.sleep(0)
    before_bytes = _memory("VmRSS")
    started_s = time.perf_counter()
    await run(load, count)
    took_s = time.perf_counter() - started_s
    watching.cancel()
    ordered = sorted(load.latencies_s)
    return {
        "peak_tasks": load.peak_tasks,
        "memory_per_item_bytes": max(0, _memory("VmHWM") - before_bytes) / count,
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        "items_per_s": count / took_s,
        "failed": load.failed,
    }


def _spawn(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench.bounding", *arguments]


def run(quick: bool) -> dict[str, object]:
    """Run both, alternating, and return the medians."""
    count, rounds = 10_000, 1 if quick else 3
    figures: dict[str, list[dict[str, float]]] = {"task per item": [], "pool": []}
    with subprocess.Popen(_spawn("serve"), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        try:
            for _ in range(rounds):
                for mode, seen in figures.items():
                    done = subprocess.run(
                        _spawn("client", mode, str(count), port), capture_output=True, text=True, check=True
                    )
                    seen.append(json.loads(done.stdout))
        finally:
            server.kill()
    rows = [
        {"what": mode, "items": count} | {key: round(statistics.median(one[key] for one in seen), 1) for key in seen[0]}
        for mode, seen in figures.items()
    ]
    flood, pool = rows
    return {"name": NAME, "rows": rows, "targets": _targets(flood, pool)}


def _targets(flood: dict[str, float], pool: dict[str, float]) -> list[dict[str, object]]:
    share = pool["memory_per_item_bytes"] / max(1, flood["memory_per_item_bytes"])
    p99 = pool["p99_ms"] / flood["p99_ms"]
    return [
        {
            "what": "peak tasks with the pool",
            "target": f"<= {REFERENCE_TASKS}",
            "measured": pool["peak_tasks"],
            "met": pool["peak_tasks"] <= REFERENCE_TASKS,
        },
        {
            "what": "memory per item with the pool, bytes",
            "target": f"<= {REFERENCE_BYTES}",
            "measured": pool["memory_per_item_bytes"],
            "met": pool["memory_per_item_bytes"] <= REFERENCE_BYTES,
        },
        {
            "what": "memory per item, pool ÷ task per item",
            "target": "<= 0.04 (48 KB ÷ 1.2 MB)",
            "measured": round(share, 4),
            "met": share <= 0.04,
        },
        {
            "what": "p99 latency of an item, pool ÷ task per item",
            "target": "< 1",
            "measured": round(p99, 4),
            "met": p99 < 1,
        },
    ]


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bounding")
    parser.add_argument("role", nargs="?", default="run", choices=["run", "quick", "serve", "client"])
    parser.add_argument("mode", nargs="?")
    parser.add_argument("count", nargs="?", type=int)
    parser.add_argument("port", nargs="?", type=int)
    options = parser.parse_args()
    if options.role in ("run", "quick"):
        print(json.dumps(run(options.role == "quick"), indent=2, ensure_ascii=False))
        return
    import uvloop

    _raise_descriptor_limit()
    if options.role == "serve":
        uvloop.run(_serve())
    else:
        print(json.dumps(uvloop.run(_measure(options.mode, options.count, options.port))))


if __name__ == "__main__":
    _main()
