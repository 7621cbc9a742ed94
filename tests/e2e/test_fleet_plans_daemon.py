"""Plans through a daemon: made, looked at, agreed to, applied, taken back and reported, with permissions and audit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Daemon, running, wait_until

CONFIG = """
fleet:
  groups: {all: {vars: {root: PLACE}}}
  hosts:
    box1: {connection: local, labels: {team: shop}, vars: {dogwatch_state: PLACE/state1}}
    box2: {connection: local, labels: {team: shop}, vars: {dogwatch_state: PLACE/state2}}
    db1: {connection: local, labels: {team: data}, vars: {dogwatch_state: PLACE/state3}}
  playbooks: {site: site.yaml, careful: careful.yaml, slow: slow.yaml}
jobs:
  - name: nightly
    steps: [{name: look, fleet-drift: {file: PLACE/site.yaml, max_drift: 100%}}]
  - name: roll
    steps: [{name: go, playbook: {file: PLACE/site.yaml, targets: db1}}]
"""
SITE = """
hosts: all
secrets: {token: "${file:token}"}
operations:
  - file: {path: "{{ root }}/{{ host }}", content: "{{ word | default('one') }}\\n{{ token }}\\n"}
"""
SLOW = """
hosts: all
max_fail: 3
operations:
  - command:
      run: "echo {{ host }} >> {{ root }}/begun; while [ ! -e {{ root }}/go ]; do sleep 0.05; done"
      always: true
  - file: {path: "{{ root }}/slow-{{ host }}", content: x}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "token").write_text("hunter2-secret\n")
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "careful.yaml").write_text(f"approval: true\n{SITE}")
    (tmp_path / "slow.yaml").write_text(SLOW)
    with running(tmp_path, CONFIG.replace("PLACE", str(tmp_path)), env={"DOGWATCH_DATA": str(tmp_path / "own")}) as one:
        yield one


def fleet(daemon: Daemon, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    socket = str(daemon.data / "admin.sock") if not env else str(daemon.folder / "none")
    return subprocess.run(
        daemon.command("fleet", *words, "--server", daemon.server),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "DOGWATCH_SOCKET": socket, **env},
    )


def told(daemon: Daemon, *words: str, **env: str) -> tuple[int, Any]:
    done = fleet(daemon, *words, "--json", **env)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_plan_apply_and_the_way_back(daemon: Daemon) -> None:
    place = daemon.folder
    (place / "box1").write_text("before\n")
    shown = fleet(daemon, "plan", "site", "-t", "box*", "--exit-code")
    assert shown.returncode == 4, shown.stderr
    assert ("-***" in shown.stdout, "+one" in shown.stdout, "+***" in shown.stdout) == (True, True, True)
    assert not (place / "box2").exists()
    listed = json.loads(fleet(daemon, "plans", "--json").stdout)
    plan = listed[0]["plan"]
    assert (listed[0]["state"], listed[0]["hosts"]) == ("ready", {"changes": 2})
    code, applied = told(daemon, "apply", plan)
    assert (code, {one["host"]: one["state"] for one in applied["hosts"]}) == (
        0,
        {"box1": "applied", "box2": "applied"},
    )
    assert (place / "box1").read_text() == "one\nhunter2-secret\n"
    # The apply is a fleet run like any other, host by host.
    runs = json.loads(fleet(daemon, "runs", "--json").stdout)
    assert (runs[0]["what"], runs[0]["counts"]) == (f"# apply site: plan {plan}", {"succeeded": 2})
    code, second = told(daemon, "plan", "site", "-t", "box*", "--exit-code")
    assert (code, [one["changes"] for one in second["hosts"]]) == (0, [[], []])
    code, back = told(daemon, "apply", plan, "--roll-back")
    assert (code, back["state"]) == (0, "rolled back")
    assert (place / "box1").read_text() == "before\n"
    with contextlib.closing(sqlite3.connect(next(daemon.data.glob("**/state.db")))) as database:
        documents = [row[0] for row in database.execute("SELECT document FROM fleet_plans")]
        assert [one[:7] for one in documents] == [b"sealed\0"] * 2
        assert all(text.startswith("sealed:") for (text,) in database.execute("SELECT shown FROM fleet_plan_texts"))
    assert not (place / "box2").exists()
    trail = daemon.run("audit", "list", "--json").stdout
    events = [one["event"] for one in json.loads(trail)]
    verbs = [(one["verb"], one["outcome"]) for one in events if one["subject"]["name"] == f"plan {plan}"]
    assert sorted(verbs) == [
        ("apply", "begun"), ("apply", "done"), ("plan", "done"), ("roll back", "begun"), ("roll back", "done"),
    ]  # fmt: skip
    assert "hunter2" not in trail + shown.stdout + json.dumps(daemon.get(f"/api/v1/fleet/plans/{plan}/hosts"))


