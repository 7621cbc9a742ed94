"""Programs under a launcher, with real processes: how they run, what is read of them, how they are ended."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from tests.integration.launch.programs import Output, _read, programs, run, sh
from tests.launching import alive, until

from dogwatch.engine.launch.command import ANSWER_BYTES, Command
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.errors import PermanentError, TransientError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")


async def test_status_output_and_usage(launcher: Launcher) -> None:
    status, output = await run(launcher, sh("echo out; echo err >&2; for i in {1..50000}; do :; done; exit 7"))
    assert (status.code, status.signal) == (7, 0)
    assert (bytes(output.stdout), bytes(output.stderr)) == (b"out\n", b"err\n")
    assert 0.01 < status.cpu_s < 5
    assert 2**20 < status.max_rss_bytes < 2**27


async def test_a_signal_is_told_from_an_exit(launcher: Launcher) -> None:
    status, _ = await run(launcher, sh("kill -SEGV $$"))
    assert (status.code, status.signal) == (139, signal.SIGSEGV)


async def test_bytes_come_through_as_they_are(launcher: Launcher) -> None:
    data = bytes(range(256)) * 4000
    status, output = await run(launcher, Command(args=["cat"], stdin=data))
    assert status.code == 0
    assert output.stdout == data


async def test_without_stdin_there_is_nothing_to_read(launcher: Launcher) -> None:
    _, output = await run(launcher, sh("cat; readlink /proc/$$/fd/0"))
    assert bytes(output.stdout) == b"/dev/null\n"


async def test_a_program_that_reads_nothing_of_its_stdin(launcher: Launcher) -> None:
    status, _ = await run(launcher, sh("exec 0<&-; exit 0", stdin=b"x" * 10_000_000))
    assert status.code == 0


async def test_a_program_that_closes_its_output_runs_on(launcher: Launcher) -> None:
    status, output = await run(launcher, sh("echo first; exec >&- 2>&-; sleep 0.1; exit 4"))
    assert status.code == 4
    assert bytes(output.stdout) == b"first\n"


async def test_it_has_three_descriptors_a_session_and_default_signals(launcher: Launcher) -> None:
    _, output = await run(launcher, sh("ls /proc/$$/fd; ps -o pid=,sid=,pgid= -p $$"))
    *descriptors, ids = output.stdout.decode().splitlines()
    assert descriptors == ["0", "1", "2"]
    assert len(set(ids.split())) == 1
    # Without a shell, which blocks signals itself while it forks.
    _, output = await run(launcher, Command(args=["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]))
    # 32 and 33 are the C library's own: it lets nobody change them, so that they stay as whoever started us had them.
    own = 1 << 31 | 1 << 32
    assert [int(line.split()[1], 16) & ~own for line in output.stdout.decode().splitlines()] == [0, 0]


async def test_its_environment_is_clean(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOGWATCH_DB_PASSWORD", "hidden")
    monkeypatch.setenv("LC_TIME", "C")
    _, output = await run(launcher, Command(args=["env"], env={"MORE": "a=b\nc", "TZ": "Asia/Tokyo"}))
    text = output.stdout.decode()
    assert "hidden" not in text
    assert "MORE=a=b\nc\n" in text
    assert "TZ=Asia/Tokyo\n" in text
    assert "LC_TIME=C\n" in text
    names = {line.partition("=")[0] for line in text.splitlines()}
    allowed = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"}
    ours = {"MORE", "c", "DOGWATCH_GUARD"}
    assert {name for name in names if not name.startswith("LC_")} <= allowed | ours


async def test_the_guards_own_environment_has_no_secrets(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOGWATCH_DB_PASSWORD", "hidden")
    await run(launcher, sh("true"))
    assert "hidden" not in _read(launcher.guard_pid, "environ")


async def test_limits(launcher: Launcher, tmp_path: Path) -> None:
    command = sh(
        "umask; ulimit -n; ulimit -v; nice; pwd",
        umask=0o27,
        open_files=77,
        memory_bytes=2**30,
        nice=5,
        cwd=str(tmp_path),
    )
    _, output = await run(launcher, command)
    assert output.stdout.decode().split() == ["0027", "77", str(2**20), str(os.nice(0) + 5), str(tmp_path)]


@as_root
async def test_another_user(launcher: Launcher) -> None:
    command = sh("id -un; id -G; echo $HOME $USER; echo mine > $ANSWER", user="nobody", cwd="/", answer="ANSWER")
    status, output = await run(launcher, command)
    name, groups, home = output.stdout.decode().splitlines()
    assert (name, home) == ("nobody", "/nonexistent nobody")
    assert "0" not in groups.split()
    assert status.answer == b"mine\n"


@as_root
async def test_another_user_cannot_make_us_read_somebody_elses_file(launcher: Launcher) -> None:
    command = sh("rm $ANSWER; ln -s /etc/shadow $ANSWER", user="nobody", cwd="/", answer="ANSWER")
    status, _ = await run(launcher, command)
    assert status.answer == b""


async def test_the_answer_file_is_bounded_and_taken_away(launcher: Launcher) -> None:
    status, output = await run(launcher, sh("echo $ANSWER; head -c 1000000 /dev/zero > $ANSWER", answer="ANSWER"))
    assert len(status.answer) == ANSWER_BYTES + 1
    assert os.fsdecode(bytes(output.stdout).strip()) not in map(str, Path(tempfile.gettempdir()).iterdir())  # noqa: ASYNC240


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Command(args=["no-such-program"]), "cannot run no-such-program: no such file or directory"),
        (Command(args=["/etc/passwd"]), "cannot run /etc/passwd: permission denied"),
        (Command(args=["true"], cwd="/no/such"), "cannot run true in /no/such: no such file or directory"),
        (Command(args=["true"], user="nobody-at-all"), "there is no user 'nobody-at-all'"),
        (Command(args=["true", "x" * 200_000]), "cannot run true: argument list too long"),
        (Command(args=["true", "a\0b"]), "cannot run 'true': an empty program name, a NUL"),
        (Command(args=[]), "cannot run '': an empty program name"),
        (Command(args=["true"], env={"A=B": "c"}), "bad variable name"),
    ],
)
async def test_what_cannot_be_started_says_why(launcher: Launcher, command: Command, message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        await run(launcher, command)


async def test_scripts_that_cannot_be_started_say_why(launcher: Launcher, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(PermanentError, match=r"interpreter of its first line \(#!\) does not exist"):
        await run(launcher, Command(args=["./script"], cwd=str(tmp_path)))
    script.write_text("echo no first line\n")
    with pytest.raises(PermanentError, match="exec format error"):
        await run(launcher, Command(args=[str(script)]))


async def test_a_long_script_and_environment_come_through(launcher: Launcher) -> None:
    env = {f"V{n}": "é" * 50_000 for n in range(10)}
    status, output = await run(
        launcher, sh(f"echo ${{#V9}}; exit 3 # {'x' * 100_000}", env={**env, "LC_ALL": "C.UTF-8"})
    )
    assert (status.code, bytes(output.stdout)) == (3, b"50000\n")


async def _cancelled(launcher: Launcher, command: Command) -> tuple[float, Output]:
    """Cancel a program once it has said something, and return how long its end took."""
    output = Output()
    task = asyncio.create_task(launcher.run(command, output))
    await output.seen.wait()
    began_s = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began_s, output


async def test_cancel_lets_it_clean_up(launcher: Launcher) -> None:
    script = "trap 'sleep 0.1; echo cleaned; exit' TERM; echo ready; sleep 300 & wait"
    took_s, output = await _cancelled(launcher, sh(script))
    assert b"cleaned" in output.stdout
    assert took_s < 20


async def test_cancel_kills_what_does_not_heed_it(launcher: Launcher) -> None:
    script = "trap '' TERM; (setsid sleep 300 &); echo $$; while :; do sleep 1; done"
    took_s, output = await _cancelled(launcher, sh(script, grace_s=0.3))
    assert 0.3 <= took_s < 20
    assert not alive(int(output.stdout))


async def test_cancel_reaches_stopped_processes(launcher: Launcher) -> None:
    took_s, _ = await _cancelled(launcher, sh("trap 'exit' TERM; echo ready; kill -STOP $$; :", grace_s=30))
    assert took_s < 20


async def test_a_cancel_never_hits_the_next_program(launcher: Launcher) -> None:
    """Shepherds take one program after the other; a kill that is a moment late must find nobody."""
    for step in range(80):
        task = asyncio.create_task(launcher.run(sh("true"), Output()))
        await asyncio.sleep(step / 80 * 0.008)
        task.cancel()
        await asyncio.wait({task})
        status, _ = await run(launcher, sh("exit 3"))
        assert (status.code, status.signal) == (3, 0)


async def test_a_second_cancel_does_not_wait(launcher: Launcher) -> None:
    output = Output()
    command = sh("trap '' TERM; echo $$; while :; do sleep 1; done", grace_s=60)
    task = asyncio.create_task(launcher.run(command, output))
    await output.seen.wait()
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    began_s = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began_s < 20
    assert not alive(int(output.stdout))


async def test_a_timeout_ends_it(launcher: Launcher) -> None:
    output = Output()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await launcher.run(sh("echo $$; sleep 300"), output)
    assert not alive(int(output.stdout))


async def test_cancelled_at_any_moment_it_leaves_nothing(launcher: Launcher) -> None:
    await run(launcher, sh("true"))
    for step in range(60):
        task = asyncio.create_task(launcher.run(sh("sleep 300"), Output()))
        for _ in range(step % 12):
            await asyncio.sleep(0)
        await asyncio.sleep(step / 12 / 1000 if step >= 12 else 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # A cancel may come before the program was handed over: then the guard has never heard of it.
    await asyncio.to_thread(until, lambda: not programs(launcher))


async def test_what_it_leaves_in_the_background_is_ended_with_it(launcher: Launcher) -> None:
    began_s = time.monotonic()
    status, output = await run(launcher, sh("setsid sleep 300 & echo $!; exit 0"))
    assert status.code == 0
    assert not alive(int(output.stdout))
    assert time.monotonic() - began_s < 20


async def test_a_helper_that_ends_by_itself_is_let_be(launcher: Launcher) -> None:
    _, output = await run(launcher, sh("exec > >(sleep 0.1; cat); echo kept"))
    assert bytes(output.stdout) == b"kept\n"


async def test_a_flood_neither_blocks_the_loop_nor_fills_memory(launcher: Launcher) -> None:
    seen = turns = 0

    def count(stream: str, data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    task = asyncio.create_task(launcher.run(Command(args=["yes"]), count))
    began_s = time.monotonic()
    while time.monotonic() - began_s < 1.0:
        await asyncio.sleep(0.005)
        turns += 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 5 * 2**20 < seen < 200 * 2**20
    assert turns > 20


async def test_a_slow_reader_holds_the_program_back(launcher: Launcher) -> None:
    seen = 0
    go = asyncio.Event()

    async def slowly(stream: str, data: bytes) -> None:
        nonlocal seen
        seen += len(data)
        await go.wait()

    task = asyncio.create_task(launcher.run(sh("head -c 3000000 /dev/zero; exit 5"), slowly))
    await asyncio.sleep(0.3)
    assert seen <= 65536
    assert not task.done()
    go.set()
    assert (await task).code == 5
    assert seen == 3_000_000


async def test_an_output_that_fails_ends_the_program(launcher: Launcher) -> None:
    def fail(stream: str, data: bytes) -> None:
        raise TransientError("the log is full")

    with pytest.raises(TransientError, match="the log is full"):
        await launcher.run(sh("echo x; sleep 300"), fail)
