"""Workers in processes of their own, over a real PostgreSQL; and the way of all state there."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Daemon, running, wait_until, written
from tests.postgres import Postgres

CONFIG = """
database: {url: "@URL@"}
engine: {work: @WORK@, ttl: 2s, grace: 3s, key: "a key of a test, long enough"}
jobs:
  - name: quick
    steps:
      - name: say
        exec: {run: "echo done"}
  - name: placed
    worker: {zone: b}
    steps:
      - name: say
        exec: {run: "echo placed"}
  - name: long
    parameters: {seconds: {type: integer, default: 60}}
    steps:
      - name: work
        exec:
          run: |
            echo "begun $$" >> "@EFFECTS@"
            for i in $(seq {{ params.seconds * 10 }}); do sleep 0.1; done
            echo ended >> "@EFFECTS@"
      - name: after
        exec: {run: "echo after"}
  - name: asks
    parameters: {token: {secret: true}}
    steps:
      - name: ask
        approve: {message: "Go on?"}
      - name: tell
        exec: {run: 'test "{{ params.token }}" = hunter2secret'}
schedules:
  - name: nightly
    job: quick
    cron: "0 3 * * *"
"""


def config(folder: Path, url: str, *, work: bool) -> str:
    text = CONFIG.replace("@URL@", url).replace("@WORK@", str(work).lower())
    return text.replace("@EFFECTS@", str(folder / "effects"))


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    url = postgres.create()
    yield url
    postgres.drop(url)


class WorkerProcess:
    """One `dogwatch worker run`."""

    def __init__(self, daemon: Daemon, name: str, *arguments: str) -> None:
        self.log = daemon.folder / f"{name}.log"
        command = daemon.command("worker", "run", "-c", str(daemon.config), "--data", str(daemon.folder / name))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(60)


@contextlib.contextmanager
def working(daemon: Daemon, name: str, *arguments: str) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(daemon, name, *arguments)
    try:
        yield worker
    finally:
        worker.close()


def workers(daemon: Daemon, state: str = "active") -> list[Any]:
    return [one for one in daemon.get("/api/v1/workers")["items"] if one["state"] == state]


def started(daemon: Daemon, *arguments: str) -> str:
    ended = daemon.run("job", "run", *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def in_state(daemon: Daemon, run_id: str, state: str, within_s: float = 20.0) -> Any:
    def there() -> Any:
        run = daemon.get(f"/api/v1/runs/{run_id}")
        return run if run["state"] == state else None

    return wait_until(there, within_s=within_s, what=f"{run_id} {state}")


def test_workers_carry_out_what_a_daemon_starts(tmp_path: Path, url: str) -> None:
    with running(tmp_path, config(tmp_path, url, work=False)) as daemon:
        run_id = started(daemon, "quick")
        assert daemon.get(f"/api/v1/runs/{run_id}")["state"] == "queued"
        with working(daemon, "a", "--labels", "zone=a", "--slots", "3"), working(daemon, "b", "--labels", "zone=b"):
            wait_until(lambda: len(workers(daemon)) == 2, what="both workers")
            in_state(daemon, run_id, "succeeded")
            slots = {one["labels"]["zone"]: one["slots"] for one in workers(daemon)}
            assert slots == {"a": 3, "b": 10}
            ended = daemon.run("job", "run", "placed", "--wait", "--json")
            assert ended.returncode == 0, ended.stderr
            listed = daemon.run("worker", "list").stdout
            assert "zone=a" in listed
            assert "zone=b" in listed


def test_a_run_outlives_the_worker_that_is_killed(tmp_path: Path, url: str) -> None:
    effects = tmp_path / "effects"
    with running(tmp_path, config(tmp_path, url, work=False)) as daemon, working(daemon, "a") as first:
        run_id = started(daemon, "long", "-p", "seconds=3")
        wait_until(lambda: written(effects), what="the step's beginning")
        with working(daemon, "b") as second:
            wait_until(lambda: len(workers(daemon)) == 2, what="both workers")
            first.process.kill()
            run = in_state(daemon, run_id, "succeeded", within_s=60)
            assert second.process.poll() is None
            lines = effects.read_text().split("\n")
            # The first program was ended before the second began: only one of them came to its end.
            assert [line.split()[0] for line in lines if line] == ["begun", "begun", "ended"]
            assert run["reason"] == ""
            wait_until(lambda: len(workers(daemon, "lost")) == 1, what="the loss")


def test_a_worker_that_is_told_to_stop_gives_its_runs_back(tmp_path: Path, url: str) -> None:
    effects = tmp_path / "effects"
    text = config(tmp_path, url, work=False).replace("grace: 3s", "grace: 300ms")
    with running(tmp_path, text) as daemon, working(daemon, "a") as first:
        run_id = started(daemon, "long", "-p", "seconds=2")
        wait_until(lambda: written(effects), what="the step's beginning")
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(60) == 0, first.log.read_text()
        assert workers(daemon) == []
        assert workers(daemon, "lost") == []
        with working(daemon, "b"):
            in_state(daemon, run_id, "succeeded", within_s=60)


def test_a_drained_worker_takes_nothing_new(tmp_path: Path, url: str) -> None:
    with running(tmp_path, config(tmp_path, url, work=False)) as daemon, working(daemon, "a"):
        (worker,) = wait_until(lambda: workers(daemon), what="the worker")
        assert daemon.run("worker", "drain", worker["worker_id"]).returncode == 0
        assert wait_until(lambda: workers(daemon, "draining"), what="draining")
        run_id = started(daemon, "quick")
        with working(daemon, "b"):
            in_state(daemon, run_id, "succeeded")


def test_sighup_reloads_a_worker(tmp_path: Path, url: str) -> None:
    with running(tmp_path, config(tmp_path, url, work=False)) as daemon, working(daemon, "a") as worker:
        wait_until(lambda: workers(daemon), what="the worker")
        daemon.config.write_text(config(tmp_path, url, work=False).replace("ttl: 2s", "ttl: 2s, slots: 7"))
        worker.process.send_signal(signal.SIGHUP)
        wait_until(lambda: [one for one in workers(daemon) if one["slots"] == 7], what="the reload")
        assert daemon.run("job", "run", "quick", "--wait").returncode == 0


def test_all_state_moves_to_postgresql(tmp_path: Path, url: str) -> None:
    in_file = config(tmp_path, "", work=True)
    with running(tmp_path, in_file) as daemon:
        done = started(daemon, "quick")
        in_state(daemon, done, "succeeded")
        waiting = started(daemon, "asks", "-p", "token=hunter2secret")
        wait_until(lambda: daemon.get(f"/api/v1/runs/{waiting}")["waiting_for"], what="the question")
        refused = daemon.run("database", "move", "--to", url, "--data", str(daemon.data))
        assert refused.returncode == 11
        assert "stop that Dogwatch" in refused.stderr
        daemon.stop()
        before = (daemon.data / "state.db").read_bytes()
        moved = daemon.run("database", "move", "--to", url, "--data", str(daemon.data), "--json")
        assert moved.returncode == 0, moved.stderr
        rows = json.loads(moved.stdout)["rows"]
        assert rows["runs"] == 2
        assert rows["audit_events"] >= 2
        assert (daemon.data / "state.db").read_bytes() == before
        again = daemon.run("database", "move", "--to", url, "--data", str(daemon.data))
        assert again.returncode == 11
        assert "not empty" in again.stderr
        daemon.config.write_text(config(tmp_path, url, work=True))
        daemon.start()
        assert daemon.get(f"/api/v1/runs/{done}")["state"] == "succeeded"
        assert "done" in daemon.run("run", "logs", done).stdout
        assert daemon.run("run", "approve", waiting).returncode == 0
        in_state(daemon, waiting, "succeeded")
        assert daemon.get("/api/v1/schedules")["items"][0]["state"] == "active"
        assert "hunter2secret" not in daemon.output()


def test_a_move_lets_runs_end_first(tmp_path: Path, url: str) -> None:
    effects = tmp_path / "effects"
    with running(tmp_path, config(tmp_path, "", work=True)) as daemon:
        endless = started(daemon, "long")
        wait_until(lambda: written(effects), what="the step's beginning")
        move = ("database", "move", "--to", url, "--data", str(daemon.data), "--drain")
        late = daemon.run(*move, "--wait", "500ms")
        assert late.returncode == 11
        assert "runs still at work after 0.5 s: 1" in late.stderr
        # It goes on as before: what is started now is carried out.
        assert daemon.run("job", "run", "quick", "--wait").returncode == 0
        assert daemon.run("run", "cancel", endless).returncode == 0
        in_state(daemon, endless, "cancelled")
        waiting = started(daemon, "asks", "-p", "token=x")
        wait_until(lambda: daemon.get(f"/api/v1/runs/{waiting}")["waiting_for"], what="the question")
        ending = started(daemon, "long", "-p", "seconds=2")
        wait_until(lambda: effects.read_text().count("begun") == 2, what="the second beginning")
        moved = daemon.run(*move, "--json")
        assert moved.returncode == 0, moved.stderr
        assert json.loads(moved.stdout)["rows"]["runs"] == 4
        assert daemon.process is not None
        assert daemon.process.wait(60) == 0
        assert effects.read_text().count("ended") == 1
        daemon.config.write_text(config(tmp_path, url, work=True))
        daemon.start()
        assert daemon.get(f"/api/v1/runs/{waiting}")["waiting_for"]
        in_state(daemon, ending, "succeeded")


def test_an_address_that_is_none_is_refused_and_its_password_not_shown(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "database: {url: 'mysql://watch:topsecret@db/watch'}\n")
    ended = daemon.run("config", "check", "-c", str(daemon.config))
    assert ended.returncode == 2
    assert "database.url" in ended.stderr
    assert "topsecret" not in ended.stdout + ended.stderr
    gone = daemon.run("database", "move", "--to", "postgresql://watch:topsecret@127.0.0.1:1/x", "--data", str(tmp_path))
    assert gone.returncode == 13
    assert "topsecret" not in gone.stdout + gone.stderr


def test_two_workers_of_one_folder_stand_beside_a_daemon_that_works(tmp_path: Path, url: str) -> None:
    with (
        running(tmp_path, config(tmp_path, url, work=True)) as daemon,
        working(daemon, "data"),
        working(daemon, "data"),
    ):
        wait_until(lambda: len(workers(daemon)) == 3, what="three workers")
        assert daemon.run("job", "run", "quick", "--wait").returncode == 0
