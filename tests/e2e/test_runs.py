"""Jobs and runs by the command line, against a real daemon: success, failure, cancel, approval, rerun, and deaths."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Daemon, running, wait_until
from tests.e2e.test_cli_commands import complete

CONFIG = """
jobs:
  - name: hello
    doc: Says hello.
    labels: {team: shop}
    parameters:
      name: {default: world}
      count: {type: integer, default: 2, min: 1, max: 9}
    steps:
      - name: greet
        exec: {run: 'for i in $(seq {{ params.count }}); do echo hello {{ params.name }} $i; done'}
        outputs: {who: params.name}
      - name: again
        exec: {run: 'echo once more {{ steps.greet.outputs.who }}'}
  - name: secretive
    parameters: {token: {secret: true}}
    steps:
      - name: tell
        exec: {run: "echo it is {{ params.token }}"}
  - name: careful
    steps:
      - name: build
        exec: {run: "echo built"}
      - name: ask
        approve: {message: "Roll it out?"}
      - name: roll-out
        exec: {run: "echo rolled out"}
  - name: shaky
    steps:
      - name: first
        exec: {run: 'echo first >> "$EFFECTS"'}
      - name: second
        exec: {run: 'echo second >> "$EFFECTS"; test -e "$EFFECTS.ok"'}
      - name: third
        exec: {run: 'echo third >> "$EFFECTS"'}
      - name: clean
        exec: {run: 'echo clean >> "$EFFECTS"'}
        always: true
    env: {EFFECTS: "@EFFECTS@"}
  - name: partly
    steps:
      - name: may-fail
        exec: {run: "exit 3"}
        allow_failure: true
      - name: rest
        needs: []
        exec: {run: "echo fine"}
  - name: chatty
    steps:
      - name: talk
        exec: {run: 'seq 100000'}
  - name: long
    steps:
      - name: work
        exec: {run: 'echo begun >> "@EFFECTS@"; for i in $(seq 3000); do echo tick $i; sleep 0.1; done; echo ended'}
      - name: after
        exec: {run: 'echo after >> "@EFFECTS@"'}
"""


def slow_once(folder: Path) -> str:
    """Return the configuration with a long step that ends soon when it is made for the second time."""
    times = f'$(grep -c begun "{folder / "effects"}")'
    return config(folder).replace("seq 3000)", f"seq $(({times} > 1 ? 1 : 600)))")


def config(folder: Path) -> str:
    return CONFIG.replace("@EFFECTS@", str(folder / "effects"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("runs")
    with running(folder, config(folder)) as one:
        yield one


def started(daemon: Daemon, *arguments: str) -> str:
    """Start a run and return its id."""
    ended = daemon.run("job", "run", *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def run_of(daemon: Daemon, run_id: str) -> Any:
    return daemon.get(f"/api/v1/runs/{run_id}")


def in_state(daemon: Daemon, run_id: str, state: str, **more: Any) -> Any:
    def there() -> Any:
        run = run_of(daemon, run_id)
        return run if run["state"] == state and all(run[key] == value for key, value in more.items()) else None

    return wait_until(there, within_s=60, what=f"{run_id} {state}")


def step_in(daemon: Daemon, run_id: str, name: str, state: str) -> Any:
    def there() -> Any:
        steps = {step["name"]: step for step in daemon.get(f"/api/v1/runs/{run_id}/steps")["items"]}
        return steps[name] if steps[name]["state"] == state else None

    return wait_until(there, what=f"step {name} {state}")


# ── how it ends ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_succeeds(daemon: Daemon) -> None:
    ended = daemon.run("job", "run", "hello", "-p", "name=ada", "-p", "count=3", "--follow")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "greet │ hello ada 1",
        "greet │ hello ada 2",
        "greet │ hello ada 3",
        "again │ once more ada",
    ]
    assert "✔ succeeded  greet" in ended.stderr
    assert "✔ succeeded  hello" in ended.stderr


def test_a_run_that_fails_exits_with_1(daemon: Daemon) -> None:
    ended = daemon.run("job", "run", "shaky", "--wait")
    assert ended.returncode == 1
    assert "✖ failed  shaky" in ended.stderr


def test_a_run_of_which_a_part_may_fail_exits_with_3(daemon: Daemon) -> None:
    assert daemon.run("job", "run", "partly", "--wait").returncode == 3


def test_json_is_only_json(daemon: Daemon) -> None:
    ended = daemon.run("job", "run", "hello", "--wait", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads(ended.stdout)
    assert found["run"]["state"] == "succeeded"
    assert [step["state"] for step in found["steps"]] == ["succeeded", "succeeded"]
    run_id = found["run"]["run_id"]
    for arguments in (["run", "list"], ["run", "show", run_id], ["job", "list"], ["job", "show", "hello"]):
        listed = daemon.run(*arguments, "--json")
        assert listed.stderr == ""
        json.loads(listed.stdout)
    lines = daemon.run("run", "logs", run_id, "--json").stdout.splitlines()
    assert [json.loads(line)["step"] for line in lines][-1] == "again"


def test_secrets_are_seen_nowhere(daemon: Daemon) -> None:
    run_id = started(daemon, "secretive", "-p", "token=hunter2secret")
    in_state(daemon, run_id, "succeeded")
    for arguments in (["run", "show", run_id], ["run", "show", run_id, "--json"], ["run", "logs", run_id]):
        ended = daemon.run(*arguments)
        assert ended.returncode == 0
        assert "hunter2secret" not in ended.stdout
        assert "***" in ended.stdout
    for path in daemon.data.rglob("*"):
        if path.is_file():
            assert b"hunter2secret" not in path.read_bytes(), path
    assert (daemon.data / "state.key").stat().st_mode & 0o777 == 0o600


def test_one_run_for_a_key(daemon: Daemon) -> None:
    first = started(daemon, "hello", "--key", "once")
    assert started(daemon, "hello", "--key", "once") == first


# ── what people ask of it ────────────────────────────────────────────────────────────────────────────────────────


def test_cancel_ends_what_runs(daemon: Daemon) -> None:
    run_id = started(daemon, "long")
    step_in(daemon, run_id, "work", "running")
    wait_until(lambda: programs(run_id), what="the step's program")
    ended = daemon.run("run", "cancel", run_id, "--reason", "wrong one")
    assert ended.returncode == 0
    run = in_state(daemon, run_id, "cancelled")
    assert "wrong one" in run["reason"]
    assert state_of(daemon, run_id, "after") in ("cancelled", "skipped")
    assert not programs(run_id), "the program of the cancelled step is left"
    again = daemon.run("run", "cancel", run_id)
    assert (again.returncode, again.stdout) == (11, "")


def state_of(daemon: Daemon, run_id: str, step: str) -> str:
    steps = {one["name"]: one["state"] for one in daemon.get(f"/api/v1/runs/{run_id}/steps")["items"]}
    return str(steps[step])


def programs(run_id: str) -> list[str]:
    """Return the command lines of the processes that a run's steps began."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"DOGWATCH_RUN_ID={run_id}".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


