"""The store's disk is full, or another process holds it: watching goes on, the trouble is shown, then all is well."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.faulty import Flipping, Listener, Peers, assert_kept, metrics, store_file, summed
from tests.e2e.running import Daemon, wait_until

TARGETS = 40


def configuration(port: int, store: str) -> str:
    lines = [f"store: {store}", "probes:", "  - {name: beat, heartbeat: {period: 1h, grace: 1h}}"]
    for number in range(TARGETS):
        lines.append(
            f"  - {{name: flip-{number}, http: 'http://127.0.0.1:{port}/flip-{number}', every: 200ms, timeout: 200ms, "
            "failures: 1, successes: 1}"
        )
    return "\n".join(lines) + "\n"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own of that size."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """Write until nothing goes any more."""
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def asked(daemon: Daemon) -> float:
    return summed(metrics(daemon), "dogwatch_probe_results_total")


def assert_watching_goes_on(daemon: Daemon, seconds: float) -> None:
    """Results keep coming at their rate, and the API answers quickly meanwhile."""
    at_s, count = time.monotonic(), asked(daemon)
    slowest_s = 0.0
    while time.monotonic() - at_s < seconds:
        started_s = time.monotonic()
        assert daemon.request("GET", "/healthz") == (200, b"ok\n")
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        time.sleep(0.05)
    rate = (asked(daemon) - count) / (time.monotonic() - at_s)
    assert rate > 0.7 * TARGETS / 0.2, f"only {rate:.0f} results/s"
    assert slowest_s < 3.0
    newest = max(one["last_time_s"] for one in daemon.get("/api/v1/targets?limit=100")["items"] if one["last_time_s"])
    assert time.time() - newest < 3.0


def assert_trouble_is_shown(daemon: Daemon, words: str) -> None:
    assert words in daemon.get("/api/v1/status")["store_trouble"]
    assert metrics(daemon)["dogwatch_store_trouble"] == 1
    page = daemon.request("GET", "/")[1].decode()
    assert "History is not being kept" in page
    assert words in page
    ready = daemon.get("/readyz")
    assert ready["ready"] is True, "nothing else would watch instead"
    assert any(words in check["message"] for check in ready["checks"])
    shown = daemon.run("status")
    assert words in shown.stdout + shown.stderr
    assert "Traceback" not in shown.stderr
    status, said = daemon.request("POST", "/ping/beat", b"while it could not be kept")
    assert status == 503
    assert words.encode() in said


def test_full_disk_is_shown_survived_and_recovered_from(tmp_path: Path) -> None:
    flipping = Flipping(run=3)
    with Peers() as peers, small_disk(tmp_path / "data", "16m") as disk:
        port = peers.protocol(flipping)
        daemon = Daemon(tmp_path, configuration(port, "{batch: 200ms, buffer_rows: 1000}"))
        try:
            daemon.start()
            with Listener(daemon.port) as listener:
                assert listener.connected.wait(10)
                wait_until(lambda: len(listener.announced) > 20, what="transitions")
                assert metrics(daemon)["dogwatch_store_trouble"] == 0
                fill(disk / "somebody-else")
                wait_until(lambda: daemon.get("/api/v1/status")["store_trouble"], within_s=60, what="trouble")
                outage_s = time.time()
                wait_until(
                    lambda: metrics(daemon)['dogwatch_store_rows_lost_total{table="results"}'] > 0,
                    within_s=60,
                    what="a counted loss",
                )
                assert_watching_goes_on(daemon, 2.0)
                assert_trouble_is_shown(daemon, "full")
                during = [one for one in listener.announced if one[1] > outage_s]
                assert len(during) > 20, "transitions are announced during the outage"
                (disk / "somebody-else").unlink()
                # A loss is told until the end of the round of 10 s after the one in which it happened.
                wait_until(lambda: not daemon.get("/api/v1/status")["store_trouble"], within_s=60, what="recovery")
                time.sleep(0.5)  # a batch of the outage may still be on its way
                lost = metrics(daemon)['dogwatch_store_rows_lost_total{table="results"}']
                assert daemon.request("POST", "/ping/beat", b"again")[0] == 200
                # The loss of the newest ten seconds is told of for ten more.
                wait_until(
                    lambda: "History is not being kept" not in daemon.request("GET", "/")[1].decode(),
                    within_s=60,
                    what="a page without trouble",
                )
                time.sleep(0.5)
                assert metrics(daemon)['dogwatch_store_rows_lost_total{table="results"}'] == lost
                assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
            assert "Traceback" not in daemon.output()
            daemon.start()
            assert_kept(daemon, listener.announced)
            assert daemon.stop() == 143
        finally:
            daemon.close()


def test_a_daemon_on_a_full_disk_says_so_in_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "data", "256k") as disk:
        fill(disk / "somebody-else")
        daemon = Daemon(tmp_path, "probes: []\n")
        try:
            daemon.spawn()
            assert daemon.process is not None
            assert daemon.process.wait(60) in (1, 13)
            assert "Traceback" not in daemon.output()
            assert "full" in daemon.output() or "No space" in daemon.output()
        finally:
            daemon.close()


def test_store_locked_by_another_process(tmp_path: Path) -> None:
    flipping = Flipping(run=3)
    with Peers() as peers:
        port = peers.protocol(flipping)
        daemon = Daemon(tmp_path, configuration(port, "{batch: 500ms}"))
        try:
            daemon.start()
            with Listener(daemon.port) as listener:
                assert listener.connected.wait(10)
                wait_until(lambda: len(listener.announced) > 20, what="transitions")
                other = sqlite3.connect(store_file(daemon), isolation_level=None)
                other.execute("BEGIN EXCLUSIVE")
                locked_s = time.time()
                try:
                    wait_until(lambda: daemon.get("/api/v1/status")["store_trouble"], what="trouble")
                    assert_watching_goes_on(daemon, 3.0)
                    assert_trouble_is_shown(daemon, "locked")
                finally:
                    other.execute("ROLLBACK")
                    other.close()
                freed_s = time.time()
                wait_until(lambda: not daemon.get("/api/v1/status")["store_trouble"], what="recovery")
                assert daemon.request("POST", "/ping/beat", b"again")[0] == 200
                found = metrics(daemon)
                assert found['dogwatch_store_rows_lost_total{table="results"}'] == 0
                assert found["dogwatch_store_commit_failures_total"] >= 1
                assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
            during = [one for one in listener.announced if locked_s < one[1] < freed_s]
            assert len(during) > 20
            assert "Traceback" not in daemon.output()
            daemon.start()
            assert_kept(daemon, listener.announced)
            for number in range(0, TARGETS, 10):
                name = f"flip-{number}"
                kept = daemon.get(f"/api/v1/targets/{name}/results?limit=500")["items"]
                there = sum(locked_s < one["time_s"] < freed_s for one in kept)
                answers = sum(locked_s < at_s < freed_s for at_s in flipping.answered[name])
                assert there >= answers - 2, "what waited for the lock was written"
            assert daemon.stop() == 143
        finally:
            daemon.close()
