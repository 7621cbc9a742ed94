"""Minutes of everything at once; at the end the daemon holds what it held at the start. Only in `make soak`."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from tests.e2e.faulty import Flipping, Listener, Peers, descriptors, metrics, resident_mib, summed, tasks, threads
from tests.e2e.running import Daemon, wait_until

SECONDS = float(os.environ.get("SOAK_SECONDS", "300"))
PROBES = 500


def configuration(port: int, probes: int, every_ms: int = 1000) -> str:
    lines = ["self_watch: {every: 1s, growth_window: 2m, settle: 10s}", "probes:"]
    for number in range(probes):
        name = f"steady-{number}" if number % 5 else f"flip-{number}"
        lines.append(
            f"  - {{name: {name}, http: 'http://127.0.0.1:{port}/{name}', every: {every_ms}ms, timeout: 500ms, "
            "failures: 2, successes: 1}"
        )
    return "\n".join(lines) + "\n"


class Figures:
    """What the daemon holds when it is left alone for a moment."""

    def __init__(self, daemon: Daemon) -> None:
        time.sleep(3.0)
        samples = []
        for _ in range(10):
            samples.append((descriptors(daemon.pid), tasks(daemon), threads(daemon.pid)))
            time.sleep(0.2)
        # The least of several looks: attempts come and go.
        self.descriptors, self.tasks, self.threads = (min(column) for column in zip(*samples, strict=True))
        self.mib = resident_mib(daemon.pid)

    def __repr__(self) -> str:
        return f"{self.descriptors} descriptors, {self.tasks} tasks, {self.threads} threads, {self.mib:.0f} MiB"


def disturb(daemon: Daemon, chance: random.Random, port: int) -> None:
    """Do one of the things that happen to a daemon."""
    what = chance.randrange(5)
    if what == 0:
        daemon.config.write_text(configuration(port, PROBES - chance.randrange(200), chance.choice((700, 1000))))
    elif what == 1:
        daemon.config.write_text("probes: [" + "x" * chance.randrange(100))
    elif what == 2:
        name = f"steady-{chance.randrange(1, 250)}"
        for action in ("pause", "resume"):
            daemon.request("POST", f"/api/v1/targets/{name}/{action}", b"{}")
    elif what == 3:
        os.kill(daemon.pid, signal.SIGHUP)
    else:
        for path in ("/", "/metrics", "/api/v1/targets?limit=500", "/api/v1/targets/steady-1/history?range=24h"):
            daemon.request("GET", path)


@pytest.mark.soak
@pytest.mark.serial
@pytest.mark.timeout(int(SECONDS) * 2 + 120)
@pytest.mark.parametrize("restarts", [False, True], ids=["one process life", "with restarts"])
def test_nothing_grows(tmp_path: Path, restarts: bool) -> None:
    chance = random.Random(7)
    with Peers() as peers:
        port = peers.protocol(Flipping(run=4))
        daemon = Daemon(tmp_path, configuration(port, PROBES))
        try:
            daemon.start()
            pid = daemon.pid
            # Caches and pools fill once: the start is what it holds after a first round.
            for _ in range(8):
                disturb(daemon, chance, port)
            daemon.config.write_text(configuration(port, PROBES))
            start = Figures(daemon)
            end_s = time.monotonic() + SECONDS
            restarted_s = time.monotonic()
            while time.monotonic() < end_s:
                with contextlib.ExitStack() as listeners:
                    for _ in range(chance.randrange(1, 12)):
                        topics = chance.choice(("result", "transition", "result,transition,sample"))
                        listeners.enter_context(Listener(daemon.port, topics))
                    for _ in range(chance.randrange(1, 5)):
                        disturb(daemon, chance, port)
                        time.sleep(chance.uniform(0.2, 1.0))
                if restarts and time.monotonic() - restarted_s > 15:
                    daemon.config.write_text(configuration(port, PROBES))
                    before = daemon.output().count("Dogwatch ")
                    os.kill(pid, signal.SIGUSR2)
                    wait_until(lambda n=before: daemon.output().count("Dogwatch ") > n, within_s=60, what="the restart")
                    restarted_s = time.monotonic()
            daemon.config.write_text(configuration(port, PROBES))
            wait_until(lambda: daemon.get("/api/v1/status")["reload"]["outcome"] != "failed", what="a good reload")
            end = Figures(daemon)
            told = f"from {start} to {end}"
            assert end.descriptors <= start.descriptors + 15, told
            assert end.tasks <= start.tasks + 15, told
            assert end.threads <= start.threads + 4, told
            assert end.mib <= start.mib * 1.25 + 10, told
            assert not [
                one for one in daemon.get("/api/v1/findings")["items"] if str(one["key"]).startswith("growth")
            ], told
            found = metrics(daemon)
            assert summed(found, "dogwatch_store_rows_lost_total") == 0
            assert "Traceback" not in daemon.output()
            assert daemon.stop() == 143
        finally:
            daemon.close()
