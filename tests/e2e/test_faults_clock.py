"""The wall clock is set a year ahead, back again, and an hour back, under a running daemon."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.faulty import Flipping, Peers, metrics, summed
from tests.e2e.running import Daemon, wait_until

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
TARGETS, EVERY_S = 20, 0.25
YEAR_S, HOUR_S = 31_536_000.0, 3600.0
# The store looks after its tables every 10 s; only after that is it shown that it deleted nothing.
HOUSEKEEPING_S = 11.0


class FakedDaemon(Daemon):
    """A daemon whose wall clock is off by what a file says; the monotonic clock is the real one."""

    def __init__(self, folder: Path, config: str) -> None:
        self.offset_file = folder / "offset"
        self.offset_s = 0.0
        env = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.offset_file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        super().__init__(folder, config, env=env)
        self.set_clock(0.0)

    def set_clock(self, offset_s: float) -> None:
        self.offset_s = offset_s
        # Replaced and not rewritten: a half-written file would be another jump.
        new = self.offset_file.with_suffix(".new")
        new.write_text(f"{offset_s:+.0f}\n")
        new.replace(self.offset_file)

    def now_s(self) -> float:
        return time.time() + self.offset_s


def configuration(port: int) -> str:
    lines = ["probes:", "  - {name: beat, heartbeat: {period: 2h, grace: 1h}}"]
    for number in range(TARGETS):
        lines.append(
            f"  - {{name: steady-{number}, http: 'http://127.0.0.1:{port}/steady-{number}', every: 250ms, "
            "timeout: 200ms, successes: 1, failures: 20}"
        )
    lines.append("  - {name: nobody, tcp: '127.0.0.1:1', every: 250ms, timeout: 200ms, failures: 1}")
    return "\n".join(lines) + "\n"


def states_of(daemon: Daemon) -> dict[str, tuple[str, int]]:
    items = daemon.get("/api/v1/targets?limit=100")["items"]
    return {one["name"]: (one["status"], round(one["since_s"])) for one in items}


def assert_steady(flipping: Flipping, since_s: float) -> None:
    """Every target was asked at its rate since then: no gap, no burst. Wide enough for a machine that is busy."""
    now_s = time.time()
    expected = (now_s - since_s) / EVERY_S
    total = 0
    for name, times in flipping.answered.items():
        during = [at_s for at_s in list(times) if at_s >= since_s]
        total += len(during)
        assert len(during) <= expected + 5, f"{name}: {len(during)} attempts, not {expected:.0f}"
        gaps = [later - earlier for earlier, later in pairwise(during)]
        assert max(gaps) < 5.0, f"{name}: a gap of {max(gaps):.2f} s"
        for at_s in during:
            burst = sum(at_s <= other_s < at_s + 1.0 for other_s in during)
            assert burst <= 2 / EVERY_S + 2, f"{name}: {burst} attempts within a second"
    assert total > 0.6 * TARGETS * expected, f"{total} attempts, not {TARGETS * expected:.0f}"


def recorded(daemon: FakedDaemon, first_s: float, what: str = "count") -> int:
    """Return how many results (or failures) about a time are kept."""
    shown = daemon.get(f"/api/v1/targets/steady-1/history?since_s={first_s - 60}&until_s={first_s + 300}")
    return sum(point[what] for point in shown["points"])


def assert_answers(daemon: FakedDaemon, first_s: float) -> None:
    """API, page, charts and availability answer, and what was recorded before is there."""
    for path in ("/", "/metrics", "/api/v1/status", "/api/v1/hosts", "/targets/steady-1", "/badge/steady-1.svg"):
        status, body = daemon.request("GET", path)
        assert status == 200, (path, body)
    for span in ("1h", "24h", "7d", "30d"):
        assert daemon.request("GET", f"/api/v1/targets/steady-1/history?range={span}")[0] == 200
    assert recorded(daemon, first_s) >= 4, "history from before the jump is gone"
    assert not recorded(daemon, first_s, "failures")
    for period in daemon.get("/api/v1/targets/steady-1/availability")["periods"].values():
        assert period["ratio"] in (None, 1.0)
        assert_sane(period)
    for period in daemon.get("/api/v1/targets/nobody/availability")["periods"].values():
        assert period["ratio"] in (None, 0.0)
        assert_sane(period)


def assert_sane(period: dict[str, Any]) -> None:
    for name, value in period.items():
        if name.endswith("_s") and name not in ("since_s", "until_s"):
            assert value is None or 0 <= value <= 31 * 86400, (name, value)


@pytest.mark.skipif(LIBRARY is None, reason="Debian's faketime is not installed")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="LD_PRELOAD is taken")
def test_clock_jumps(tmp_path: Path) -> None:
    flipping = Flipping()
    with Peers() as peers:
        daemon = FakedDaemon(tmp_path, configuration(peers.protocol(flipping)))
        try:
            daemon.start()
            wait_until(lambda: all(states_of(daemon)[f"steady-{n}"][0] == "up" for n in range(TARGETS)))
            wait_until(lambda: states_of(daemon)["nobody"][0] == "down")
            assert daemon.request("POST", "/ping/beat", b"")[0] == 200
            wait_until(lambda: states_of(daemon)["beat"][0] == "up")
            first_s = time.time()
            time.sleep(2.0)
            before, loops = states_of(daemon), metrics(daemon)
            told = daemon.get("/api/v1/transitions?limit=500")["items"]
            jumps = ((YEAR_S, HOUSEKEEPING_S), (0.0, 2.0), (-HOUR_S, 2.0), (-YEAR_S, 2.0), (60.0, 2.0))
            for offset_s, seconds in jumps:
                daemon.set_clock(offset_s)
                jumped_s = time.time()
                wait_until(lambda: abs(daemon.get("/api/v1/status")["time_s"] - daemon.now_s()) < 5, what="the jump")
                time.sleep(seconds)
                assert_steady(flipping, jumped_s)
                assert_answers(daemon, first_s)
                assert states_of(daemon) == before, f"a clock off by {offset_s:.0f} s changed a status"
                found = metrics(daemon)
                stalled = "dogwatch_watch_stalled_seconds_total"
                assert found[stalled] - loops[stalled] < 10, "the schedule looks at the wall clock"
                assert summed(found, "dogwatch_store_rows_lost_total") == 0
            assert daemon.get("/api/v1/transitions?limit=500")["items"] == told
            assert "Traceback" not in daemon.output()
        finally:
            daemon.close()


@pytest.mark.skipif(LIBRARY is None, reason="Debian's faketime is not installed")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="LD_PRELOAD is taken")
@pytest.mark.parametrize("offset_s", [YEAR_S, -YEAR_S])
def test_a_start_with_a_wrong_clock_deletes_nothing(tmp_path: Path, offset_s: float) -> None:
    flipping = Flipping()
    with Peers() as peers:
        daemon = FakedDaemon(tmp_path, configuration(peers.protocol(flipping)))
        try:
            daemon.start()
            wait_until(lambda: states_of(daemon)["steady-1"][0] == "up")
            wait_until(lambda: states_of(daemon)["nobody"][0] == "down")
            first_s = time.time()
            wait_until(lambda: recorded(daemon, first_s) >= 10, what="history")
            before = states_of(daemon)["nobody"]
            assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
            daemon.set_clock(offset_s)
            daemon.start()
            assert states_of(daemon)["nobody"] == before
            started_s = time.time()
            time.sleep(HOUSEKEEPING_S)
            assert_steady(flipping, started_s)
            assert_answers(daemon, first_s)
            assert states_of(daemon)["nobody"] == before
            assert daemon.stop() == 143
            daemon.set_clock(0.0)
            daemon.start()
            assert_answers(daemon, first_s)
            assert states_of(daemon)["nobody"] == before
            assert "Traceback" not in daemon.output()
        finally:
            daemon.close()