def test_hosts_that_moved_are_refused(daemon: Daemon) -> None:
    _, plan = told(daemon, "plan", "site", "-t", "box*", "--var", "word=two")
    (daemon.folder / "box1").write_text("by hand")
    code, applied = told(daemon, "apply", plan["plan_id"], "--max-fail", "1")
    assert (code, [one["state"] for one in applied["hosts"]]) == (11, ["moved", "applied"])
    assert (daemon.folder / "box1").read_text() == "by hand"
    assert (daemon.folder / "box2").read_text().startswith("two\n")
    # What was left is finished once the host is as it was.
    (daemon.folder / "box1").unlink()
    code, resumed = told(daemon, "apply", plan["plan_id"], "--resume")
    assert (code, resumed["state"]) == (0, "applied")
    again = fleet(daemon, "apply", plan["plan_id"])
    assert again.returncode == 11, again.stdout


def test_somebody_else_must_agree(daemon: Daemon) -> None:
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    add = daemon.command("user", "add", "root", "--role", "admin")
    subprocess.run(add, input="correct horse battery\n", text=True, env=env, check=True, timeout=30)
    maker = {"DOGWATCH_TOKEN": daemon.run("token", "create", "maker", "--role", "operator").stdout.strip()}
    other = {"DOGWATCH_TOKEN": daemon.run("token", "create", "other", "--role", "operator").stdout.strip()}
    shop = daemon.run("token", "create", "shop", "--role", "operator", "--label", "team=shop").stdout.strip()
    viewer = daemon.run("token", "create", "viewer", "--role", "viewer").stdout.strip()
    code, plan = told(daemon, "plan", "careful", **maker)
    assert (code, plan["approval"]) == (0, True)
    name = plan["plan_id"]
    assert fleet(daemon, "apply", name, **maker).returncode == 12
    own = fleet(daemon, "apply", name, "--approve", **maker)
    assert (own.returncode, "cannot agree" in own.stderr) == (12, True)
    # Who may not on one of its hosts, may not at all; who may only look, may not either.
    assert fleet(daemon, "apply", name, "--approve", DOGWATCH_TOKEN=shop).returncode == 12
    assert fleet(daemon, "plan", "site", DOGWATCH_TOKEN=viewer).returncode == 12
    _, own_part = told(daemon, "plan", "site", DOGWATCH_TOKEN=shop)
    assert [one["host"] for one in own_part["hosts"]] == ["box1", "box2"]
    # They see their part of it.
    _, seen = told(daemon, "plans", name, DOGWATCH_TOKEN=shop)
    assert [one["host"] for one in seen["hosts"]] == ["box1", "box2"]
    assert fleet(daemon, "apply", name, "--approve", "--comment", "fine", **other).returncode == 0
    assert not (daemon.folder / "db1").exists()
    code, _ = told(daemon, "apply", name, **maker)
    assert (code, (daemon.folder / "db1").exists()) == (0, True)
    _, mine = told(daemon, "plan", "site", "-t", "box*", "--var", "word=mine", DOGWATCH_TOKEN=shop)
    assert told(daemon, "apply", mine["plan_id"], DOGWATCH_TOKEN=shop)[0] == 0
    _, third = told(daemon, "plan", "careful", "--var", "word=three", **maker)
    assert fleet(daemon, "apply", third["plan_id"], "--reject", "--comment", "not today", **other).returncode == 0
    rejected = fleet(daemon, "apply", third["plan_id"], **maker)
    assert (rejected.returncode, "was rejected" in rejected.stderr) == (11, True)


