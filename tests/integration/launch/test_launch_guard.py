"""The guard of programs: many of them, leases, what remains when it is killed or closed, its size."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

import pytest
from tests.integration.launch.programs import Output, _read, programs, run, sh
from tests.launching import alive

from dogwatch.engine.launch import tree
from dogwatch.engine.launch.command import Command
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.engine.launch.system import boottime_s
from dogwatch.errors import TransientError


async def test_five_hundred_in_a_row_leak_nothing(launcher: Launcher) -> None:
    async def some(count: int) -> None:
        for _ in range(count):
            status, output = await run(launcher, Command(args=["echo", "x"], stdin=b"y", answer="ANSWER"))
            assert (status.code, bytes(output.stdout)) == (0, b"x\n")

    await asyncio.gather(*(some(10) for _ in range(4)))
    gc.collect()
    guard = launcher.guard_pid
    before = _descriptors("self"), _descriptors(str(guard)) - len(tree.children(guard))
    resident = _resident(guard)
    await asyncio.gather(*(some(125) for _ in range(4)))
    gc.collect()
    # The guard has a descriptor for each shepherd that waits for another program.
    assert (_descriptors("self"), _descriptors(str(guard)) - len(tree.children(guard))) == before
    assert _resident(guard) - resident < 2 * 2**20
    assert not programs(launcher)
    assert len(tree.children(guard)) <= 8
    for shepherd in tree.children(guard):
        assert _resident(shepherd) - resident < 2 * 2**20
        assert _descriptors(str(shepherd)) <= 9  # standard three, wakeup two, worker, guard, lease, lock


def _descriptors(process: str) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


async def test_many_at_the_same_time_are_bounded(tmp_path: Path) -> None:
    launcher = Launcher(limit=3)
    await launcher.open()
    peak = 0

    def look(stream: str, data: bytes) -> None:
        nonlocal peak
        peak = max(peak, len({shepherd for shepherd, _ in programs(launcher)}))

    await asyncio.gather(*(launcher.run(sh("echo x; sleep 0.05"), look) for _ in range(12)))
    await launcher.close()
    assert 2 <= peak <= 3


async def test_no_program_is_started_without_a_lease(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "lock", ttl_s=5)
    await launcher.open()
    launcher.renew(boottime_s() - 6)
    with pytest.raises(TransientError, match="did not renew its lease"):
        await run(launcher, sh(f"touch {tmp_path}/ran"))
    assert not (tmp_path / "ran").exists()
    launcher.renew()
    await run(launcher, sh(f"touch {tmp_path}/ran"))
    assert (tmp_path / "ran").exists()
    await launcher.close()


async def test_renewing_keeps_a_program_alive(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "lock", ttl_s=2.0)
    await launcher.open()
    task = asyncio.create_task(run(launcher, sh("sleep 3; exit 3")))
    while not task.done():
        launcher.renew()
        await asyncio.sleep(0.1)
    assert (await task)[0].code == 3
    await launcher.close()


async def test_after_its_guard_was_killed_a_new_one_is_started(launcher: Launcher) -> None:
    output = Output()
    await asyncio.gather(*(run(launcher, sh("true")) for _ in range(3)))  # shepherds that wait for another one
    task = asyncio.create_task(launcher.run(sh("echo $$; sleep 300"), output))
    await output.seen.wait()
    first = launcher.guard_pid
    os.kill(first, signal.SIGKILL)
    # A program that is handed over before this is known would be interrupted.
    while launcher.guard_pid == first:  # noqa: ASYNC110 nothing tells a stranger
        await asyncio.sleep(0)
    status, _ = await run(launcher, sh("exit 6"))
    assert status.code == 6
    assert launcher.guard_pid != first
    # Nothing of the old guard was left before anything of the new one was there.
    with pytest.raises(TransientError, match="interrupted"):
        await task
    assert not alive(int(output.stdout))


async def test_close_ends_what_runs(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "lock")
    await launcher.open()
    output = Output()
    task = asyncio.create_task(launcher.run(sh("trap 'echo bye; exit' TERM; echo $$; sleep 300 & wait"), output))
    await output.seen.wait()
    guard = launcher.guard_pid
    await launcher.close()
    with pytest.raises(TransientError, match="the worker stops"):
        await task
    number, bye = output.stdout.decode().split()
    assert bye == "bye"
    assert not alive(int(number))
    assert not alive(guard)
    with pytest.raises(TransientError, match="the worker stops"):
        await run(launcher, sh("true"))


async def test_close_does_not_wait_for_ever(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "lock")
    await launcher.open()
    output = Output()
    task = asyncio.create_task(launcher.run(sh("trap '' TERM; echo $$; while :; do sleep 1; done", grace_s=60), output))
    await output.seen.wait()
    await launcher.close(wait_s=0.3)
    with pytest.raises(TransientError):
        await task
    assert not alive(int(output.stdout))


async def test_a_guard_that_was_not_needed_was_not_started(tmp_path: Path) -> None:
    before = set(tree.children(os.getpid()))
    launcher = Launcher(tmp_path / "lock")
    await launcher.open()
    assert launcher.guard_pid == 0
    assert set(tree.children(os.getpid())) <= before
    await launcher.close()


async def test_a_guard_is_small(launcher: Launcher) -> None:
    await run(launcher, sh("true"))
    guard = launcher.guard_pid
    assert _resident(guard) < 20 * 2**20
    mapped = _read(guard, "maps")
    assert "_asyncio" not in mapped
    assert "msgspec" not in mapped


async def _once(lock: Path) -> Path:
    """Open and close a launcher; return what the answer file of a program was called."""
    launcher = Launcher(lock)
    await launcher.open()
    _, output = await run(launcher, sh("echo $ANSWER", answer="ANSWER"))
    await launcher.close()
    return Path(output.stdout.decode().strip())


def test_what_a_killed_worker_left_in_the_temporary_folder_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = asyncio.run(_once(tmp_path / "lock"))
    left.touch()
    other = tmp_path / "dogwatch-0123456789abcdef-x"
    other.touch()
    asyncio.run(_once(tmp_path / "lock"))
    assert not left.exists()
    assert other.exists()
