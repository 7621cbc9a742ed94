"""The exec kind with real programs: what they say, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.probing import ask, children, new_attempt, open_descriptors

from dogwatch.probes.kinds.exec import ExecProbe, _from_json, _from_nagios, _from_text
from dogwatch.probes.probe import attempt_once


async def test_values_from_text() -> None:
    probe = ExecProbe(shell="echo 'load=1.5'; echo 'jobs: 3'; echo 'name = db one'; echo '1bad=2'; echo words")
    result = await ask(probe)
    assert result.success
    assert result.values["data"] == {"load": 1.5, "jobs": 3, "name": "db one"}
    assert result.values["exit_status"] == 0


async def test_values_from_json() -> None:
    good = await ask(ExecProbe(args=("echo", '{"a": {"b": [1, 2.5]}, "c": null}'), format="json"))
    bad = await ask(ExecProbe(args=("echo", "[1]"), format="json"))
    assert good.values["data"] == {"a": {"b": [1, 2.5]}, "c": None}
    assert bad.reason == "protocol"


@pytest.mark.parametrize(
    ("status", "success", "state"),
    [(0, True, "OK"), (1, True, "WARNING"), (2, False, "CRITICAL"), (3, False, "UNKNOWN")],
)
async def test_values_from_a_nagios_plugin(status: int, success: bool, state: str) -> None:
    line = f"DISK {state} - fine | /=2643MB;5948;5958;0;5968 'my disk'=12%;80 time=250ms;;;0 hits=7c"
    result = await ask(ExecProbe(shell=f'echo "{line}"; exit {status}', format="nagios"))
    assert (result.success, result.values["state"]) == (success, state)
    assert result.values["data"] == {"/": 2643 * 1024**2, "my disk": 12.0, "time": 0.25, "hits": 7.0}
    if not success:
        assert result.message == f"sh: {state}: DISK {state} - fine"


@given(st.text(max_size=300))
def test_any_output_is_read(text: str) -> None:
    assert isinstance(_from_text(text), dict)
    assert all(isinstance(value, float) for value in _from_nagios(f"OK | {text}").values())
    try:
        value = _from_json(text)
    except ValueError:
        value = {}
    assert isinstance(value, dict)


async def test_exit_status_and_output() -> None:
    failed = await ask(ExecProbe(shell="echo out; echo err >&2; exit 7"))
    wanted = await ask(ExecProbe(shell="exit 7", exit_status=(7, 8)))
    signalled = await ask(ExecProbe(shell="kill -9 $$"))
    mismatch = await ask(ExecProbe(args=("echo", "bad"), expect_output="^good"))
    assert (failed.reason, failed.values["exit_status"], failed.message) == ("exit", 7, "sh: exit status 7")
    assert failed.evidence is not None
    assert failed.evidence().body == "out\nerr\n"
    assert wanted.success
    assert (signalled.values["exit_status"], signalled.message) == (-9, "sh: ended by signal 9")
    assert (mismatch.reason, mismatch.values["failed_regex"]) == ("mismatch", True)


async def test_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    probe = ExecProbe(
        args=("sh", "-c", "cat; pwd; env; ls /proc/self/fd | wc -w; ps -o pgid= -p $$; echo $$"),
        stdin="from stdin\n",
        cwd=str(tmp_path),
        env={"COLOUR": "red"},
    )
    with (tmp_path / "inherited").open("w") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        result = await ask(probe)
    lines = result.values["output"].splitlines()
    assert lines[:2] == ["from stdin", str(tmp_path)]
    assert "COLOUR=red" in lines
    assert not [line for line in lines if "hunter2" in line]
    assert int(lines[-3]) == 4, "0, 1, 2 and the folder that ls reads"
    assert lines[-2].strip() == lines[-1], "a process group of its own"


async def test_a_program_that_does_not_read_its_input() -> None:
    result = await ask(ExecProbe(args=("true",), stdin="x" * 1_000_000))
    large = await ask(ExecProbe(args=("wc", "-c"), stdin="x" * 1_000_000))
    assert result.success
    assert large.values["output"].strip() == "1000000"


async def test_endless_output_is_ended() -> None:
    before = children()
    result = await ask(ExecProbe(args=("yes",), max_output=10_000), 30.0)
    assert result.reason == "too_large"
    assert children() == before


async def test_output_up_to_the_bound_is_whole() -> None:
    result = await ask(ExecProbe(shell="head -c 200000 /dev/zero | tr '\\0' x", max_output=200_000), 5.0)
    assert result.success, result.message
    assert len(result.values["output"]) == 200_000


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def all_end(pids: list[int]) -> bool:
    """Return whether processes that were killed are gone; the kernel takes a moment for those that are not ours."""
    for _ in range(200):
        if not any(alive(pid) for pid in pids):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_time_up_ends_the_whole_group_even_if_it_ignores_term(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    script = (
        f"trap '' TERM; (trap '' TERM; echo $BASHPID >> {note}; sleep 1000) & echo $$ >> {note}; sleep 1000; sleep 1000"
    )
    before, family = open_descriptors(), children()
    result = await ask(ExecProbe(args=("bash", "-c", script), grace=0.3), 2.0)
    assert result.reason == "timeout"
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 2
    assert await all_end(pids)
    assert open_descriptors().keys() <= before.keys()
    assert children() == family


async def test_the_result_does_not_wait_for_the_grace() -> None:
    family = children()
    attempt = new_attempt(0.3)
    started = time.monotonic()
    result = await attempt_once(ExecProbe(args=("bash", "-c", "trap '' TERM; while :; do :; done"), grace=3.0), attempt)
    assert result.reason == "timeout"
    assert time.monotonic() - started < 3
    assert attempt.env.tasks, "the end is awaited in the background"
    await asyncio.gather(*attempt.env.tasks)
    assert children() == family


async def test_stopping_the_daemon_kills_at_once() -> None:
    family = children()
    attempt = new_attempt(5.0)
    cancel = ExecProbe(args=("bash", "-c", "trap '' TERM; sleep 1000; sleep 1000"), grace=60).launch(attempt, print)
    await asyncio.sleep(0.2)
    cancel()
    await asyncio.sleep(0.05)
    for task in list(attempt.env.tasks):
        task.cancel()
    await asyncio.gather(*attempt.env.tasks, return_exceptions=True)
    assert children() == family


async def test_what_is_left_in_the_background_does_not_stay() -> None:
    result = await ask(ExecProbe(shell="sleep 1000 & echo pid=$!"))
    assert result.success
    assert await all_end([result.values["data"]["pid"]])


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_another_user() -> None:
    nobody = pwd.getpwnam("nobody")
    result = await ask(ExecProbe(shell="id -u; id -G", user="nobody"))
    uid, groups = result.values["output"].splitlines()
    assert int(uid) == nobody.pw_uid
    assert "0" not in groups.split()
    missing = await ask(ExecProbe(args=("true",), user="no-such-user"))
    assert (missing.reason, missing.message) == ("local", "there is no user 'no-such-user'")


async def test_what_cannot_be_run(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    refused = await ask(ExecProbe(args=(str(plain),)))
    no_folder = await ask(ExecProbe(args=("true",), cwd="/nowhere"))
    assert (refused.reason, refused.message) == ("local", f"cannot run {plain}: permission denied")
    assert no_folder.message == "cannot run true: /nowhere does not exist"


async def test_many_at_once_leave_nothing() -> None:
    family = children()
    before = open_descriptors()
    results = await asyncio.gather(*(ask(ExecProbe(args=(sys.executable, "-S", "-c", "")), 20) for _ in range(30)))
    assert all(result.success for result in results)
    assert open_descriptors().keys() <= before.keys()
    assert children() == family
