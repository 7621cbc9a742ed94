"""Schedules as a person meets them: a real daemon, its commands, kill -9, a reload, a restart."""

from __future__ import annotations

import json
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.e2e.running import Daemon, running, wait_until

CONFIG = """
jobs:
  - name: touch
    steps:
      - {name: one, exec: {run: 'true'}}
schedules:
  - {name: second, job: touch, cron: "* * * * * *", misfire: all}
  - {name: yearly, job: touch, cron: "@yearly"}
"""


def fires(daemon: Daemon, name: str = "second") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = daemon.get(f"/api/v1/schedules/{name}/fires?limit=500")["items"]
    return items


def test_fires_survive_kills_and_reloads(tmp_path: Path) -> None:
    with running(tmp_path, CONFIG) as daemon:
        wait_until(lambda: len(fires(daemon)) >= 2, what="two fires")
        for _ in range(2):
            daemon.stop(signal.SIGKILL)
            daemon.start()
        more = '  - {name: added, job: touch, cron: "*/2 * * * * *"}\n'
        daemon.config.write_text(CONFIG + more)
        assert daemon.run("reload", "now").returncode == 0
        wait_until(lambda: daemon.request("GET", "/api/v1/schedules/added")[0] == 200, what="the reload")
        wait_until(lambda: fires(daemon, "added"), what="a fire of the added schedule")
        known = fires(daemon)
        runs = daemon.get("/api/v1/runs?limit=500&trigger=schedule")["items"]
        keys = [one["key"] for one in runs]
        assert len(keys) == len(set(keys))
        assert {one["run_id"] for one in known} <= {one["run_id"] for one in runs}
        # Every second from the first fire to the last, each once.
        assert {one["state"] for one in known} == {"started"}
        times = sorted(round(one["fire_s"]) for one in known)
        assert times == list(range(times[0], times[-1] + 1))

        paused = daemon.run("schedule", "pause", "second", "--reason", "enough")
        assert (paused.returncode, paused.stdout.startswith("‖ paused  second")) == (0, True)
        assert daemon.stop() == 143
        daemon.start()
        shown = json.loads(daemon.run("schedule", "show", "second", "--json").stdout)
        assert shown["schedule"]["state"] == "paused"
        assert "enough" in shown["schedule"]["reason"]
        started = json.loads(daemon.run("schedule", "run", "yearly", "--json").stdout)
        ended = wait_until(
            lambda: (one := daemon.get(f"/api/v1/runs/{started['run_id']}"))["state"] == "succeeded" and one,
            what="the run",
        )
        assert ended["trigger"]["kind"] == "schedule"
        listed = daemon.run("schedule", "list").stdout
        assert "yearly" in listed
        assert "succeeded" in listed
        assert "dogwatch_schedule_fires_total" in daemon.request("GET", "/metrics")[1].decode()


def test_what_is_wrong_is_told_before_it_runs(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, CONFIG.replace('job: touch, cron: "@yearly"', 'job: tuch, cron: "@yearly"'))
    checked = daemon.run("config", "check", "-c", str(daemon.config))
    assert checked.returncode == 2
    assert "schedules[1].job: unknown job 'tuch'; did you mean 'touch'?" in checked.stderr
    daemon.config.write_text(CONFIG)
    following = daemon.run("schedule", "next", "yearly", "-c", str(daemon.config), "-n", "1", "--after", "2031-06-01")
    assert "2032-01-01 00:00:00+00:00" in following.stdout
    answered = daemon.run("schedule", "next", "yearly", "-c", str(daemon.config), "--json")
    times = [datetime.fromtimestamp(one["time_s"]).astimezone().month for one in json.loads(answered.stdout)]
    assert len(times) == 5
