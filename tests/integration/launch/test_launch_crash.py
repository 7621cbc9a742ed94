"""Whoever is killed or stopped, worker, guard or shepherd: nothing of a program is left, in time for its retry."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path

import pytest
from tests.launching import Worker, alive, children, until, worker

from dogwatch.engine.launch.launcher import Launcher
from dogwatch.errors import Conflict

# How a program may try to outlive its worker. Each says "ready" once all of it is there.
DOUBLE_FORK = """
python3 -c '
import os, signal, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
print("ready", flush=True)
for n in range(3): os.close(n)
time.sleep(300)
'
sleep 300
"""
STUBBORN = "trap '' TERM HUP INT; (trap '' TERM HUP INT; echo ready; while :; do sleep 1; done) & wait"
STOPPED = "sleep 300 & kill -STOP $!; setsid sh -c 'echo ready; kill -STOP $$' & wait"
TREE = "for a in 1 2 3; do (for b in 1 2 3; do setsid sleep 300 & done; wait) & done; echo ready; wait"
NO_ENVIRONMENT = "env -i setsid sleep 300 & echo ready; wait"
WAYS = {"double fork": DOUBLE_FORK, "stubborn": STUBBORN, "stopped": STOPPED, "tree": TREE}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "guard.lock"


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


def everything(one: Worker) -> set[int]:
    """Return all processes below the worker, guard and shepherds included."""
    found = set(one.programs())
    left = [one.guard()]
    while left:
        pid = left.pop()
        found.add(pid)
        left += children(pid)
    return found


def none_of(pids: set[int]) -> bool:
    return not any(map(alive, pids))


def is_sleep(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00300\x00"
    except OSError:
        return False


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_worker_leaves_nothing_behind(lock: Path, mark: str, way: str) -> None:
    with worker(lock, WAYS[way], WAYS[way], mark=mark) as one:
        one.wait_for("ready")
        one.wait_for("ready")
        pids = everything(one)
        assert len(pids) >= 5
        os.kill(one.pid, signal.SIGKILL)
        assert until(lambda: none_of(pids) and not one.programs()) < 1.0


def test_a_killed_worker_leaves_nothing_that_cleared_its_environment(lock: Path, mark: str) -> None:
    with worker(lock, NO_ENVIRONMENT, mark=mark) as one:
        one.wait_for("ready")
        # "ready" may come before the other has become what it is going to be.
        until(lambda: any(map(is_sleep, everything(one))))
        pids = everything(one)
        assert not set(filter(is_sleep, pids)) & set(one.programs())
        os.kill(one.pid, signal.SIGKILL)
        assert until(lambda: none_of(pids)) < 1.0


def test_a_tree_that_goes_on_forking_is_cleaned_up(lock: Path, mark: str) -> None:
    # Up to some 60 processes that each replace themselves by two, and end: a bomb with a fuse.
    bomb = "b() { [ $1 -gt 40 ] || { b $(($1 + 1)) & }; sleep 0.02; setsid sh -c 'sleep 300' & }; echo ready; "
    with worker(
        lock, bomb + "while :; do b 1; sleep 0.01; [ $((i=i+1)) -gt 200 ] && break; done; wait", mark=mark
    ) as one:
        one.wait_for("ready")
        until(lambda: len(one.programs()) > 60, 30)
        os.kill(one.pid, signal.SIGKILL)
        until(lambda: not one.programs() and not alive(one.pid))


def test_a_stopped_worker_loses_its_programs_before_its_time_is_over(lock: Path, mark: str) -> None:
    with worker(lock, STUBBORN, DOUBLE_FORK, ttl="3.0", mark=mark) as one:
        one.wait_for("ready")
        one.wait_for("ready")
        pids = set(one.programs())
        guard = one.guard()
        os.kill(one.pid, signal.SIGSTOP)
        try:
            # The last renewal was at most a quarter of the time ago.
            took_s = until(lambda: none_of(pids))
            assert 1.5 < took_s < 4.5
            assert alive(guard)
        finally:
            os.kill(one.pid, signal.SIGCONT)
        for _ in range(2):
            line = one.stdout.readline()
            assert line.startswith("ended: interrupted: ")
            assert "did not renew its lease" in line
        one.wait_for("all ended")
        assert one.process.wait(60) == 0
    assert not alive(guard)


def test_a_killed_guard_takes_its_programs_along_and_the_worker_hears_of_it(lock: Path, mark: str) -> None:
    with worker(lock, DOUBLE_FORK, STUBBORN, mark=mark) as one:
        one.wait_for("ready")
        one.wait_for("ready")
        pids = everything(one)
        os.kill(one.guard(), signal.SIGKILL)
        assert until(lambda: none_of(pids)) < 1.0
        assert "guard process of this worker's programs was killed" in one.stdout.readline()
        one.wait_for("all ended")


def test_a_killed_shepherd_takes_its_program_along_and_no_other(lock: Path, mark: str) -> None:
    with worker(lock, DOUBLE_FORK, "echo ready; sleep 300", mark=mark) as one:
        one.wait_for("ready")
        one.wait_for("ready")
        # The one with the daemon and the shell that waits; those between may not have left yet.
        until(lambda: sorted(len(children(s)) for s in children(one.guard())) == [1, 2])
        first = next(s for s in children(one.guard()) if len(children(s)) == 2)
        (other,) = set(children(one.guard())) - {first}
        (survivor,) = children(other)
        below = set(children(first))
        os.kill(first, signal.SIGKILL)
        assert until(lambda: none_of(below)) < 1.0
        assert "the process that watched bash was killed" in one.stdout.readline()
        assert alive(survivor)


def test_all_but_the_programs_killed_the_next_worker_ends_them(lock: Path, mark: str) -> None:
    """`pkill -9 dogwatch`: what the kernel does not end with its parent is found by its environment."""
    with worker(lock, "(trap '' TERM; echo ready; sleep 300) & wait", mark=mark) as one:
        one.wait_for("ready")
        guard = one.guard()
        doomed = [one.pid, guard, *children(guard)]
        for pid in doomed:  # stopped first, or they would end it while they are killed one after the other
            os.kill(pid, signal.SIGSTOP)
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        until(lambda: none_of(set(doomed)))
        left = one.programs()
        assert left  # or this test shows nothing

        async def next_worker() -> None:
            launcher = Launcher(lock)
            await launcher.open()
            assert none_of(set(left))
            await launcher.close()

        asyncio.run(next_worker())


def test_the_next_worker_waits_until_the_last_program_is_gone(lock: Path, mark: str) -> None:
    with worker(lock, DOUBLE_FORK, mark=mark) as one:
        one.wait_for("ready")
        pids = set(one.programs())
        guard = one.guard()
        (shepherd,) = children(guard)
        os.kill(shepherd, signal.SIGSTOP)  # as if it were slow
        os.kill(one.pid, signal.SIGKILL)
        one.process.wait()

        async def next_worker() -> None:
            launcher = Launcher(lock)
            with pytest.raises(Conflict, match=f"locked by worker {one.pid}, guard {guard}"):
                await launcher.open(wait_s=0.2)
            assert any(map(alive, pids))
            os.kill(shepherd, signal.SIGCONT)
            await launcher.open()
            assert none_of(pids)
            await launcher.close()

        asyncio.run(next_worker())


def test_a_hang_up_and_a_service_managers_sigterm_end_no_program(lock: Path, mark: str) -> None:
    with worker(lock, "echo ready; sleep 300", mark=mark) as one:
        one.wait_for("ready")
        guard = one.guard()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            os.kill(guard, number)
            os.kill(children(guard)[0], number)
        (program,) = children(children(guard)[0])
        os.kill(program, signal.SIGCONT)
        assert alive(guard)
        assert alive(program)
        os.kill(one.pid, signal.SIGKILL)
        assert until(lambda: not alive(program)) < 1.0
