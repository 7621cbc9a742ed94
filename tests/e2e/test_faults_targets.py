"""Targets that do the worst they can, and DNS that never answers: attempts end, neighbours notice nothing."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from tests.e2e.faulty import Flipping, Peers, descriptors, lateness_p, metrics, read_head, resident_mib, summed, tasks
from tests.e2e.running import Daemon, wait_until

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
TIMEOUT_S = 1.0


async def endless_body(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        writer.write(b"more and more " * 4000)
        await writer.drain()


async def endless_chunks(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n" * 1000)
        await writer.drain()


async def endless_header(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: and more\r\n" * 1000)
        await writer.drain()


async def endless_line(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX-More: ")
    while True:
        writer.write(b"x" * 16384)
        await writer.drain()


async def one_byte_a_second(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1.0)


async def slow_body(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.2)


async def redirect_loop(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def never_answers(reader: Reader, writer: Writer) -> None:
    await reader.read()
    await asyncio.sleep(60)


async def reset_at_once(reader: Reader, writer: Writer) -> None:
    taken = writer.get_extra_info("socket")
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def reset_in_the_body(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    await writer.drain()
    await asyncio.sleep(0.05)
    taken = writer.get_extra_info("socket")
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def garbage(reader: Reader, writer: Writer) -> None:
    await reader.read(1)
    writer.write(bytes(range(256)) * 8)
    await writer.drain()


async def plain_text_on_tls(reader: Reader, writer: Writer) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()


@cache
def bomb() -> bytes:
    return gzip.compress(b"\0" * 100 * 2**20)


async def gzip_bomb(reader: Reader, writer: Writer) -> None:
    await read_head(reader)
    body = bomb()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


# name: (server, scheme, reasons that are right)
HOSTILE = {
    "endless-body": (endless_body, "http", {"too_large", "timeout"}),
    "endless-chunks": (endless_chunks, "http", {"too_large", "protocol"}),
    "endless-header": (endless_header, "http", {"too_large", "protocol"}),
    "endless-line": (endless_line, "http", {"too_large", "protocol"}),
    "one-byte-a-second": (one_byte_a_second, "http", {"timeout"}),
    "slow-body": (slow_body, "http", {"timeout"}),
    "redirect-loop": (redirect_loop, "http", {"redirects"}),
    "never-answers": (never_answers, "http", {"timeout"}),
    "reset": (reset_at_once, "http", {"reset"}),
    "reset-in-the-body": (reset_in_the_body, "http", {"reset", "protocol"}),
    "garbage": (garbage, "http", {"protocol"}),
    "garbage-on-tls": (garbage, "https", {"tls"}),
    "plain-text-on-tls": (plain_text_on_tls, "https", {"tls"}),
    "never-on-tls": (never_answers, "https", {"timeout"}),
    "reset-on-tls": (reset_at_once, "https", {"reset", "tls"}),
    "gzip-bomb": (gzip_bomb, "http", {"too_large"}),
}
NEIGHBOURS = 50


def neighbours(port: int) -> list[str]:
    return [
        f"  - {{name: steady-{number}, http: 'http://127.0.0.1:{port}/steady-{number}', every: 500ms, "
        "timeout: 500ms, successes: 1, failures: 5}"
        for number in range(NEIGHBOURS)
    ]


def assert_neighbours_unaffected(daemon: Daemon, before: dict[str, float]) -> None:
    found = metrics(daemon)

    def since(*labels: str) -> float:
        name = "dogwatch_probe_results_total"
        return summed(found, name, 'target="steady-', *labels) - summed(before, name, 'target="steady-', *labels)

    good = since('result="success"')
    bad = since() - good
    assert good > NEIGHBOURS * 3
    assert bad <= 0.01 * good, f"{bad} of {good} attempts at neighbours failed"
    late_s = lateness_p(found, before, 0.99)
    assert late_s <= 0.25, f"p99 of lateness is {late_s} s"


@pytest.mark.serial  # its lateness is that of the machine
def test_hostile_targets_end_by_their_limits_and_disturb_nobody(tmp_path: Path) -> None:
    with Peers() as peers:
        lines = ["self_watch: {every: 500ms, growth_window: 1m}", "probes:"]
        for name, (server, scheme, _reasons) in HOSTILE.items():
            port = peers.serve(server)
            for copy in range(4):
                lines.append(
                    f"  - {{name: {name}-{copy}, http: '{scheme}://127.0.0.1:{port}/', every: 1200ms, timeout: 1s}}"
                )
        lines += neighbours(peers.protocol(Flipping()))
        daemon = Daemon(tmp_path, "\n".join(lines) + "\n")
        try:
            daemon.start()
            hostile = [f"{name}-{copy}" for name in HOSTILE for copy in range(4)]
            wait_until(
                lambda: all(daemon.target(name)["consecutive_failures"] >= 2 for name in hostile),
                within_s=60,
                what="two attempts at each",
            )
            settled, mib = metrics(daemon), resident_mib(daemon.pid)
            most_mib, most_fds = mib, 0
            end_s = time.monotonic() + 6.0
            while time.monotonic() < end_s:
                most_mib = max(most_mib, resident_mib(daemon.pid))
                most_fds = max(most_fds, descriptors(daemon.pid))
                assert daemon.request("GET", "/healthz")[0] == 200
                time.sleep(0.05)
            for name in hostile:
                view = daemon.target(name)
                reasons = HOSTILE[name.rpartition("-")[0]][2]
                assert view["status"] == "down" or view["consecutive_failures"] >= 3, name
                assert view["last_reason"] in reasons, (name, view["last_reason"], view["last_message"])
                assert view["last_message"], name
                assert view["last_duration_s"] < TIMEOUT_S + 1.0, (name, view["last_duration_s"])
                kept = daemon.get(f"/api/v1/targets/{name}/failures?limit=1")["items"][0]
                assert len(kept["body"]) <= 16 * 1024 + 100, name
            assert_neighbours_unaffected(daemon, settled)
            assert most_mib < 160, f"{most_mib:.0f} MiB resident"
            assert most_mib - mib < 40, f"grew from {mib:.0f} to {most_mib:.0f} MiB"
            # Without the hostile ones the daemon must be what it would be without ever having met them.
            daemon.config.write_text(
                "\n".join(["probes:", *neighbours(int(lines[-1].split("127.0.0.1:")[1].split("/")[0]))])
            )
            wait_until(lambda: daemon.request("GET", "/api/v1/targets/reset-0")[0] == 404, what="the reload")
            wait_until(
                lambda: metrics(daemon)["dogwatch_probe_engine_descriptors"] <= NEIGHBOURS, what="closed sockets"
            )
            wait_until(
                lambda: descriptors(daemon.pid) < most_fds and descriptors(daemon.pid) < 60, what="descriptors back"
            )
            assert "Traceback" not in daemon.output()
            assert daemon.stop() == 143
        finally:
            daemon.close()


@contextmanager
def silent_dns() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


class HiddenResolver(Daemon):
    """A daemon that sees another resolv.conf."""

    def up_command(self) -> list[str]:
        inner = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["unshare", "-m", "sh", "-c", inner, str(self.folder / "resolv.conf"), *super().up_command()]


def may_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.serial  # its lateness is that of the machine
@pytest.mark.skipif(os.geteuid() != 0 or not may_unshare(), reason="a mount namespace of its own needs root")
def test_dns_that_hangs(tmp_path: Path) -> None:
    kinds = {
        "http": "http: 'http://{}.invalid-zone.test/'",
        "https": "http: 'https://{}.invalid-zone.test/'",
        "tcp": "tcp: '{}.invalid-zone.test:5432'",
        "tls": "tls: '{}.invalid-zone.test:443'",
        "icmp": "icmp: '{}.invalid-zone.test'",
        "websocket": "websocket: 'ws://{}.invalid-zone.test/'",
        "grpc": "grpc: '{}.invalid-zone.test:50051'",
    }
    with Peers() as peers, silent_dns() as port:
        (tmp_path / "resolv.conf").write_text(f"nameserver 127.0.0.1:{port}\n")
        lines = ["self_watch: {every: 500ms, growth_window: 1m}", "probes:"]
        lines += neighbours(peers.protocol(Flipping()))
        names = [f"{kind}-{number}" for kind in kinds for number in range(8)]
        for name in names:
            check = kinds[name.rpartition("-")[0]].format(name)
            lines.append(f"  - {{name: {name}, {check}, every: 1200ms, timeout: 1s, failures: 2}}")
        daemon = HiddenResolver(tmp_path, "\n".join(lines) + "\n")
        try:
            daemon.start()
            before = metrics(daemon)
            wait_until(
                lambda: all(daemon.target(name)["status"] == "down" for name in names), within_s=60, what="all down"
            )
            fds, count = descriptors(daemon.pid), tasks(daemon)
            time.sleep(5.0)
            for name in names:
                view = daemon.target(name)
                assert view["last_reason"] in ("timeout", "resolve"), (name, view["last_reason"], view["last_message"])
                assert view["last_duration_s"] < TIMEOUT_S + 1.0, (name, view["last_duration_s"])
            assert_neighbours_unaffected(daemon, before)
            # Each of these attempts holds a socket and perhaps a task while it waits; no more than that.
            assert descriptors(daemon.pid) <= fds + len(names)
            assert tasks(daemon) <= count + len(names)
            daemon.config.write_text("\n".join(lines[: 2 + NEIGHBOURS]) + "\n")
            wait_until(lambda: daemon.request("GET", "/api/v1/targets/tcp-0")[0] == 404, what="the reload")
            wait_until(lambda: descriptors(daemon.pid) < 60, what="descriptors back")
            assert daemon.run("debug", "tasks").returncode == 0
            assert "Traceback" not in daemon.output()
            started_s = time.monotonic()
            assert daemon.stop() == 143
            assert time.monotonic() - started_s < 5
        finally:
            daemon.close()
