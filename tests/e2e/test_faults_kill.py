"""kill -9 under load: what was announced or acknowledged is there, at most a second of results is not."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.faulty import Flipping, Listener, Peers, Pinger, assert_kept, copied_store
from tests.e2e.running import Daemon, wait_until

from dogwatch.store import read

FLIPPING, STEADY, DOWN = 180, 10, 10
HEARTBEATS = ("beat-0", "beat-1", "beat-2")
# A batch waits up to 1 s; the commit itself, and the answer's way from the server to the watch, take a little more.
MAY_BE_LOST_S = 1.0 + 0.6


def configuration(port: int) -> str:
    lines = ["store: {pings_per_target: 100000}", "probes:"]
    for number in range(FLIPPING):
        every = ("500ms", "700ms", "1s")[number % 3]
        lines.append(
            f"  - {{name: flip-{number}, http: 'http://127.0.0.1:{port}/flip-{number}', every: {every}, "
            "timeout: 500ms, failures: 1, successes: 1}"
        )
    for number in range(STEADY):
        lines.append(f"  - {{name: steady-{number}, http: 'http://127.0.0.1:{port}/steady-{number}', every: 500ms, "
                     "timeout: 500ms, successes: 1}")  # fmt: skip
    for number in range(DOWN):
        lines.append(f"  - {{name: down-{number}, tcp: '127.0.0.1:1', every: 500ms, timeout: 400ms, failures: 2}}")
    for name in HEARTBEATS:
        lines.append(f"  - {{name: {name}, heartbeat: {{period: 1h, grace: 1h}}}}")
    return "\n".join(lines) + "\n"


def results_of(daemon: Daemon, name: str) -> list[float]:
    """Return the times of all kept results, newest first."""
    page = daemon.get(f"/api/v1/targets/{name}/results?limit=500")
    assert page["next_cursor"] == ""
    return [one["time_s"] for one in page["items"]]


def assert_little_lost(daemon: Daemon, answered: Mapping[str, list[float]], lives: list[tuple[float, float]]) -> None:
    """All answers that were given more than MAY_BE_LOST_S before each kill are results in the store."""
    for number in range(0, FLIPPING, 7):
        name = f"flip-{number}"
        kept = sorted(results_of(daemon, name))
        for began_s, killed_s in lives:
            least = sum(began_s <= at_s < killed_s - MAY_BE_LOST_S for at_s in answered[name])
            there = sum(began_s <= at_s < killed_s + 0.1 for at_s in kept)
            assert there >= least, f"{name}: {least} answers long before the kill, {there} results"


def assert_whole(daemon: Daemon, folder: Path, acknowledged: list[tuple[str, str]]) -> None:
    """Look at what the killed process left, before anything mends it."""
    with copied_store(daemon, folder) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept: defaultdict[str, list[str]] = defaultdict(list)
        for name in HEARTBEATS:
            kept[name] = [ping.body for ping in read.pings(connection, name, 1_000_000)]
        for name, text in acknowledged:
            assert kept[name].count(text) == 1, (
                f"{name}: '{text}' was acknowledged and is kept {kept[name].count(text)}×"
            )


def states_of(daemon: Daemon) -> dict[str, tuple[str, float]]:
    found: dict[str, tuple[str, float]] = {}
    cursor = ""
    while True:
        page: dict[str, Any] = daemon.get(f"/api/v1/targets?limit=500{cursor}")
        found |= {one["name"]: (one["status"], one["since_s"]) for one in page["items"]}
        if not page["next_cursor"]:
            return found
        cursor = f"&cursor={page['next_cursor']}"


def test_kill_under_load_loses_no_transition_and_no_ping(tmp_path: Path) -> None:
    chance = random.Random(20)
    flipping = Flipping(run=2)
    with Peers() as peers:
        daemon = Daemon(tmp_path, configuration(peers.protocol(flipping)))
        lives: list[tuple[float, float]] = []
        try:
            daemon.start()
            began_s = time.time()
            with Listener(daemon.port) as listener, Pinger(daemon.port, HEARTBEATS) as pinger:
                assert listener.connected.wait(10)
                wait_until(lambda: states_of(daemon)["down-3"][0] == "down", what="down")
                wait_until(lambda: all(states_of(daemon)[f"down-{n}"][0] == "down" for n in range(DOWN)))
                wait_until(lambda: all(states_of(daemon)[f"steady-{n}"][0] == "up" for n in range(STEADY)))
                before = states_of(daemon)
                for number in range(4):
                    told = len(listener.announced)
                    time.sleep(chance.uniform(0.8, 2.2))
                    assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
                    lives.append((began_s, time.time()))
                    assert len(listener.announced) - told > 20, "too quiet to show anything"
                    assert_whole(daemon, tmp_path / f"copy-{number}", list(pinger.acknowledged))
                    daemon.start()
                    began_s = time.time()
                    after = states_of(daemon)
                    for name, state in before.items():
                        if name.startswith(("down", "steady")):
                            assert after[name] == state, name
                    assert listener.connected.wait(10)
            assert_little_lost(daemon, flipping.answered, lives)
            assert_kept(daemon, listener.announced)
            assert len(listener.announced) > 200
            assert len(pinger.acknowledged) > 60
            for name in ("down-3", "steady-3"):
                assert sum(one[0] == name for one in listener.announced) <= 1, "announced anew after a restart"
            assert "Traceback" not in daemon.output()
            assert daemon.stop() == 143
            assert_whole(daemon, tmp_path / "copy-at-the-end", pinger.acknowledged)
        finally:
            daemon.close()


@pytest.mark.parametrize("seed", range(2))
def test_kill_during_start_and_stop(tmp_path: Path, seed: int) -> None:
    """Also while it opens, migrates, restores or flushes, a kill leaves a store that the next start accepts."""
    chance = random.Random(seed)
    flipping = Flipping(run=1)
    with Peers() as peers:
        daemon = Daemon(tmp_path, configuration(peers.protocol(flipping)))
        try:
            for _ in range(3):
                daemon.spawn()
                assert daemon.process is not None
                time.sleep(chance.uniform(0.2, 1.6))
                daemon.process.kill()
                daemon.process.wait()
            daemon.start()
            time.sleep(1.2)
            assert daemon.process is not None
            daemon.process.terminate()
            time.sleep(chance.uniform(0.0, 0.3))
            daemon.process.kill()
            daemon.process.wait()
            daemon.start()
            kept = daemon.get("/api/v1/transitions?limit=500")["items"]
            assert kept
            assert "Traceback" not in daemon.output()
        finally:
            daemon.close()
