"""A real daemon in a process of its own, for end-to-end tests."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(true: Any, *, within_s: float = 60.0, what: str = "it") -> Any:
    """Return the first truthy answer of `true()`; fail when none comes in time."""
    end = time.monotonic() + within_s
    while True:
        answer = true()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {within_s} s")
        time.sleep(0.02)


def written(path: Path) -> bool:
    """Return whether there is a whole line in a file that another process writes."""
    return path.exists() and path.read_bytes().endswith(b"\n")


class Daemon:
    """One `dogwatch up`, its folder, its port."""

    def __init__(self, folder: Path, config: str, *, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "dogwatch.yaml"
        self.config.write_text(config)
        self.data = folder / "data"
        self.log = folder / "daemon.log"
        self._env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def server(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "dogwatch", *arguments]

    def up_command(self) -> list[str]:
        return self.command(
            "up", "--config", str(self.config), "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}"
        )

    def spawn(self, **popen: Any) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.up_command(), stdout=log, stderr=log, env=self._env, **popen)

    def start(self, **popen: Any) -> Daemon:
        self.spawn(**popen)
        self.wait_ready()
        return self

    def wait_ready(self, within_s: float = 60.0) -> None:
        wait_until(self._ready, within_s=within_s, what="the daemon's readiness")

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.output()}")
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, (status, body)
        return json.loads(body)

    def target(self, name: str) -> Any:
        return self.get(f"/api/v1/targets/{name}")

    def run(self, *arguments: str, within_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Run another command line against this daemon."""
        env = {**self._env, "DOGWATCH_SERVER": self.server}
        if arguments[0] != "up":
            env["DOGWATCH_SOCKET"] = str(self.data / "admin.sock")
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=within_s, env=env, check=False
        )

    def stop(self, signal_number: int = signal.SIGTERM, within_s: float = 60.0) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal_number)
        return self.process.wait(within_s)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(folder: Path, config: str, *, env: Mapping[str, str] | None = None, **popen: Any) -> Iterator[Daemon]:
    daemon = Daemon(folder, config, env=env)
    try:
        yield daemon.start(**popen)
    finally:
        daemon.close()
