"""A freeze over deployments in a real daemon: the deployment waits, everything else goes on, and its end lets it go."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.running import running, wait_until

CONFIG = """
jobs:
  - {{name: deploy, deployment: true, labels: {{team: shop}}, steps: [{{name: go, exec: "echo deployed >> {done}"}}]}}
  - {{name: tidy, steps: [{{name: go, exec: "echo tidied >> {done}"}}]}}
"""


def test_a_deployment_waits_for_the_end_of_a_freeze(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with running(tmp_path, CONFIG.format(done=done)) as daemon:
        made = daemon.run(
            "maintenance", "add", "sale", "--deployment", "dep*", "--label", "team=shop", "--for", "2h", "--json"
        )
        assert made.returncode == 0, made.stderr
        window = json.loads(made.stdout)
        assert (window["state"], window["deployments"]) == ("on", ["dep*"])
        run_id = json.loads(daemon.run("job", "run", "deploy", "--json").stdout)["run_id"]
        assert daemon.run("job", "run", "tidy", "--follow").returncode == 0
        shown = wait_until(
            lambda: (one := daemon.get(f"/api/v1/runs/{run_id}"))["waiting_for"] and one, what="the hold"
        )
        assert (shown["state"], shown["waiting_for"]) == ("queued", "freeze sale")
        assert done.read_text() == "tidied\n"
        assert "deploym" in daemon.run("maintenance", "list").stdout
        assert daemon.run("maintenance", "end", window["window_id"]).returncode == 0
        wait_until(lambda: daemon.get(f"/api/v1/runs/{run_id}")["state"] == "succeeded", what="the deployment")
        assert done.read_text() == "tidied\ndeployed\n"
