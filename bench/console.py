"""The console: what a page costs a browser cold, 200 open live pages cost a daemon, and the first of 100,000 probes.

Pages: Debian's Chromium, nothing kept from before. Live pages: a real daemon that watches 100 targets; each page is
loaded, holds its stream, and fetches what the page's own script would fetch when it is told of something.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAME = "console"
CHROMIUM = Path("/usr/bin/chromium")
PAGES, LIVE, TARGETS, PROBES = 5, 200, 100, 100_000
PATHS = ("/", "/incidents", "/incidents/1", "/runs", "/schedules", "/settings", "/reports/availability", "/status")
# As static/live.js waits before it draws these parts anew.
_FRESH_S = {"sample": ("/fragments/hosts", 5.0), "transition": ("/fragments/now", 0.7)}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


# -- pages -------------------------------------------------------------------------------------------------------------


async def _pages(times: int) -> dict[str, Any]:
    from playwright.async_api import async_playwright
    from tests.consoles import console, live

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with console(Path(folder)) as web, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for path in PATHS:
                rows = [await _page(browser, web.url + path, live) for _ in range(times)]
                found[path] = {
                    "requests": rows[0]["requests"],
                    "sent_bytes": rows[0]["sent_bytes"],
                    "first_content_ms": round(statistics.median(row["first_ms"] for row in rows)),
                }
            await browser.close()
    return found


async def _page(browser: Any, url: str, live: Any) -> dict[str, float]:
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    asked: list[Any] = []
    ended: list[Any] = []
    page.on("request", lambda one: asked.append(one))  # noqa: PLW0108 Playwright marks what it is given
    page.on("requestfinished", lambda one: ended.append(one))  # noqa: PLW0108
    await page.goto(url, wait_until="domcontentloaded")
    requests = sum(not any(part in one.url for part in ("/api/", "/badge", "uPlot")) for one in asked)
    await live(page)
    await page.wait_for_load_state("load")
    script = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
    first_ms = await page.evaluate(script)
    while first_ms is None:
        await asyncio.sleep(0.05)
        first_ms = await page.evaluate(script)
    sizes = [await one.sizes() for one in ended]
    sent = sum(one["responseBodySize"] + one["responseHeadersSize"] for one in sizes)
    await context.close()
    return {"requests": requests, "sent_bytes": sent, "first_ms": first_ms}


# -- live pages --------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _get(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"host: 127.0.0.1:{port}\r\naccept-encoding: gzip\r\nconnection: close"
        writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n\r\n".encode())
        return len(await reader.read())
    finally:
        writer.close()


class _Viewer:
    """A page as its script behaves: one stream, and parts fetched anew when something is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._due: dict[str, asyncio.Task[None]] = {}
        self.events = self.fetched = 0

    async def watch(self) -> None:
        await _get(self._port, "/")
        query = "topics=result,target,transition,sample,reload,finding,run,incident&brief=true"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(f"GET /api/v1/events?{query} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        try:
            while line := await reader.readline():
                if line.startswith(b"event: "):
                    self.events += 1
                    self._hear(line[7:].strip().decode())
        finally:
            writer.close()
            for task in self._due.values():
                task.cancel()
            await asyncio.gather(*self._due.values(), return_exceptions=True)

    def _hear(self, topic: str) -> None:
        if topic in _FRESH_S and topic not in self._due:
            self._due[topic] = asyncio.ensure_future(self._fetch(topic))

    async def _fetch(self, topic: str) -> None:
        path, wait_s = _FRESH_S[topic]
        await asyncio.sleep(wait_s)
        await _get(self._port, path)
        self.fetched += 1
        del self._due[topic]


async def _live(port: int, pid: int, seconds: float) -> dict[str, Any]:
    await asyncio.sleep(20.0)  # first checks, first samples
    for _ in range(20):
        await _get(port, "/")
    before_mib, began_cpu_s, began_s = _resident_mib(pid), _cpu_s(pid), time.perf_counter()
    await asyncio.sleep(seconds / 2)
    idle = (_cpu_s(pid) - began_cpu_s) / (time.perf_counter() - began_s)
    viewers = [_Viewer(port) for _ in range(LIVE)]
    tasks = []
    for viewer in viewers:
        tasks.append(asyncio.ensure_future(viewer.watch()))
        await asyncio.sleep(0.02)
    await asyncio.sleep(10.0)
    began_cpu_s, began_s = _cpu_s(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    share = (_cpu_s(pid) - began_cpu_s) / (time.perf_counter() - began_s)
    after_mib = _resident_mib(pid)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "core_share_without": round(idle, 4),
        "core_share_with": round(share, 4),
        "core_share_of_pages": round(share - idle, 4),
        "mib_of_pages": round(after_mib - before_mib, 1),
        "events_per_page": round(statistics.mean(one.events for one in viewers)),
        "fetched_per_page": round(statistics.mean(one.fetched for one in viewers), 1),
    }


def _live_pages(seconds: float) -> dict[str, Any]:
    port = _free_port()
    entries = "\n".join(
        f"  - {{name: target-{at}, group: g{at % 10}, tcp: '127.0.0.1:{port}'}}" for at in range(TARGETS)
    )
    server = f"server: {{listen: '127.0.0.1:{port}', connections: 800, streams: 300}}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "dogwatch.yaml"
        config.write_text(f"{server}\nprobes:\n{entries}\nhost: {{name: bench}}\n")
        with (Path(folder) / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "dogwatch", "up", "-c", str(config), "--data", folder], stdout=log, stderr=log
            )
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
                    break
                time.sleep(0.1)
            return asyncio.run(_live(port, daemon.pid, seconds))
        finally:
            daemon.terminate()
            daemon.wait(30)