def test_approval_lets_it_go_on(daemon: Daemon) -> None:
    run_id = started(daemon, "careful")
    step_in(daemon, run_id, "ask", "waiting")
    shown = daemon.run("run", "show", run_id).stdout
    assert "waits for approval" in shown
    assert daemon.run("run", "approve", run_id, "--comment", "checked").returncode == 0
    assert daemon.run("run", "wait", run_id).returncode == 0
    ask = step_in(daemon, run_id, "ask", "succeeded")
    assert (ask["outputs"]["approved"], ask["outputs"]["comment"]) == (True, "checked")
    assert ask["outputs"]["approved_by"].startswith("local:")


def test_rejection_fails_it(daemon: Daemon) -> None:
    run_id = started(daemon, "careful")
    step_in(daemon, run_id, "ask", "waiting")
    assert daemon.run("run", "reject", run_id, "--comment", "freeze").returncode == 0
    run = in_state(daemon, run_id, "failed")
    assert "freeze" in run["reason"]
    assert daemon.run("run", "approve", run_id).returncode == 11


def test_pause_and_resume(daemon: Daemon) -> None:
    run_id = started(daemon, "careful")
    step_in(daemon, run_id, "ask", "waiting")
    assert daemon.run("run", "pause", run_id).returncode == 0
    in_state(daemon, run_id, "paused")
    daemon.run("run", "approve", run_id)
    time.sleep(0.5)
    steps = {step["name"]: step["state"] for step in daemon.get(f"/api/v1/runs/{run_id}/steps")["items"]}
    assert steps["roll-out"] == "pending"
    assert daemon.run("run", "resume", run_id).returncode == 0
    in_state(daemon, run_id, "succeeded")


def test_rerun_of_what_failed_repeats_only_that(daemon: Daemon) -> None:
    effects = daemon.folder / "effects"
    effects.unlink(missing_ok=True)
    run_id = started(daemon, "shaky")
    in_state(daemon, run_id, "failed")
    assert effects.read_text().split() == ["first", "second", "clean"]
    (daemon.folder / "effects.ok").touch()
    try:
        ended = daemon.run("run", "rerun", "--failed", "--wait", "--json", run_id)
    finally:
        (daemon.folder / "effects.ok").unlink()
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["run"]["rerun_of"] == run_id
    assert effects.read_text().split() == ["first", "second", "clean", "second", "third", "clean"]


