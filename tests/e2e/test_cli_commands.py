"""Every command as a stranger meets it: help, empty states, completion, mistakes with their place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.e2e.running import Daemon, running, wait_until

from dogwatch.cli.main import cli, main


def every_command(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from every_command(member, (*path, name))


@pytest.mark.parametrize("path", list(every_command(cli)), ids=" ".join)
def test_help_fits_and_has_an_example(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "Example" in text
    assert f"dogwatch {' '.join(path)}".strip() in text.partition("Example")[2]


def test_alone_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    for path in ([], ["probe"], ["config"]):
        assert main(path) == 0
        assert "Usage: dogwatch" in capsys.readouterr().out


def test_empty_states(tmp_path: Path) -> None:
    with running(tmp_path, "probes: []\n") as daemon:
        assert "Nothing is watched yet" in daemon.run("status").stdout
        assert daemon.run("probe", "list").stdout == "No probes are configured.\n"
        assert json.loads(daemon.run("probe", "list", "--json").stdout) == []
        assert daemon.run("probe", "list", "--group", "x").stdout == "No probes match.\n"
        assert daemon.run("probe", "show", "shop").returncode == 10
        assert complete(daemon, "dogwatch probe show ") == []


# A busy machine is neither a finding nor a failure here.
CONFIG = """
self_watch: {lag_warn: 1h}
probes:
  - {name: zebra, exec: "true", every: 1s, timeout: 1s, failures: 60}
  - {name: ape, exec: "true", every: 1s, timeout: 1s, failures: 60}
  - name: measured
    exec: {args: [echo, "a=1\\nb=x\\nc=2.5"], expect: 'data.a == 1'}
    every: 1s
    timeout: 1s
    failures: 60
  - {name: job, heartbeat: 1h}
