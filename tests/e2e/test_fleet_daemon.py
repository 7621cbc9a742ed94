"""Commands over the fleet that a daemon carries out: recorded by host, permitted by host, and not lost by kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
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
    steps = daemon.get(f"/api/v1/runs/{new}/steps")["items"]
    assert steps[0]["outputs"]["counts"] == {"succeeded": 4}


def test_who_may_run_on_some_hosts_only_cannot_on_others(daemon: Daemon) -> None:
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    add = daemon.command("user", "add", "root", "--role", "admin")
    subprocess.run(add, input="correct horse battery\n", text=True, env=env, check=True, timeout=30)
    made = daemon.run("token", "create", "bot", "--role", "operator", "--label", "team=shop")
    token = made.stdout.strip()
    mine = fleet(daemon, "run", "true", "-t", "box*", "--json", DOGWATCH_TOKEN=token)
    assert mine.returncode == 0, mine.stderr
    # What a token may not see is not there for it: all are those it sees, and the others are hosts that nobody knows.
    both = json.loads(fleet(daemon, "run", "true", "-t", "all", "--json", DOGWATCH_TOKEN=token).stdout)
    assert {one["host"] for one in both["hosts"]} == {"box1", "box2", "box3", "box4"}
    others, strange = (fleet(daemon, "run", "true", "-t", name, DOGWATCH_TOKEN=token) for name in ("db1", "db9"))
    assert (others.returncode, others.stderr) == (2, strange.stderr.replace("db9", "db1"))
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


def test_what_a_command_line_ran_is_told_by_the_daemon_beside_it(daemon: Daemon) -> None:
    """Both use one data folder; another user's, or none, is left out."""
    env = {**os.environ, "DOGWATCH_DATA": str(daemon.data)}
    told(daemon, "run", "echo first", "-t", "box1")
    words = daemon.command("fleet", "run", "echo own; exit 3", "-t", "db1", "-c", str(daemon.config), "--json")
    own = json.loads(subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False).stdout)
    told(daemon, "run", "echo last", "-t", "box1")
    listed = json.loads(fleet(daemon, "runs", "--json").stdout)
    assert [one["what"] for one in listed] == ["echo last", "echo own; exit 3", "echo first"]
    assert (listed[1]["run"], listed[1]["state"]) == (own["run"], "failed")
    code, shown = told(daemon, "runs", own["run"])
    assert (code, shown["hosts"][0]["exit_code"], shown["hosts"][0]["stdout"]) == (1, 3, "own\n")
    cursor = urllib.parse.quote(daemon.get("/api/v1/fleet/runs?limit=1")["next_cursor"], safe="")
    paged = daemon.get(f"/api/v1/fleet/runs?limit=1&cursor={cursor}")["items"]
    assert [one["what"] for one in paged] == ["echo own; exit 3"]
    # It is not the daemon's to repeat.
    assert fleet(daemon, "run", "--retry-failed", own["run"]).returncode == 10


def test_hosts_of_its_workers_are_known_here_and_elsewhere(daemon: Daemon, tmp_path: Path) -> None:
    name = socket.gethostname()
    other = tmp_path / "other.yaml"
    other.write_text(f"fleet: {{sources: [agents: {{server: '{daemon.server}'}}]}}\n")
    words = daemon.command("fleet", "list", "-c", str(other), "--json")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert [(one["host"], one["groups"]) for one in json.loads(done.stdout)] == [(name, ["agents"])], done.stderr
    daemon.config.write_text(daemon.config.read_text().replace("fleet:\n", "fleet:\n  sources: [agents: {}]\n"))
    wait_until(
        lambda: name in {one["host"] for one in daemon.get("/api/v1/fleet/hosts")["items"]},
        within_s=20,
        what="the daemon reads its configuration again",
    )


