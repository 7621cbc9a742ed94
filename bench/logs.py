"""The log agent as shipped, with checkpoints: one file to a file and to HTTP; MB and lines a second, CPU, memory, loss.

Every run is a process of its own (`dogwatch logs run`); its CPU time and peak memory are the kernel's. Its start-up is
measured by a run over an almost empty file and taken off. There is no peer yet: Debian has neither Fluent Bit nor
Vector, and rsyslog and syslog-ng, which it has, are not driven here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

NAME = "logs"
_JSON = (
    b'{"time":"2026-11-21T07:00:00Z","level":"%s","service":"shop","message":"request handled","path":"/cart/%d",'
    b'"user":"bob%d@example.org","ms":%d}\n'
)
_JOBS = {
    "pass to file": ("", "file: {path: %s, rotate: 0B}"),
    "json, where, set, redact to file": (
        "do: [json, {where: 'level != \"debug\"'}, {set: {fields: {env: prod}}}, {redact: [email]}]",
        "file: {path: %s, rotate: 0B, format: json}",
    ),
    "json lines to http, gzip": ("", 'http: {url: "%s", compression: gzip}'),
    "lines to http, zstd": ("", 'http: {url: "%s", compression: zstd, format: lines}'),
}


class _Discard:
    """An HTTP server that reads and forgets; counts the bytes of bodies and answers 200."""

    def __init__(self) -> None:
        self.bytes = 0
        self.last_s = time.monotonic()
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _serve(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._take, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/in"
        self._ready.set()
        self._loop.run_forever()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                left = length
                while left:
                    left -= len(await reader.read(min(left, 1 << 20)))
                self.bytes += length
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _lines(count: int) -> bytes:
    levels = (b"info", b"debug", b"warn", b"info")
    return b"".join(_JSON % (levels[n % 4], n % 977, n % 313, n % 1009) for n in range(count))


def _written(folder: Path) -> int:
    """Return how many records the sink has, as the agent's checkpoint would: read at its end, from its output."""
    found = subprocess.run(["wc", "-l", folder / "out"], capture_output=True, text=True, check=False)
    return int(found.stdout.split()[0]) if found.returncode == 0 else 0


def _one(job: str, source: Path, expected: int | None, discard: _Discard) -> dict[str, float]:
    do, sink = _JOBS[job]
    folder = Path(tempfile.mkdtemp(dir=source.parent))
    to_file = sink.startswith("file")
    target = str(folder / "out") if to_file else discard.url
    (folder / "c.yaml").write_text(
        f"logs:\n  checkpoint: 200ms\n  sources: [{{name: a, file: {{paths: [{source}], start: beginning}}}}]\n"
        f"  routes: [{{from: [a], to: [o]{', ' + do if do else ''}}}]\n"
        f"  sinks: [{{name: o, {sink % target}}}]\n"
    )
    started_s = time.monotonic()
    arguments = [sys.executable, "-m", "dogwatch", "logs", "run", "-c", "c.yaml", "--folder", str(folder / "state")]
    process = subprocess.Popen(arguments, cwd=folder)
    size = source.stat().st_size
    done: Callable[[], bool] = lambda: _accepted(folder) >= size  # noqa: E731
    while not done():
        if time.monotonic() - started_s > 180:
            raise RuntimeError(f"{job}: not finished in 180 s")
        time.sleep(0.05)
    took_s = time.monotonic() - started_s
    # Not the kernel's ru_maxrss: that begins with what this process had when it forked.
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak_kib = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    process.send_signal(signal.SIGTERM)
    _pid, _status, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    lost = expected - _written(folder) if to_file and expected is not None else 0
    shutil.rmtree(folder)
    return {"s": took_s, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_mib": peak_kib / 1024, "lost": lost}


def _accepted(folder: Path) -> int:
    from dogwatch.logs.checkpoint import CheckpointFile

    found, _problem = CheckpointFile(folder / "state" / "checkpoint").load()
    if not found.horizons:
        return -1
    return sum(min(one.offset for one in stream.lanes.values()) for stream in found.streams)


def run(quick: bool) -> dict[str, object]:
    """Return the figures of each job."""
    count = 300_000 if quick else 3_000_000
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    rows = []
    discard = _Discard()
    with tempfile.TemporaryDirectory(dir=memory) as name:
        source, empty = Path(name) / "in.log", Path(name) / "empty.log"
        source.write_bytes(_lines(count))
        empty.write_bytes(b"{}\n")
        megabytes = source.stat().st_size / 1e6
        kept = sum(1 for n in range(count) if n % 4 != 1)
        for job in _JOBS:
            base = _one(job, empty, None, discard)
            found = _one(job, source, kept if "where" in job else count, discard)
            cpu_s = max(1e-9, found["cpu_s"] - base["cpu_s"])
            # Both runs spend the same on starting and on being told to stop.
            wall_s = max(1e-9, found["s"] - base["s"])
            rows.append(
                {
                    "job": job,
                    "mb_per_cpu_s": megabytes / cpu_s,
                    "mb_per_s": megabytes / wall_s,
                    "lines_per_s": count / wall_s,
                    "rss_mib": found["rss_mib"],
                    "lost": found["lost"],
                }
            )
    targets = [
        {"what": "lines lost while measured", "measured": sum(row["lost"] for row in rows), "target": "0"},
        {"what": "peak memory, MiB", "measured": max(row["rss_mib"] for row in rows), "target": "<= 150"},
    ]
    limits = (0, 150)
    checked = [{**one, "met": one["measured"] <= limit} for one, limit in zip(targets, limits, strict=True)]
    return {"rows": rows, "targets": checked, "megabytes": megabytes, "peers": "none was run"}
