"""A service with startup, readiness and liveness: a real process, restarted by its keeper, taken out and put back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Daemon, free_port, running, wait_until

# Keeps one process: a server that answers /started after a while, /ready unless the file `unready` is there, and /alive
# unless the file `stuck` was there when it was asked; a new process begins with neither.
KEEPER = """
import os, subprocess, sys, time
folder, port, parent = sys.argv[1], sys.argv[2], int(sys.argv[3])
SERVER = '''
import http.server, os, sys, time
folder, begun = sys.argv[2], time.monotonic()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        fine = {
            "/started": time.monotonic() - begun > 0.8,
            "/ready": not os.path.exists(folder + "/unready"),
            "/alive": not os.path.exists(folder + "/stuck." + str(os.getpid())),
        }[self.path]
        self.send_response(200 if fine else 503); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''
child = None
try:
    while os.getppid() == parent:
        if child is None or child.poll() is not None:
            child = subprocess.Popen([sys.executable, "-c", SERVER, port, folder])
            open(folder + "/pid.new", "w").write(str(child.pid))
            os.rename(folder + "/pid.new", folder + "/pid")
        time.sleep(0.02)
finally:
    if child is not None:
        child.kill(); child.wait()
"""


class Kept:
    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()

    @contextmanager
    def running(self) -> Iterator[Kept]:
        keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(self.folder), str(self.port), str(os.getpid())])
        try:
            wait_until((self.folder / "pid").exists, what="the first process")
            yield self
        finally:
            keeper.terminate()
            keeper.wait()
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    @property
    def pool(self) -> list[str]:
        path = self.folder / "pool"
        return path.read_text().split() if path.exists() else []

    def config(self) -> str:
        probes = "".join(
            f"""
  - name: {name}
    http: "http://127.0.0.1:{self.port}/{name}"
    every: 200ms
    timeout: 200ms
    failures: 2
    successes: 1"""
            for name in ("started", "ready", "alive")
        )
        return f"""
probes:{probes}
services:
  - name: checkout
    process: {{pidfile: {self.folder}/pid, grace: 1s}}
    startup: {{probes: [started], within: 15s}}
    liveness: {{probes: [alive]}}
    readiness:
      probes: [ready]
      out: {{exec: "echo out >> {self.folder}/pool"}}
      back: {{exec: "echo back >> {self.folder}/pool"}}
    mode: auto
    budget: {{max: 20, per: 1h, at_once: 3}}
    remedy: {{cooldown: 0s, backoff: {{base: 0s, cap: 0s}}, evidence: {{timeout: 3s}}}}
incidents: {{settle: 1s}}
"""


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with Kept(tmp_path).running() as one:
        yield one


def up(daemon: Daemon, *names: str) -> Any:
    return lambda: all(daemon.target(name)["status"] == "up" for name in names)


def test_liveness_restarts_readiness_takes_out_and_startup_gates(tmp_path: Path, kept: Kept) -> None:
    with running(tmp_path, kept.config()) as daemon:
        wait_until(up(daemon, "started", "ready", "alive"), within_s=60, what="its health")
        # Readiness: out once, and back when it is ready again; the process stays.
        first = kept.pid
        (tmp_path / "unready").touch()
        wait_until(lambda: kept.pool == ["out"], within_s=60, what="being taken out")
        time.sleep(1.0)
        assert kept.pool == ["out"]
        (tmp_path / "unready").unlink()
        wait_until(lambda: kept.pool == ["out", "back"], within_s=60, what="being put back")
        assert kept.pid == first
        # Liveness: the process is another one, and all is well again.
        (tmp_path / f"stuck.{first}").touch()
        wait_until(lambda: kept.pid != first, within_s=60, what="the restart")
        wait_until(up(daemon, "started", "ready", "alive"), within_s=60, what="its health after the restart")
        numbers = [one["number"] for one in daemon.get("/api/v1/incidents")["items"]]
        actions = [one for number in numbers for one in daemon.get(f"/api/v1/explain/{number}")["actions"]]
        restarts = [one for one in actions if one["remedy"] == "service:checkout:liveness"]
        assert [one["says"] for one in restarts] == ["restart checkout"]
        # While it starts, what its other probes say is not acted upon.
        assert not [one for one in actions if one["remedy"] == "service:checkout:startup"]


def test_mistakes_of_services_are_all_told(tmp_path: Path) -> None:
    (tmp_path / "dogwatch.yaml").write_text(
        json.dumps(
            {
                "probes": [{"name": "a", "tcp": "127.0.0.1:1"}],
                "services": [
                    {"name": "x"},
                    {"name": "x", "unit": "u", "container": "c", "liveness": {"probes": ["a"]}},
                    {"name": "y", "liveness": {"probes": []}},
                    {"name": "z", "process": {}, "startup": {"probes": ["a"]}, "ssh": "h", "restart": {"exec": "x"}},
                ],
            }
        )
    )
    ended = subprocess.run(
        [sys.executable, "-m", "dogwatch", "config", "check", "-c", str(tmp_path / "dogwatch.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    told = ended.stdout + ended.stderr
    for text in (
        "services[0]: has no probes",
        "services[1].name: 'x' is the name of services[0], too",
        "services[1].container: a service is either a unit or a container",
        "services[2].liveness: nothing says how the service is restarted",
        "services[2].liveness.probes: names no probe",
        "services[3].process: wants either 'pidfile' or 'name'",
        "services[3].ssh: means nothing beside 'restart'",
    ):
        assert text in told, told
