"""The daemon's life: start, reload, restart under load, refusals, stop."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.running import Daemon, running, wait_until

CONFIG = """
probes:
  - name: itself
    tcp: "127.0.0.1:{port}"
    every: 500ms
    timeout: 400ms
    successes: 1
  - name: nobody
    tcp: "127.0.0.1:1"
    every: 500ms
    timeout: 400ms
    failures: 2
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, "")
    daemon.config.write_text(CONFIG.format(port=daemon.port))
    try:
        yield daemon.start()
    finally:
        daemon.close()


def status_of(daemon: Daemon, name: str) -> str:
    return str(daemon.target(name)["status"])


def test_watches_shows_and_stops(daemon: Daemon) -> None:
    wait_until(lambda: status_of(daemon, "itself") == "up")
    wait_until(lambda: status_of(daemon, "nobody") == "down")
    shown = daemon.run("status", "--exit-code")
    assert shown.returncode == 1
    assert "nobody" in shown.stdout
    # In 80 columns, less whatever the times need, the end may be cut.
    assert "cannot connect to 127.0.0.1" in shown.stdout
    metrics = daemon.request("GET", "/metrics")[1].decode()
    assert 'probe_success{target="itself"' in metrics
    assert "node_load1 " in metrics
    assert "dogwatch_build_info" in metrics
    assert daemon.stop() == 143
    assert not (daemon.data / "admin.sock").exists()


def test_interrupt_has_its_own_exit_code(daemon: Daemon) -> None:
    assert daemon.stop(signal.SIGINT) == 130


def test_debug_commands_answer(daemon: Daemon) -> None:
    for what in ("tasks", "fds", "threads", "heap", "version"):
        shown = daemon.run("debug", what)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.strip()
        assert json.loads(daemon.run("debug", what, "--json").stdout)
    assert "Supervisor.run" in daemon.run("debug", "tasks").stdout
    assert daemon.run("debug", "profile", "--seconds", "0.3").returncode == 0


def test_a_bad_configuration_changes_nothing_and_is_reported_until_mended(daemon: Daemon) -> None:
    wait_until(lambda: status_of(daemon, "itself") == "up")
    good = daemon.config.read_text()
    daemon.config.write_text(good + "  - name: new\n    tpc: db:1\n    evry: 5s\n")
    failed = wait_until(lambda: [r for r in daemon.get("/api/v1/reloads")["items"] if r["outcome"] == "failed"])
    assert len(failed[0]["problems"]) >= 2
    assert f"{daemon.config}:" in failed[0]["problems"][0]
    assert status_of(daemon, "itself") == "up"
    shown = daemon.run("reload", "status")
    assert shown.returncode == 1
    assert "did you mean" in shown.stdout
    daemon.config.write_text(good + '  - name: new\n    tcp: "127.0.0.1:1"\n')
    wait_until(lambda: daemon.request("GET", "/api/v1/targets/new")[0] == 200)
    assert daemon.run("reload", "status").returncode == 0


def test_reload_by_signal_keeps_state_of_what_did_not_change(daemon: Daemon) -> None:
    wait_until(lambda: status_of(daemon, "nobody") == "down")
    since = daemon.target("nobody")["since_s"]
    daemon.config.write_text(daemon.config.read_text() + '  - name: new\n    tcp: "127.0.0.1:1"\n')
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: daemon.request("GET", "/api/v1/targets/new")[0] == 200)
    assert daemon.target("nobody")["since_s"] == since


def test_a_pause_outlives_a_kill(daemon: Daemon) -> None:
    assert daemon.run("probe", "pause", "itself").returncode == 0
    wait_until(lambda: status_of(daemon, "nobody") == "down")
    since = daemon.target("nobody")["since_s"]
    assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    daemon.start()
    assert status_of(daemon, "itself") == "paused"
    assert status_of(daemon, "nobody") == "down"
    assert daemon.target("nobody")["since_s"] == since
    assert daemon.run("probe", "resume", "itself").returncode == 0
    wait_until(lambda: status_of(daemon, "itself") == "up")


