"""Remedies by a real daemon over real servers: brought down, acted upon, recovered; killed at random instants."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Daemon, free_port, running, wait_until

# A server that something outside of Dogwatch keeps: it starts it again whenever the file `again` is made.
KEEPER = """
import os, socket, subprocess, sys, time
folder, port = sys.argv[1], int(sys.argv[2])
SERVER = '''
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''
child = None
try:
    while True:
        if os.path.exists(folder + "/again"):
            os.unlink(folder + "/again")
            if child is not None:
                child.kill(); child.wait()
            child = subprocess.Popen([sys.executable, "-c", SERVER, str(port)])
            open(folder + "/server.pid", "w").write(str(child.pid))
        if child is not None:
            child.poll()
        if os.getppid() != int(sys.argv[3]):
            break
        time.sleep(0.02)
finally:
    if child is not None:
        child.kill(); child.wait()
"""


class Server:
    """What is watched: a real HTTP server."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.acts = folder / "acts"

    @contextmanager
    def kept(self) -> Iterator[Server]:
        command = [sys.executable, "-c", KEEPER, str(self.folder), str(self.port), str(os.getpid())]
        keeper = subprocess.Popen(command)
        try:
            self.start()
            yield self
        finally:
            keeper.terminate()
            keeper.wait()
            self.kill()

    def start(self) -> None:
        (self.folder / "again").touch()
        wait_until(lambda: not (self.folder / "again").exists(), what="the server's start")

    def kill(self) -> None:
        file = self.folder / "server.pid"
        if file.exists():
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)

    @property
    def lines(self) -> list[str]:
        return self.acts.read_text().splitlines() if self.acts.exists() else []

    def config(
        self,
        *,
        mode: str = "auto",
        most: int = 4,
        attempts: int = 2,
        more: str = "",
        evidence: str = "timeout: 5s",
        run: str = "",
    ) -> str:
        run = (
            run
            or f'echo "#{{{{ params.incident }}}}.{{{{ params.attempt }}}}" >> {self.acts}; touch {self.folder}/again'
        )
        return f"""
probes:
  - name: shop
    http: "http://127.0.0.1:{self.port}/"
    every: 200ms
    timeout: 200ms
    failures: 2
    successes: 1
    labels: {{team: shop, unit: no-such.service}}
    do:
      - {{name: restart, says: restart the shop, exec: {json.dumps(run)}, verify: 6s, attempts: {attempts}}}
    mode: {mode}
    budget: {{max: {most}, per: 1h}}
    remedy:
      cooldown: 0s
      backoff: {{base: 100ms, cap: 100ms}}
      evidence: {{{evidence}}}
incidents: {{settle: 1s}}
{more}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path).kept() as one:
        yield one


def healthy(daemon: Daemon) -> None:
    wait_until(lambda: daemon.target("shop")["status"] == "up", within_s=60, what="the shop's health")


def incident(daemon: Daemon, number: int = 1) -> Any:
    return daemon.get(f"/api/v1/incidents/{number}")


def resolved(daemon: Daemon, number: int = 1) -> Any:
    def look() -> Any:
        items = daemon.get("/api/v1/incidents")["items"]
        return [one for one in items if one["number"] == number and one["state"] == "resolved"]

    return wait_until(look, within_s=60, what=f"the end of incident #{number}")


def test_a_server_that_dies_is_restarted_and_all_of_it_is_explained(tmp_path: Path, server: Server) -> None:
    (tmp_path / "shop.log").write_text("GET /\nDB_PASSWORD=hunter2hunter\npanic: out of shirts\n")
    config = server.config(evidence=f"timeout: 5s, logs: [{tmp_path / 'shop.log'}]")
    with running(tmp_path, config) as daemon:
        healthy(daemon)
        server.kill()
        resolved(daemon)
        assert server.lines == ["#1.1"]
        kinds = [note["kind"] for note in incident(daemon)["timeline"]]
        assert [kind for kind in kinds if kind in ("opened", "acting", "acted", "helped")] == [
            "opened", "acting", "acted", "helped",
        ]  # fmt: skip
        told = daemon.run("explain", "1", "--evidence")
        assert told.returncode == 0, told.stderr
        for text in (
            "shop is down: connection refused",
            "restart the shop", "budget probe:shop: 4 of 4 in 1h", "panic: out of shirts",
            "DB_PASSWORD=***", "version ", "== descriptors", "no-such.service",
        ):  # fmt: skip
            assert text in told.stdout, told.stdout
        assert "hunter2" not in told.stdout
        found = json.loads(daemon.run("explain", "1", "--json").stdout)
        (action,) = found["actions"]
        assert (action["outcome"], action["mode"], action["version"]) == ("done", "auto", found["rule"]["version"])
        assert found["rule"]["text"]["budget"] == {"max": 4}
        by_run = json.loads(daemon.run("explain", action["run_id"], "--json").stdout)
        assert by_run["incident"]["number"] == 1
        assert by_run["run"]["started_by"] == "rule:probe:shop"
        assert daemon.run("explain", "77").returncode == 10
        assert daemon.run("explain", "nonsense").returncode == 10
        wide = daemon.run("explain", "1")
        assert max(map(len, wide.stdout.splitlines())) < 400


def test_a_plan_is_told_and_nothing_is_done(tmp_path: Path, server: Server) -> None:
    with running(tmp_path, server.config(mode="plan")) as daemon:
        healthy(daemon)
        server.kill()
        note = wait_until(
            lambda: [
                note
                for one in daemon.get("/api/v1/incidents")["items"]
                for note in incident(daemon, one["number"])["timeline"]
                if note["kind"] == "planned"
            ],
            within_s=60,
            what="the plan",
        )[0]
        assert "would restart the shop for shop" in note["text"]
        server.start()
        resolved(daemon)
        assert server.lines == []
        assert "planned: would restart the shop" in daemon.run("explain", "1").stdout


def test_an_approval_is_asked_for_and_given_by_the_command_line(tmp_path: Path, server: Server) -> None:
    with running(tmp_path, server.config(mode="approve")) as daemon:
        healthy(daemon)
        server.kill()
        action = wait_until(lambda: _action(daemon), within_s=60, what="the question")
        wait_until(lambda: "approval" in daemon.get(f"/api/v1/runs/{action['run_id']}")["waiting_for"], what="it")
        # What it looked like is there before anybody decides.
        assert daemon.get("/api/v1/explain/1")["evidence"]
        assert server.lines == []
        done = daemon.run("run", "approve", action["run_id"], "--comment", "go")
        assert done.returncode == 0, done.stderr
        resolved(daemon)
        assert server.lines == ["#1.1"]


def test_an_approval_that_nobody_needs_any_more_is_withdrawn(tmp_path: Path, server: Server) -> None:
    with running(tmp_path, server.config(mode="approve")) as daemon:
        healthy(daemon)
        server.kill()
        action = wait_until(lambda: _action(daemon), within_s=60, what="the question")
        wait_until(lambda: "approval" in daemon.get(f"/api/v1/runs/{action['run_id']}")["waiting_for"], what="it")
        server.start()
        resolved(daemon)
        wait_until(
            lambda: daemon.get(f"/api/v1/runs/{action['run_id']}")["state"] == "cancelled", what="the withdrawal"
        )
        wait_until(lambda: _action(daemon)["outcome"] == "refused", what="its record")
        assert server.lines == []


def _action(daemon: Daemon) -> Any:
    items = daemon.get("/api/v1/incidents")["items"]
    actions = daemon.get("/api/v1/explain/1")["actions"] if items else []
    return actions[0] if actions else None


def test_what_does_not_help_is_tried_within_its_bounds_and_then_given_up(tmp_path: Path, server: Server) -> None:
    with running(tmp_path, server.config(run=f"echo tried >> {server.acts}; false")) as daemon:
        healthy(daemon)
        server.kill()
        wait_until(
            lambda: _action(daemon) and "gave up" in [note["kind"] for note in incident(daemon)["timeline"]],
            within_s=60,
            what="giving up",
        )
        assert server.lines == ["tried", "tried"]
        assert "all has been tried for shop" in daemon.run("explain", "1").stdout


def test_an_action_happens_once_whenever_the_daemon_is_killed(tmp_path: Path, server: Server) -> None:
    """Killed at instants from the fall of the server on: between the decision and the action above all."""
    chance = random.Random(7)
    daemon = Daemon(tmp_path, server.config(most=40, attempts=10, more="engine: {grace: 1s}"))
    try:
        daemon.start()
        healthy(daemon)
        for turn in range(5):
            server.kill()
            time.sleep(0.25 + chance.random() * 0.6)
            daemon.stop(signal.SIGKILL)
            daemon.start()
            healthy(daemon)
            lines = server.lines
            assert len(lines) == len(set(lines)), f"turn {turn}: {lines}"
        _check_once(daemon, server)
    finally:
        daemon.close()


def _check_once(daemon: Daemon, server: Server) -> None:
    """Compare what was done with what was decided: an action has one run at most, and none without a claim."""
    with sqlite3.connect(f"file:{daemon.data / 'state.db'}?mode=ro", uri=True) as database:
        actions = database.execute("SELECT action_key, number, run_id, outcome FROM remedy_actions").fetchall()
        runs = database.execute("SELECT run_id, start_key FROM runs").fetchall()
        claims = {row[0] for row in database.execute("SELECT claim_key FROM budget_claims")}
    database.close()
    started = [row for row in actions if row[2]]
    assert len({row[2] for row in started}) == len(started)
    assert {(row[2], row[0]) for row in started} == set(runs)
    assert {row[0] for row in started} <= claims
    assert len(server.lines) <= len(started)
    # Every incident ended, as the server was well again each time.
    states = {one["number"]: one["state"] for one in daemon.get("/api/v1/incidents")["items"]}
    assert set(states.values()) <= {"resolved", "open"}