def test_an_apply_reaches_only_hosts_that_were_checked(daemon: Daemon) -> None:
    shop = daemon.run("token", "create", "shop", "--role", "operator", "--label", "team=shop").stdout.strip()
    _, plan = told(daemon, "plan", "site")
    name = plan["plan_id"]
    assert [one["host"] for one in plan["hosts"]] == ["box1", "box2", "db1"]
    # Nothing chosen is all of the plan, hosts that they do not see, too.
    whole = fleet(daemon, "apply", name, DOGWATCH_TOKEN=shop)
    assert whole.returncode == 12, whole.stdout
    hidden = fleet(daemon, "apply", name, "-t", "db1", DOGWATCH_TOKEN=shop)
    assert (hidden.returncode, "db1" in hidden.stderr) == (2, True)
    address = f"{daemon.server}/api/v1/fleet/plans/{name}/apply"
    headers = {"Authorization": f"Bearer {shop}", "Content-Type": "application/json"}
    asked = urllib.request.Request(address, json.dumps({"targets": "all"}).encode(), headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 201
    wait_until(
        lambda: daemon.get(f"/api/v1/fleet/plans/{name}")["ended_s"] is not None, within_s=60, what="it was applied"
    )
    assert sorted(one for one in ("box1", "box2", "db1") if (daemon.folder / one).exists()) == ["box1", "box2"]


def test_kill_9_in_the_middle_of_an_apply(daemon: Daemon) -> None:
    place = daemon.folder
    _, plan = told(daemon, "plan", "slow")
    words = daemon.command("fleet", "apply", plan["plan_id"], "--forks", "2", "--json", "--server", daemon.server)
    env = {**os.environ, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    client = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
    wait_until(
        lambda: (place / "begun").exists() and len((place / "begun").read_text().split()) == 2,
        within_s=40,
        what="two hosts are being changed",
    )
    # A second apply of the same plan, and one of another plan on the same host, are told so.
    second = fleet(daemon, "apply", plan["plan_id"])
    assert second.returncode == 11, second.stderr
    _, other = told(daemon, "plan", "site", "-t", (place / "begun").read_text().split()[0])
    code, held = told(daemon, "apply", other["plan_id"])
    assert (code, held["hosts"][0]["state"]) == (11, "locked")
    daemon.stop(signal.SIGKILL)
    (place / "go").touch()
    daemon.start()
    out, err = client.communicate(timeout=80)
    answer = json.loads(out)
    assert (client.returncode, answer["state"]) == (0, "applied"), err
    assert {path.name for path in place.glob("slow-*")} == {"slow-box1", "slow-box2", "slow-db1"}


def test_drift_is_reported_with_its_age(daemon: Daemon) -> None:
    for host in ("box1", "box2", "db1"):
        (daemon.folder / host).write_text("one\nhunter2-secret\n")
    assert fleet(daemon, "drift", "site", "--exit-code").returncode == 0
    (daemon.folder / "box2").write_text("moved")
    code, looked = told(daemon, "drift", "site", "--exit-code")
    assert (code, [one["host"] for one in looked["hosts"] if one["changes"]]) == (4, ["box2"])
    first = json.loads(fleet(daemon, "plans", "--drift", "--json").stdout)
    assert [(one["playbook"], [host["host"] for host in one["wandered"]]) for one in first] == [("site", ["box2"])]
    (daemon.folder / "db1").unlink()
    fleet(daemon, "drift", "site")
    since = {one["host"]: one["since_s"] for one in daemon.get("/api/v1/fleet/drift")["items"][0]["wandered"]}
    assert since["box2"] == first[0]["wandered"][0]["since_s"] < since["db1"]
    refused = fleet(daemon, "apply", looked["plan_id"])
    assert (refused.returncode, "only looked" in refused.stderr) == (11, True)
    # A step of a job is in the report, too, and a `playbook` step among the plans.
    assert daemon.run("job", "run", "nightly", "--wait").returncode == 0
    assert daemon.run("job", "run", "roll", "--wait").returncode == 0
    report = {one["playbook"]: one for one in daemon.get("/api/v1/fleet/drift")["items"]}
    assert set(report) == {"site", str(daemon.folder / "site.yaml")}
    step = daemon.get(f"/api/v1/fleet/plans?playbook={daemon.folder}/site.yaml")["items"][0]
    assert (step["kind"], step["state"], step["results"]) == ("step", "applied", {"applied": 1})


def test_a_playbook_of_this_machine_is_sent_along(daemon: Daemon, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "parts").mkdir(parents=True)
    (here / "parts" / "a.j2").write_text("for {{ host }}")
    (here / "b").write_bytes(b"\x00\xff")
    (here / "mine.yaml").write_text(
        "hosts: box1\noperations:\n  - template: {src: parts/a.j2, path: '{{ root }}/a'}\n"
        "  - file: {src: '{{ which }}', path: '{{ root }}/b'}\n"
    )
    missing = fleet(daemon, "plan", str(here / "mine.yaml"), "--var", "which=b")
    assert (missing.returncode, "b: no such file" in missing.stdout) == (1, True)
    code, plan = told(daemon, "plan", str(here / "mine.yaml"), "--var", "which=b", "--file", str(here / "b"))
    assert code == 0
    assert told(daemon, "apply", plan["plan_id"])[0] == 0
    assert ((daemon.folder / "a").read_text(), (daemon.folder / "b").read_bytes()) == ("for box1", b"\x00\xff")


@pytest.mark.parametrize("name", ["/etc/hostname", "../token", "link"])
def test_a_playbook_that_was_sent_reads_nothing_of_the_daemon(daemon: Daemon, tmp_path: Path, name: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "x.yaml").write_text("hosts: box1\noperations:\n  - file: {src: '{{ which }}', path: '{{ root }}/a'}\n")
    done = fleet(daemon, "plan", str(here / "x.yaml"), "--var", f"which={name}")
    assert done.returncode == 1
    assert ("reads only the files" in done.stdout) or ("link: no such file" in done.stdout)
    (here / "y.yaml").write_text(
        f"hosts: box1\nsecrets: {{s: '${{file:{here}/x.yaml}}'}}\noperations:\n  - file: {{path: /x, content: y}}\n"
    )
    secret = fleet(daemon, "plan", str(here / "y.yaml"))
    assert (secret.returncode, "fleet.playbooks" in secret.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["plan", "nope"], 10),
        (["plan", "nope.yaml"], 2),
        (["plan", "site", "-t", "nope"], 2),
        (["plan", "site", "-i", "x"], 2),
        (["plan", "site", "-o", "x"], 2),
        (["apply", "nope"], 10),
        (["apply", "../no-such-plan"], 10),
        (["plans", "nope"], 10),
        (["plan", "site", "--var", "1=2"], 2),
    ],
)
def test_misuse_of_plans_is_told(daemon: Daemon, words: list[str], code: int) -> None:
    assert fleet(daemon, *words).returncode == code