def test_a_second_daemon_on_the_same_store_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    second = daemon.run("up", "-c", str(daemon.config), "--data", str(daemon.data), "--listen", "127.0.0.1:0")
    assert second.returncode == 11
    assert str(daemon.pid) in second.stderr
    assert "Traceback" not in second.stderr
    assert daemon.request("GET", "/healthz")[0] == 200


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    with running(tmp_path, "probes: []\n") as daemon:
        store = next(daemon.data.glob("*.sqlite"))
        daemon.stop()
    with sqlite3.connect(store) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    before = store.read_bytes()
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(60) == 11
    assert "newer" in daemon.output()
    assert "Traceback" not in daemon.output()
    assert store.read_bytes() == before


def test_the_port_in_use_is_one_clear_sentence(daemon: Daemon, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shown = daemon.run("up", "-c", str(daemon.config), "--data", str(other), "--listen", f"127.0.0.1:{daemon.port}")
    assert shown.returncode == 1
    assert "address already in use" in shown.stderr
    assert "Traceback" not in shown.stderr


class Load:
    """Requests from several threads, each on a new connection, until stopped."""

    def __init__(self, port: int, threads: int = 6) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            try:
                connection.request("GET", "/healthz")
                answer = str(connection.getresponse().status)
            except OSError as error:
                answer = repr(error)
            finally:
                connection.close()
            self.answers[answer] += 1


@pytest.mark.serial
def test_restart_under_load_fails_no_request(daemon: Daemon) -> None:
    pid = daemon.pid
    with Load(daemon.port) as load:
        for _ in range(3):
            restarts = daemon.output().count("watches 2 targets")
            os.kill(pid, signal.SIGUSR2)
            wait_until(lambda n=restarts: daemon.output().count("watches 2 targets") > n, within_s=60)
            time.sleep(0.3)
    assert set(load.answers) == {"200"}, load.answers
    assert load.answers["200"] > 100
    assert daemon.pid == pid
    assert daemon.stop() == 143


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_signals_in_the_middle_of_a_restart_do_not_end_the_watch(daemon: Daemon, number: signal.Signals) -> None:
    """Their default is to end a process, and each program needs a while until it has handlers of its own."""
    pid = daemon.pid
    restarts = daemon.output().count("watches 2 targets")
    os.kill(pid, signal.SIGUSR2)

    def again() -> bool:
        os.kill(pid, number)
        return daemon.output().count("watches 2 targets") > restarts

    wait_until(again, within_s=60)
    wait_until(lambda: daemon.request("GET", "/healthz")[0] == 200, within_s=60)
    assert daemon.pid == pid
    # Another restart may be under way: a program that only begins to start is ended by the signal itself.
    assert daemon.stop() in (143, -signal.SIGTERM)


def test_a_restart_that_could_not_start_is_refused_and_the_old_goes_on(daemon: Daemon) -> None:
    good = daemon.config.read_text()
    daemon.config.write_text("probes: 3\n")
    os.kill(daemon.pid, signal.SIGUSR2)
    wait_until(lambda: "restart refused" in daemon.output(), within_s=60)
    assert daemon.request("GET", "/healthz")[0] == 200
    daemon.config.write_text(good)
    assert daemon.stop() == 143


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["up", "-c", "/nonexistent.yaml"], 2, "/nonexistent.yaml"),
        (["up", "--listen", "nonsense"], 2, "nonsense"),
        (["up", "--data", "/proc/nowhere"], 1, "/proc/nowhere"),
        (["statu"], 2, "Did you mean 'status'"),
        (["status", "--server", "http://127.0.0.1:1"], 13, "cannot reach the daemon"),
        (["debug", "tasks"], 13, "cannot reach a daemon"),
        (["probe", "run", "gopher://x"], 2, "gopher"),
        (["probe", "show", "--server", "ftp://x", "a"], 2, "not a server address"),
    ],
)
def test_mistakes_have_a_sentence_and_a_code(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    daemon = Daemon(tmp_path, "probes: []\n")
    if arguments[0] == "up" and "-c" not in arguments:
        arguments = [*arguments, "-c", str(daemon.config)]
    shown = daemon.run(*arguments)
    assert shown.returncode == code, shown
    assert says in shown.stderr
    assert "Traceback" not in shown.stderr