# ── live ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_output_arrives_while_it_runs_and_ctrl_c_leaves_the_run_going(daemon: Daemon) -> None:
    run_id = started(daemon, "long")
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server}
    follower = subprocess.Popen(
        daemon.command("run", "logs", "-f", run_id), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True
    )
    assert follower.stdout is not None
    assert "tick" in follower.stdout.readline()
    assert run_of(daemon, run_id)["state"] == "running"
    follower.send_signal(signal.SIGINT)
    _, told = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert f"dogwatch run logs -f {run_id}" in told
    assert f"dogwatch run cancel {run_id}" in told
    assert run_of(daemon, run_id)["state"] == "running"
    daemon.run("run", "cancel", run_id)


def test_logs_by_step_and_text(daemon: Daemon) -> None:
    run_id = started(daemon, "hello", "-p", "count=3")
    in_state(daemon, run_id, "succeeded")
    assert daemon.run("run", "logs", run_id, "--grep", "WORLD 2").stdout == "greet │ hello world 2\n"
    assert daemon.run("run", "logs", run_id, "--step", "again").stdout == "once more world\n"


def on_terminal(daemon: Daemon, *arguments: str, columns: int = 80) -> str:
    """Run a command on a terminal of so many columns and return what it wrote there."""
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "24"}
    master, slave = pty.openpty()
    process = subprocess.Popen(daemon.command(*arguments), stdout=slave, stderr=slave, env=env)
    os.close(slave)
    written = b""
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    piece = os.read(master, 65536)
                except OSError:
                    break
                if not piece:
                    break
                written += piece
            elif process.poll() is not None:
                break
        process.wait(60)
    finally:
        os.close(master)
    return written.decode(errors="replace")


def test_a_terminal_shows_steps_and_output_within_80_columns(daemon: Daemon) -> None:
    import click

    shown = on_terminal(daemon, "job", "run", "hello", "-p", "count=4", "--follow")
    lines = [click.unstyle(line) for line in shown.replace("\r", "\n").split("\n")]
    assert any("greet │ hello world 4" in line for line in lines)
    assert any("✔ succeeded" in line and "greet" in line for line in lines)
    assert max(len(line) for line in lines) <= 80
    for arguments in (["run", "list"], ["job", "list"], ["job", "show", "hello"], ["worker", "list"]):
        shown = on_terminal(daemon, *arguments)
        assert max(len(click.unstyle(line)) for line in shown.splitlines()) <= 80, arguments


# ── misuse ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["job", "run", "helo"], 10, "did you mean 'hello'?"),
        (["job", "run", "hello", "-p", "nmae=x"], 2, "did you mean 'name'?"),
        (["job", "run", "hello", "-p", "count=many"], 2, "count"),
        (["job", "run", "hello", "-p", "count=99"], 2, "count"),
        (["job", "run", "hello", "-p", "count"], 2, "KEY=VALUE"),
        (["job", "run", "hello", "-p", "name=a", "-p", "name=b"], 2, "twice"),
        (["run", "show", "zzzz"], 10, "zzzz"),
        (["run", "list", "--state", "runing"], 2, "running"),
        (["worker", "drain", "nobody"], 10, "nobody"),
        (["run", "show", ""], 2, "is empty"),
        (["run", "cancel", ""], 2, "is empty"),
        (["run", "logs", ""], 2, "is empty"),
        (["job", "run", ""], 2, "is empty"),
        (["job", "show", ""], 2, "is empty"),
        (["schedule", "show", ""], 2, "is empty"),
        (["hook", "show", ""], 2, "is empty"),
        (["worker", "drain", ""], 2, "is empty"),
    ],
)
def test_misuse_is_told_with_its_code(daemon: Daemon, arguments: list[str], code: int, told: str) -> None:
    ended = daemon.run(*arguments)
    assert ended.returncode == code, ended.stderr
    assert told in ended.stderr
    assert ended.stdout == ""
    as_json = daemon.run(*arguments, "--json")
    assert as_json.returncode == code
    assert told in json.loads(as_json.stderr)["message"] + json.loads(as_json.stderr)["hint"]


def test_who_reads_only_the_beginning_of_the_output_is_no_failure(daemon: Daemon) -> None:
    run_id = started(daemon, "chatty")
    in_state(daemon, run_id, "succeeded")
    reader, writer = os.pipe()
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server}
    with subprocess.Popen(
        daemon.command("run", "logs", run_id), stdout=writer, stderr=subprocess.PIPE, env=env
    ) as logs:
        os.close(writer)
        assert os.read(reader, 10)
        os.close(reader)
        _, told = logs.communicate(timeout=60)
    assert (logs.returncode, told) == (0, b"")


