"""The disk of the state is full while runs are at work: nothing is lost, nothing is done twice, and it is said."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.e2e.running import Daemon, wait_until, written
from tests.e2e.test_faults_store import fill, small_disk
from tests.e2e.test_runs import in_state, started, step_in

CONFIG = """

jobs:
  - name: hello
    steps: [{name: greet, exec: {run: "echo hello"}}]
  - name: careful
    steps:
      - {name: ask, approve: {message: "Go on?"}}
      - {name: go, exec: {run: 'echo gone >> "@EFFECTS@"'}}
  - name: long
    steps:
      - name: work
        exec:
          run: |
            echo begun >> "@EFFECTS@"
            while ! test -e "@EFFECTS@.end"; do sleep 0.05; done
            echo worked >> "@EFFECTS@"
      - {name: after, exec: {run: 'echo after >> "@EFFECTS@"'}}
hooks:
  - {name: shop, job: hello, none: {unsafe: true}}
"""


def test_runs_outlive_a_full_disk(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    with small_disk(tmp_path / "disk", "24m") as disk:
        daemon = Daemon(tmp_path, CONFIG.replace("@EFFECTS@", str(effects)))
        daemon.data = disk / "data"
        try:
            _outlive(daemon.start(), disk, effects)
        finally:
            daemon.close()


def _outlive(daemon: Daemon, disk: Path, effects: Path) -> None:
    asks, works = started(daemon, "careful"), started(daemon, "long")
    step_in(daemon, asks, "ask", "waiting")
    wait_until(lambda: written(effects), what="the step's beginning")
    fill(disk / "filler")
    refused = daemon.run("job", "run", "hello")
    assert refused.returncode == 1, refused
    assert "disk" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert daemon.run("run", "approve", asks).returncode == 1
    assert daemon.request("POST", "/hooks/shop", b"{}")[0] == 503
    # What a step did while nothing can be written is neither forgotten nor done again.
    Path(f"{effects}.end").touch()
    wait_until(lambda: "worked" in effects.read_text(), what="the step's end")
    time.sleep(1.0)  # the worker tries to write it meanwhile
    (disk / "filler").unlink()
    in_state(daemon, works, "succeeded")
    step_in(daemon, asks, "ask", "waiting")
    assert daemon.run("run", "approve", asks).returncode == 0
    in_state(daemon, asks, "succeeded")
    assert effects.read_text().split() == ["begun", "worked", "after", "gone"]
    assert daemon.request("POST", "/hooks/shop", b"{}")[0] == 202
    assert daemon.run("job", "run", "hello", "--wait").returncode == 0
    runs = json.loads(daemon.run("run", "list", "--json").stdout)
    assert sorted(one["job"] for one in runs) == ["careful", "hello", "hello", "long"]
    assert daemon.run("audit", "verify").returncode == 0