def test_files_go_to_hosts_and_back_through_it(daemon: Daemon) -> None:
    place = daemon.folder
    # More than one piece, and nothing that is text.
    content = bytes(range(256)) * 6000
    (place / "here").write_bytes(content)
    (place / "here").chmod(0o640)
    code, copied = told(daemon, "copy", str(place / "here"), f"{place}/there", "-t", "box1")
    assert (code, [one["state"] for one in copied["hosts"]]) == (0, ["succeeded"])
    assert (place / "there").read_bytes() == content
    assert (place / "there").stat().st_mode & 0o777 == 0o640
    code, fetched = told(daemon, "fetch", f"{place}/there", str(place / "got"), "-t", "box[1-2],db1")
    assert (code, {one["stdout"] for one in fetched["hosts"]}) == (0, {""})
    assert {path.parent.name for path in (place / "got").rglob("there")} == {"box1", "box2", "db1"}
    assert (place / "got" / "db1" / "there").read_bytes() == content
    (place / "empty").touch()
    assert fleet(daemon, "copy", str(place / "empty"), f"{place}/into/", "-t", "box1").returncode == 1
    assert fleet(daemon, "copy", str(place / "empty"), f"{place}/got/", "-t", "box1").returncode == 0
    assert (place / "got" / "empty").read_bytes() == b""
    missing = told(daemon, "fetch", f"{place}/nope", str(place / "got"), "-t", "box1")
    assert (missing[0], missing[1]["hosts"][0]["state"]) == (1, "non_zero")
    (place / "tool").write_text('#!/bin/sh\necho "$1|$A"\n')
    code, ran = told(daemon, "script", str(place / "tool"), "-t", "box1", "--env", "A=secret", "it's")
    assert (code, ran["hosts"][0]["stdout"]) == (0, "it's|***\n")
    whats = [one["what"] for one in json.loads(fleet(daemon, "runs", "--json").stdout)]
    assert [what.split()[0] for what in whats[:4]] == ["#!/bin/sh", "fetch", "copy", "copy"]
    code, planned = told(daemon, "copy", str(place / "here"), "/x", "-t", "all", "--check")
    assert (code, planned["hosts"]) == (0, 6)


def test_files_of_others_hosts_are_not_fetched(daemon: Daemon) -> None:
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    add = daemon.command("user", "add", "root", "--role", "admin")
    subprocess.run(add, input="correct horse battery\n", text=True, env=env, check=True, timeout=30)
    viewer = daemon.run("token", "create", "eye", "--role", "viewer").stdout.strip()
    shop = daemon.run("token", "create", "bot", "--role", "operator", "--label", "team=shop").stdout.strip()
    (daemon.folder / "secret").write_text("x")
    _, fetched = told(daemon, "fetch", f"{daemon.folder}/secret", str(daemon.folder / "got"), "-t", "db1")
    path = f"/api/v1/fleet/runs/{fetched['run'].replace('/', '%2F')}/files/db1"
    for token, status in ((viewer, 403), (shop, 404)):
        asked = urllib.request.Request(daemon.server + path, headers={"Authorization": f"Bearer {token}"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=10)
        assert refused.value.code == status
        refused.value.close()
    assert fleet(daemon, "copy", f"{daemon.folder}/secret", "/x", "-t", "db1", DOGWATCH_TOKEN=shop).returncode == 2


def test_whoever_is_limited_does_not_choose_hosts_anew(daemon: Daemon) -> None:
    shop = daemon.run("token", "create", "bot", "--role", "operator", "--label", "team=shop").stdout.strip()
    # All of its hosts are theirs; by a rerun its expression might take in others.
    _, done = told(daemon, "run", "test -e nowhere", "-t", "box*")
    run = done["run"].partition("/")[0]
    codes = {}
    for path in (f"runs/{run}/rerun", f"fleet/runs/{run}%2Fhosts/again"):
        headers = {"Authorization": f"Bearer {shop}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"{daemon.server}/api/v1/{path}", b"{}", headers)
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                codes[path.rpartition("/")[2]] = answer.status
        except urllib.error.HTTPError as refused:
            codes[path.rpartition("/")[2]] = refused.code
            refused.close()
    assert codes == {"rerun": 403, "again": 201}


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