# -- 100,000 probes ----------------------------------------------------------------------------------------------------


def _serve_many(listener: socket.socket, ready: Any) -> None:
    import uvloop

    async def served() -> None:
        from tests.fakes import FakeProgram
        from tests.fakes_watch import many

        from dogwatch.core.clock import SystemClock
        from dogwatch.web.application import create_web
        from dogwatch.web.server import serve

        program = FakeProgram(many(PROBES, SystemClock().now_s()), clock=SystemClock())
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(ready.fileno(), stop.set)
        ready.send("ready")
        await serve(create_web(program.services), [listener], stop=stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(served())


async def _timed(port: int, path: str, times: int) -> dict[str, float]:
    took = []
    for _ in range(times):
        # What is kept of the targets is forgotten meanwhile.
        await asyncio.sleep(0.6)
        began_s = time.perf_counter()
        await _get(port, path)
        took.append((time.perf_counter() - began_s) * 1000)
    return {"median_ms": round(statistics.median(took), 1), "worst_ms": round(max(took), 1)}


def _many(times: int) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        ours, theirs = context.Pipe()
        server = context.Process(target=_serve_many, args=(listener, theirs))
        server.start()
        ours.recv()
        port = listener.getsockname()[1]
        try:
            asyncio.run(_timed(port, "/api/v1/targets", 3))
            return {
                "api": asyncio.run(_timed(port, "/api/v1/targets?limit=100", times)),
                "page": asyncio.run(_timed(port, "/", times)),
            }
        finally:
            ours.send("stop")
            server.join(30)


def _target(what: str, target: float, measured: float, *, least: bool = False) -> dict[str, Any]:
    met = measured >= target if least else measured <= target
    return {"what": what, "target": target, "measured": measured, "met": met}


def run(quick: bool) -> dict[str, Any]:
    from bench import access

    pages = asyncio.run(_pages(2 if quick else PAGES)) if CHROMIUM.exists() else {}
    live = _live_pages(20.0 if quick else 60.0)
    many = _many(5 if quick else 15)
    api = access.run(quick)
    reads = [api["one target"], api["one target, limited to labels"]]
    targets = [
        _target("share of a core of 200 live pages", 0.10, live["core_share_of_pages"]),
        _target("MiB of 200 live pages", 100, live["mib_of_pages"]),
        _target("first of 100,000 probes by API, median ms", 50, many["api"]["median_ms"]),
        _target("first of 100,000 probes on a page, median ms", 50, many["page"]["median_ms"]),
        _target("API reads/s of one core", 3000, min(one["per_core"] for one in reads), least=True),
        _target("API reads, p99 ms", 20, max(one["p99_ms"] for one in reads)),
    ]
    if pages:
        targets += [
            _target(f"{what} of the dearest page", most, max(row[key] for row in pages.values()))
            for what, key, most in (
                ("requests to interactive", "requests", 3),
                ("bytes sent cold", "sent_bytes", 200_000),
                ("first content, median ms", "first_content_ms", 300),
            )
        ]
    rows = [{"page": path, **row} for path, row in pages.items()]
    return {"name": NAME, "rows": [*rows, live], "many": many, "api": api, "targets": targets}