"""


def complete(daemon: Daemon, words: str, **environ: str) -> list[str]:
    env = {
        **os.environ,
        "DOGWATCH_SERVER": daemon.server,
        "_DOGWATCH_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        **environ,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "dogwatch"], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert ended.stderr == ""
    return [line.partition(",")[2] for line in ended.stdout.splitlines() if line]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, CONFIG.replace('exec: "true"', 'exec: ["true"]')) as daemon:
        yield daemon


def test_names_are_completed_by_the_daemon(daemon: Daemon) -> None:
    for command in ("show", "run", "pause", "resume"):
        assert complete(daemon, f"dogwatch probe {command} ") == ["zebra", "ape", "measured", "job"]
    assert complete(daemon, "dogwatch probe show a") == ["ape"]
    started_s = time.monotonic()
    assert complete(daemon, "dogwatch probe show ", DOGWATCH_SERVER="http://127.0.0.1:1") == []
    assert time.monotonic() - started_s < 20


def test_lists_follow_the_configuration_and_status_is_one_line(daemon: Daemon) -> None:
    assert daemon.request("GET", "/ping/job")[0] == 200
    wait_until(lambda: all(one["status"] == "up" for one in daemon.get("/api/v1/targets")["items"]))
    names = [line.split()[2] for line in daemon.run("probe", "list").stdout.splitlines()[1:]]
    assert names == ["zebra", "ape", "measured", "job"]
    assert status_line(daemon) == "● up 4  nothing is wrong"
    assert daemon.run("probe", "pause", "ape").returncode == 0
    assert status_line(daemon) == "‖ paused 1  ● up 3  nothing is wrong"


def status_line(daemon: Daemon) -> str:
    """Return the one line of `status`."""
    lines = daemon.run("status").stdout.splitlines()
    assert len(lines) == 1
    return str(lines[0])


def test_numbers_of_a_program_become_metrics(daemon: Daemon) -> None:
    def values() -> list[str]:
        text = daemon.request("GET", "/metrics")[1].decode()
        return [line for line in text.splitlines() if line.startswith("probe_exec_value{")]

    lines = wait_until(values)
    assert lines == [
        'probe_exec_value{target="measured",kind="exec",name="a"} 1.0',
        'probe_exec_value{target="measured",kind="exec",name="c"} 2.5',
    ]


def test_a_configured_probe_runs_through_the_daemon(daemon: Daemon) -> None:
    ended = daemon.run("probe", "run", "zebra", "--count", "3", "--interval", "10ms", "--json")
    assert ended.returncode == 0, ended.stderr
    assert [row["target"] for row in json.loads(ended.stdout)] == ["zebra"] * 3
    near = daemon.run("probe", "run", "zebr", "exec://true")
    assert near.returncode == 10
    assert "did you mean 'zebra'?" in near.stderr
    assert near.stdout == "", "nothing is run when a name is wrong"
    assert daemon.run("probe", "run", "zebra", "--set", "x=1").returncode == 2


def test_runs_are_paired_by_their_id(daemon: Daemon) -> None:
    one, two = "3f0a2f6e-5c4f-4a4b-9a55-0a8f3c1f2b11", "3f0a2f6e-5c4f-4a4b-9a55-0a8f3c1f2b12"
    for path in (f"start?rid={one}", f"start?rid={two}", f"0?rid={one}"):
        assert daemon.request("POST", f"/ping/job/{path}")[0] == 200
    values = wait_until(lambda: daemon.target("job")["values"])
    assert values["running"] is True
    assert values["last_duration_s"] > 0
    daemon.stop()
    daemon.start()
    assert daemon.request("POST", f"/ping/job?rid={two}")[0] == 200
    assert daemon.target("job")["values"]["running"] is False


def test_host_shows_ten_processes_unless_told(daemon: Daemon) -> None:
    found = wait_until(lambda: len(daemon.get("/api/v1/hosts")["items"][0]["processes"]) > 2)
    assert found

    def shown(*arguments: str) -> int:
        text = daemon.run("host", "show", *arguments).stdout
        return len(text.partition("Top processes\n")[2].partition("\n\n")[0].strip().splitlines()[1:])

    assert 2 < shown() <= 10
    assert shown("--processes", "2") == 2


def check(folder: Path, text: str) -> list[str]:
    file = folder / "dogwatch.yaml"
    file.write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "dogwatch", "config", "check", "-c", str(file), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    answer = json.loads(ended.stdout or ended.stderr)
    return [f"{one['file']}:{one['line']}: {one['message']}" for one in answer.get("problems", [])]


def test_config_check_finds_what_building_would(tmp_path: Path) -> None:
    modules = tmp_path / "blackbox.yml"
    modules.write_text("modules:\n  a:\n    prober: tpc\n")
    text = "probes:\n  - {name: a b, heartbeat: 1h}\n  - name: a-b\n    heartbeat: 1h\nmodules:\n  file: blackbox.yml\n"
    assert check(tmp_path, text) == [
        f"{tmp_path}/dogwatch.yaml:3: heartbeats 'a b' and 'a-b' would answer to the same URL",
        f"{modules}:3: unknown prober 'tpc'",
    ]


def test_a_changed_module_file_is_reloaded_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text("modules: {mine: {prober: icmp}}\n")
    with running(tmp_path, "modules: {file: blackbox.yml}\n") as daemon:

        def answers(module: str) -> bool:
            return daemon.request("GET", f"/probe?target=127.0.0.1:1&module={module}")[0] == 200

        assert answers("mine")
        (tmp_path / "blackbox.yml").write_text("modules: {other: {prober: tcp}}\n")
        wait_until(lambda: answers("other"))
        assert not answers("mine")
        (tmp_path / "blackbox.yml").write_text("modules: {third: {prober: tpc}}\n")
        failed = wait_until(
            lambda: [one for one in daemon.get("/api/v1/reloads")["items"] if one["outcome"] == "failed"]
        )
        assert "blackbox.yml:1: modules.third.prober: unknown prober" in failed[0]["problems"][0]
        assert answers("other")


def test_config_show_masks_what_a_job_says_is_secret(tmp_path: Path) -> None:
    file = tmp_path / "dogwatch.yaml"
    file.write_text("""
jobs:
  - name: deploy
    parameters: {token: {secret: true}, env: {}}
    steps: [{name: one, exec: {run: "true"}}]
schedules:
  - {name: nightly, job: deploy, every: 1h, parameters: {token: hunter2-very-secret, env: staging}}
""")
    for more in ([], ["--json"], ["schedules"]):
        done = subprocess.run(
            [sys.executable, "-m", "dogwatch", "config", "show", "-c", str(file), *more],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "hunter2" not in done.stdout, more
        assert "staging" in done.stdout