def test_an_id_that_two_runs_begin_with_is_refused(daemon: Daemon) -> None:
    ids = [started(daemon, "hello"), started(daemon, "hello")]
    ended = daemon.run("run", "show", ids[0][:4])
    assert ended.returncode == 11
    assert ids[0][:4] in ended.stderr
    assert daemon.run("run", "show", ids[0][:-1]).returncode == 0


def test_check_and_plan_need_no_daemon(tmp_path: Path) -> None:
    good = Daemon(tmp_path, config(tmp_path))
    assert good.run("job", "check", "-c", str(good.config)).stdout == "ok: 7 jobs, 15 steps\n"
    planned = good.run("job", "plan", "hello", "-p", "name=ada", "-c", str(good.config), "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["parameters"]["name"] == "ada"
    assert "hello 'ada'" in plan["steps"][0]["summary"] + "".join(plan["steps"][0]["details"])
    assert not (tmp_path / "effects").exists()
    good.config.write_text(
        "jobs:\n"
        "  - name: a\n"
        "    steps:\n"
        "      - {name: x, needs: [y], exec: {run: 'true'}}\n"
        "      - {name: y, needs: [x], exec: {run: 'echo {{ params.nothing }}'}}\n"
        "      - {name: z, needs: [q], exec: {runn: 'true'}}\n"
    )
    ended = good.run("job", "check", "-c", str(good.config))
    assert ended.returncode == 2
    for place in ("dogwatch.yaml:4", "dogwatch.yaml:6"):
        assert place in ended.stderr
    assert "runn" in ended.stderr


def test_a_worker_beside_a_file_is_refused(tmp_path: Path) -> None:
    one = Daemon(tmp_path, config(tmp_path))
    ended = one.run("worker", "run", "-c", str(one.config), "--data", str(tmp_path / "data"))
    assert ended.returncode == 2
    assert "PostgreSQL" in ended.stderr
    assert "dogwatch database move" in ended.stderr


# ── deaths ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_kill_9_in_the_middle_and_a_restart(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    text = slow_once(tmp_path)
    with running(tmp_path, text) as daemon:
        run_id = started(daemon, "long")
        waiting = started(daemon, "careful")
        step_in(daemon, run_id, "work", "running")
        step_in(daemon, waiting, "ask", "waiting")
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert in_state(daemon, run_id, "succeeded")
        # The step that was cut off was made again, with nothing of the first left beside it; what had ended was not.
        assert effects.read_text().split() == ["begun", "begun", "after"]
        assert "its worker was lost while it ran" in daemon.run("run", "logs", run_id).stdout
        step_in(daemon, waiting, "ask", "waiting")
        assert daemon.run("run", "approve", waiting).returncode == 0
        in_state(daemon, waiting, "succeeded")


def test_a_restart_in_place_gives_work_back(tmp_path: Path) -> None:
    text = slow_once(tmp_path) + "engine: {grace: 500ms}\n"
    with running(tmp_path, text) as daemon:
        run_id = started(daemon, "long")
        step_in(daemon, run_id, "work", "running")
        follower = subprocess.Popen(
            daemon.command("run", "wait", run_id), env={**os.environ, "DOGWATCH_SERVER": daemon.server}
        )
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGUSR2)
        # Who waits for it goes on waiting over the restart.
        assert follower.wait(40) == 0
        assert (tmp_path / "effects").read_text().split() == ["begun", "begun", "after"]
        assert daemon.stop() == 143


def test_jobs_that_a_reload_brings(tmp_path: Path) -> None:
    with running(tmp_path, "engine: {slots: 2}\n") as daemon:
        assert daemon.get("/api/v1/workers")["items"] == []
        daemon.config.write_text(config(tmp_path))
        wait_until(lambda: daemon.get("/api/v1/jobs")["total"] == 7, what="the reload")
        ended = daemon.run("job", "run", "hello", "--wait")
        assert ended.returncode == 0, ended.stderr
        daemon.config.write_text(config(tmp_path) + "engine: {slots: 3, labels: {zone: a}}\n")
        found = wait_until(
            lambda: [
                one for one in daemon.get("/api/v1/workers")["items"] if one["slots"] == 3 and one["state"] == "active"
            ],
            what="the worker of the new options",
        )
        assert found[0]["labels"] == {"zone": "a"}
        assert daemon.run("job", "run", "hello", "--wait").returncode == 0


def test_names_of_jobs_and_ids_of_runs_are_completed(daemon: Daemon) -> None:
    run_id = started(daemon, "hello")
    assert complete(daemon, "dogwatch job run sh") == ["shaky"]
    assert run_id in complete(daemon, f"dogwatch run show {run_id[:6]}")
    worker = daemon.get("/api/v1/workers")["items"][0]["worker_id"]
    assert worker in complete(daemon, f"dogwatch worker drain {worker[:2]}")
