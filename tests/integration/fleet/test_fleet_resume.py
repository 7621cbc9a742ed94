"""Runs that go on: after a stop rule, Ctrl-C and kill -9, in real processes, on exactly the rest of the hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "hosts.ini").write_text("box[1:8] ansible_connection=local\n")
    return tmp_path


def command(place: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "dogwatch", "fleet", *words]


def dogwatch(place: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(command(place, *words), cwd=place, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def told(place: Path, *words: str) -> tuple[int, dict[str, object]]:
    code, out, err = dogwatch(place, *words, "--json")
    assert out, err
    return code, json.loads(out)


def states(answer: dict[str, object]) -> list[str]:
    return [one["state"] for one in answer["hosts"]]  # type: ignore[attr-defined]


def test_a_stopped_run_goes_on_with_the_rest_and_failures_are_retried_alone(place: Path) -> None:
    script = 'echo x >> count; [ "$(wc -l < count)" -ne 2 ]'
    code, first = told(place, "run", script, "-i", "hosts.ini", "-t", "all", "--forks", "1", "--max-fail", "0")
    assert code == 3
    assert states(first) == ["succeeded", "non_zero", *["not_started"] * 6]
    code, again = told(place, "run", "--resume", str(first["run"]))
    assert code == 3
    assert again["run"] == first["run"]
    assert states(again) == ["succeeded", "non_zero", *["succeeded"] * 6]
    assert (place / "count").read_text().count("x") == 8
    assert dogwatch(place, "run", "--resume", str(first["run"]))[0] == 11
    code, retried = told(place, "run", "--retry-failed", str(first["run"]))
    assert (code, [one["host"] for one in retried["hosts"]]) == (0, ["box2"])  # type: ignore[attr-defined]
    assert retried["run"] != first["run"]
    assert dogwatch(place, "run", "--retry-failed", str(retried["run"]))[0] == 10


def test_kill_9_in_the_middle_loses_no_result_and_repeats_only_what_ran(place: Path) -> None:
    wait = "while [ ! -e go ]; do sleep 0.05; done"
    count = "n=$( (flock 9; echo >> begun; wc -l < begun) 9> lock )"  # in the order of their beginnings
    script = f'{count}; [ "$n" -le 3 ] || {wait}; echo >> ended'
    words = command(place, "run", script, "-i", "hosts.ini", "-t", "all", "--forks", "2", "--env", "A=it's secret")
    process = subprocess.Popen(words, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s and (len(lines(place, "begun")) < 5):
        time.sleep(0.02)
    busy = dogwatch(place, "runs", "--json")[1]
    assert (json.loads(busy)[0]["state"], json.loads(busy)[0]["alive"]) == ("running", True)
    run = json.loads(busy)[0]["run"]
    code, _, err = dogwatch(place, "run", "--resume", run)
    assert (code, f"process {process.pid}" in err) == (11, True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (place / "go").touch()  # what it had begun ends by itself: nobody is there to see it
    shown = json.loads(dogwatch(place, "runs", run, "--json")[1])
    assert shown["alive"] is False
    before = {one["host"]: one["state"] for one in shown["hosts"]}
    kept = [host for host, state in before.items() if state == "succeeded"]
    cut = [host for host, state in before.items() if state == "running"]
    assert (len(kept), len(cut), len(before)) == (3, 2, 8)
    begun = len(lines(place, "begun"))
    assert begun == 5
    code, answer = told(place, "run", "--resume", run)
    assert (code, states(answer)) == (0, ["succeeded"] * 8)
    assert len(lines(place, "begun")) == begun + 5
    text = (place / "data" / "fleet" / "state.db").read_bytes()
    assert b"it's secret" not in text


def lines(place: Path, name: str) -> list[str]:
    path = place / name
    return path.read_text().splitlines() if path.exists() else []


def test_ctrl_c_leaves_a_run_that_goes_on(place: Path) -> None:
    script = "[ ! -e slow ] || { touch there; sleep 30; }"
    (place / "slow").touch()
    words = command(place, "run", script, "-i", "hosts.ini", "-t", "all", "--forks", "3", "--json")
    process = subprocess.Popen(words, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s and not (place / "there").exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    first = json.loads(out)
    assert process.returncode == 130
    assert set(states(first)) == {"cancelled", "not_started"}
    (place / "slow").unlink()
    code, answer = told(place, "run", "--resume", first["run"])
    assert (code, states(answer)) == (0, ["succeeded"] * 8)


def test_copies_go_on_with_the_same_file_only(place: Path) -> None:
    (place / "file").write_text("one")
    words = ("copy", "file", "no/such/target", "-i", "hosts.ini", "-t", "all", "--forks", "1", "--max-fail", "0")
    code, first = told(place, *words)
    assert (code, states(first)) == (1, ["non_zero", *["not_started"] * 7])
    (place / "file").write_text("two")
    code, _, err = dogwatch(place, "run", "--resume", str(first["run"]))
    assert (code, "is not any more what was copied" in err) == (11, True)
    (place / "file").write_text("one")
    (place / "no" / "such").mkdir(parents=True)
    code, answer = told(place, "run", "--resume", str(first["run"]))
    assert (code, states(answer)[1:]) == (3, ["succeeded"] * 7)
    assert (place / "no" / "such" / "target").read_text() == "one"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "uptime"], 2, "on which hosts"),
        (["run", "-t", "all"], 2, "there is no command"),
        (["run", "--resume", "none"], 10, "no fleet run"),
        (["run", "--resume", "x", "--retry-failed", "y"], 2, "two things"),
        (["run", "--resume", "x", "uptime"], 2, "COMMAND cannot be another"),
        (["run", "--retry-failed", "x", "-t", "all"], 2, "-t cannot be another"),
        (["run", "--resume", "x", "--limit", "a"], 2, "--limit cannot be another"),
        (["runs", "none"], 10, "no fleet run"),
    ],
)
def test_misuse_is_told(place: Path, words: list[str], code: int, message: str) -> None:
    given = [*words, *(("-i", "hosts.ini") if "uptime" in words or "all" in words else ())]
    found, _, err = dogwatch(place, *given)
    assert (found, message in err) == (code, True), err


def test_a_script_goes_on_as_it_was(place: Path) -> None:
    """Its text and its arguments are kept sealed, and are there after the file is gone."""
    script = place / "fix.sh"
    script.write_text('#!/bin/sh\necho "$1" "$SECRET"; echo x >> count; [ "$(wc -l < count)" -ne 1 ]\n')
    words = ("script", "fix.sh", "it's", "-i", "hosts.ini", "-t", "all", "--forks", "1", "--max-fail", "0")
    code, first = told(place, *words, "--env", "SECRET=hunter2")
    assert (code, states(first)[1:]) == (1, ["not_started"] * 7)
    script.unlink()
    code, again = told(place, "run", "--resume", str(first["run"]))
    assert (code, again["hosts"][7]["stdout"]) == (3, "it's hunter2\n")  # type: ignore[index]
    shown = dogwatch(place, "runs", str(first["run"]))[1]
    assert "fix.sh" in shown
