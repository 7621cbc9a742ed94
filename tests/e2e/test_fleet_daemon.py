"""Commands over the fleet that a daemon carries out: recorded by host, permitted by host, and not lost by kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Daemon, running, wait_until

CONFIG = """
fleet:
  hosts:
    box[1-4]: {connection: local, labels: {team: shop}}
    db[1-2]: {connection: local, labels: {team: data}}
jobs:
  - name: sweep
    steps:
      - name: go
        ssh: {run: "echo x >> PLACE/sweep; test -e PLACE/fine || test $(wc -l < PLACE/sweep) -gt 2", targets: "box*"}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, CONFIG.replace("PLACE", str(tmp_path)), env={"DOGWATCH_DATA": str(tmp_path / "own")}) as one:
        yield one


def fleet(daemon: Daemon, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = daemon.command("fleet", *words, "--server", daemon.server)
    socket = str(daemon.data / "admin.sock") if not env else str(daemon.folder / "none")
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "DOGWATCH_SOCKET": socket, **env},
    )


def told(daemon: Daemon, *words: str) -> tuple[int, Any]:
    done = fleet(daemon, *words, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_command_goes_over_hosts_and_is_told_by_host(daemon: Daemon) -> None:
    script = "echo '{{.Names}}' \"$A\"; [ ! -e fail ] && test -e ok"
    place = str(daemon.folder)
    code, first = told(daemon, "run", f"cd {place}; {script}", "-t", "all", "--limit", "box*", "--env", "A=it's hidden")
    assert code == 1
    assert {one["state"] for one in first["hosts"]} == {"non_zero"}
    assert first["hosts"][0]["stdout"] == "{{.Names}} ***\n"
    listed = json.loads(fleet(daemon, "runs", "--json").stdout)
    assert [(one["run"], one["state"], one["failed"]) for one in listed] == [(first["run"], "failed", 4)]
    shown = daemon.run("run", "show", first["run"].partition("/")[0])
    assert ("exit code 1" in shown.stdout, "box[1-4]" in shown.stdout) == (True, True)
    assert "hidden" not in shown.stdout
    (daemon.folder / "ok").touch()
    code, again = told(daemon, "run", "--retry-failed", first["run"])
    assert (code, [one["host"] for one in again["hosts"]]) == (0, ["box1", "box2", "box3", "box4"])
    assert again["hosts"][0]["stdout"] == "{{.Names}} ***\n"
    nothing = fleet(daemon, "run", "--retry-failed", again["run"])
    assert (nothing.returncode, "failed" in nothing.stderr) == (1, True)
    events = daemon.run("audit", "list", "--json").stdout
    assert "fleet:run" in events
    assert "hidden" not in events


def test_kill_9_of_the_daemon_repeats_only_what_ran(daemon: Daemon) -> None:
    begun, go = daemon.folder / "begun", daemon.folder / "go"
    # Which it is, in the order of their beginnings.
    count = f"n=$( (flock 9; echo >> {begun}; wc -l < {begun}) 9> {daemon.folder}/lock )"
    script = f"{count}; [ $n -le 2 ] || while [ ! -e {go} ]; do sleep 0.05; done"
    words = ("fleet", "run", script, "-t", "all", "--forks", "2", "--json", "--server", daemon.server)
    env = {**os.environ, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    client = subprocess.Popen(
        daemon.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True
    )
    wait_until(lambda: begun.exists() and begun.read_text().count("\n") == 4, within_s=60, what="four hosts have begun")
    daemon.stop(signal.SIGKILL)
    go.touch()
    daemon.start()
    out, err = client.communicate(timeout=60)
    answer = json.loads(out)
    assert client.returncode == 0, err
    assert {one["state"] for one in answer["hosts"]} == {"succeeded"}
    # Two had ended, two were cut off and repeated, two had not begun.
    assert begun.read_text().count("\n") == 4 + 4


def test_a_rerun_of_a_job_repeats_only_the_hosts_that_did_not_succeed(daemon: Daemon) -> None:
    ended = json.loads(daemon.run("job", "run", "sweep", "--wait", "--json").stdout)
    assert "failed" in (ended.get("state"), ended.get("run", {}).get("state"))
    run = json.loads(daemon.run("run", "list", "--json").stdout)[0]["run_id"]
    hosts = daemon.get(f"/api/v1/fleet/runs/{run}/hosts")["items"]
    failed = [one["host"] for one in hosts if one["state"] == "non-zero"]
    assert 0 < len(failed) < 4
    lines = (daemon.folder / "sweep").read_text().count("x")
    (daemon.folder / "fine").touch()
    assert daemon.run("run", "rerun", "--failed", "--wait", run).returncode == 0
    assert (daemon.folder / "sweep").read_text().count("x") == lines + len(failed)
    new = json.loads(daemon.run("run", "list", "--json").stdout)[0]["run_id"]
    steps = daemon.get(f"/api/v1/runs/{new}/steps")
    assert steps[0]["outputs"]["counts"] == {"succeeded": 4}


def test_who_may_run_on_some_hosts_only_cannot_on_others(daemon: Daemon) -> None:
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    add = daemon.command("user", "add", "root", "--role", "admin")
    subprocess.run(add, input="correct horse battery\n", text=True, env=env, check=True, timeout=30)
    made = daemon.run("token", "create", "bot", "--role", "operator", "--label", "team=shop")
    token = made.stdout.strip()
    mine = fleet(daemon, "run", "true", "-t", "box*", "--json", DOGWATCH_TOKEN=token)
    assert mine.returncode == 0, mine.stderr
    both = fleet(daemon, "run", "true", "-t", "all", DOGWATCH_TOKEN=token)
    assert both.returncode == 12
    admin = fleet(daemon, "run", "true", "-t", "all", "--json")
    assert admin.returncode == 0
    listed = json.loads(fleet(daemon, "runs", json.loads(admin.stdout)["run"], "--json", DOGWATCH_TOKEN=token).stdout)
    assert {one["host"] for one in listed["hosts"]} == {"box1", "box2", "box3", "box4"}


def test_the_daemon_inspects_and_what_it_saw_is_judged_again(daemon: Daemon) -> None:
    checks = ("--check-only", "disk", "--check-only", "memory")
    code, answer = told(daemon, "inspect", "-t", "box[1:2]", *checks, "--disk", "100%", "--memory", "100%")
    assert (code, [one["reading"]["complete"] for one in answer["hosts"]]) == (0, [True, True])
    assert [one["findings"] for one in answer["hosts"]] == [[], []]
    code, again = told(daemon, "inspect", "--again", answer["run"], "--disk", "0%", "--exit-code")
    assert (code, {one["check"] for one in again["hosts"][0]["findings"]}) == (1, {"disk"})
    code, planned = told(daemon, "inspect", "-t", "all", "--check")
    assert (code, planned["hosts"]) == (0, 6)
    listed = json.loads(fleet(daemon, "runs", "--json").stdout)
    assert [one["what"] for one in listed] == ["# inspection: memory, disk …"]
    other = told(daemon, "run", "true", "-t", "box1")[1]["run"]
    assert fleet(daemon, "inspect", "--again", other).returncode == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "true"], 2),
        (["run", "-t", "all"], 2),
        (["run", "true", "-t", "none"], 2),
        (["run", "true", "-t", "all", "-i", "x"], 2),
        (["run", "true", "-t", "all", "--batch", "x"], 2),
        (["run", "--resume", "none"], 10),
        (["runs", "none"], 10),
    ],
)
def test_misuse_is_told(daemon: Daemon, words: list[str], code: int) -> None:
    assert fleet(daemon, *words).returncode == code
