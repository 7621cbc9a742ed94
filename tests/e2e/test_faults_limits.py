"""The descriptor limit is reached: attempts wait or fail and are counted, the rest goes on, and it is reported."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.faulty import descriptors, metrics, summed
from tests.e2e.running import Daemon, wait_until

SILENT = 300
BASE = """
self_watch: {every: 200ms, growth_window: 1m}
server: {connections: 1000, keep_alive: 60s}
"""


class LimitedDaemon(Daemon):
    """A daemon that may open so many descriptors."""

    limit = 256

    def up_command(self) -> list[str]:
        return ["prlimit", f"--nofile={self.limit}:{self.limit}", *super().up_command()]


def configuration(port: int, silent: int) -> str:
    lines = [BASE, "probes:", "  - {name: nobody, tcp: '127.0.0.1:1', every: 300ms, timeout: 200ms}"]
    for number in range(silent):
        lines.append(f"  - {{name: silent-{number}, http: 'http://127.0.0.1:{port}/', every: 1s, timeout: 800ms}}")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def silent_listener():  # type: ignore[no-untyped-def]
    """A port whose connections the kernel takes and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as taken:
        yield taken.getsockname()[1]


def finding(daemon: Daemon, key: str) -> Any:
    return next((one for one in daemon.get("/api/v1/findings")["items"] if one["key"] == key), None)


def finding_over(kept: http.client.HTTPConnection) -> Any:
    """Return the finding about descriptors, asked for over a connection that is there already."""
    kept.request("GET", "/api/v1/findings")
    return next((one for one in json.loads(kept.getresponse().read())["items"] if one["key"] == "fds"), None)


def answers(daemon: Daemon) -> bool:
    """Return whether a new client is answered; at the limit the kernel's queue is emptied by resetting connections."""
    try:
        return daemon.request("GET", "/healthz")[0] == 200
    except OSError:
        return False


def attempts(found: dict[str, float], *parts: str) -> float:
    return summed(found, "dogwatch_probe_results_total", 'target="silent-', *parts)


@pytest.mark.serial  # hundreds of connections at once, and their lateness
@pytest.mark.parametrize("limit", [160, 256])
def test_descriptor_limit(tmp_path: Path, limit: int) -> None:
    with silent_listener() as port, contextlib.ExitStack() as clients:
        daemon = LimitedDaemon(tmp_path, configuration(port, 0))
        daemon.limit = limit
        try:
            daemon.start()
            idle = descriptors(daemon.pid)
            assert metrics(daemon)["process_max_fds"] == limit
            daemon.config.write_text(configuration(port, SILENT))
            wait_until(lambda: daemon.request("GET", "/api/v1/targets/silent-0")[0] == 200, what="the reload")
            wait_until(lambda: attempts(metrics(daemon)) > SILENT, within_s=60, what="attempts")
            reasons = {one["last_reason"] for one in daemon.get("/api/v1/targets?limit=500")["items"]}
            assert reasons <= {"timeout", "local", "refused", ""}, reasons
            assert attempts(metrics(daemon), 'result="success"') == 0
            kept = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
            clients.callback(kept.close)
            kept.request("GET", "/healthz")
            assert kept.getresponse().read() == b"ok\n"
            # What the probes leave of the limit, clients of our own take: connections that are kept and ask nothing.
            for _ in range(limit):
                one = socket.create_connection(("127.0.0.1", daemon.port), timeout=2)
                clients.callback(one.close)
                if len(os.listdir(f"/proc/{daemon.pid}/fd")) >= 0.9 * limit:  # noqa: PTH208
                    break
            # Whoever is connected already is answered, at the limit too.
            kept.request("GET", "/healthz")
            assert kept.getresponse().read() == b"ok\n"
            told = wait_until(lambda: finding_over(kept), what="the finding")
            assert f"of {limit} descriptors are open" in told["symptom"]
            assert told["evidence"]
            for _ in range(limit):
                one = socket.create_connection(("127.0.0.1", daemon.port), timeout=2)
                clients.callback(one.close)
            end_s = time.monotonic() + 3.0
            while time.monotonic() < end_s:
                kept.request("GET", "/healthz")
                assert kept.getresponse().read() == b"ok\n"
                time.sleep(0.1)
            kept.request("GET", "/metrics")
            text = kept.getresponse().read().decode()
            assert "dogwatch_probe_results_total" in text
            clients.close()
            # Recovery: the clients are gone, the targets are removed.
            wait_until(lambda: answers(daemon), what="an answer to a new client")
            daemon.config.write_text(configuration(port, 0))
            wait_until(
                lambda: daemon.request("GET", "/api/v1/targets/silent-0")[0] == 404, within_s=60, what="the reload"
            )
            wait_until(lambda: descriptors(daemon.pid) <= idle + 4, what="descriptors back")
            wait_until(lambda: finding(daemon, "fds") is None, what="the finding's end")
            before = summed(metrics(daemon), "dogwatch_probe_results_total", 'target="nobody"', 'result="refused"')
            wait_until(
                lambda: (
                    summed(metrics(daemon), "dogwatch_probe_results_total", 'target="nobody"', 'result="refused"')
                    >= before + 3
                ),
                what="watching",
            )
            assert not daemon.get("/api/v1/status")["store_trouble"]
            assert "Traceback" not in daemon.output(), daemon.output()[-3000:]
            assert daemon.stop() == 143
        finally:
            daemon.close()
