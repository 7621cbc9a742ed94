"""A child process of one attempt: its own group, bounded output, ended and reaped whatever happens.

subprocess.Popen and a pidfd rather than asyncio's subprocesses: those need a child watcher, hand out no process group
to end, and uvloop's cannot change the user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.probes.progress import ProbeFailed

_CHUNK = 64 * 1024
_POLL_S = 0.02


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. cwd: "" for ours. user: "" for ours. stdin: None for /dev/null. max_output_bytes: of each pipe."""

    args: Sequence[str]
    env: Mapping[str, str]
    cwd: str = ""
    user: str = ""
    stdin: bytes | None = None
    max_output_bytes: int = 64 * 1024


class Child:
    """A running command. Call `close` on every path: it never waits, and what is left ends in the background."""

    def __init__(self, command: Command) -> None:
        """Raises: ProbeFailed with reason "local" where it cannot be started."""
        self._loop = asyncio.get_running_loop()
        self._command = command
        self._process = _start(command)
        self._pipes: dict[int, Any] = {}
        self._pending = memoryview(command.stdin or b"")
        self._gone = asyncio.Event()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self.output = bytearray()
        self.errors = bytearray()
        self._poll: asyncio.TimerHandle | None = None
        self._pidfd = _pidfd(self._process.pid)
        self._listen()

    def _listen(self) -> None:
        for pipe, kept in ((self._process.stdout, self.output), (self._process.stderr, self.errors)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._pipes[pipe.fileno()] = pipe
            self._loop.add_reader(pipe.fileno(), self._read, pipe.fileno(), kept)
        if self._process.stdin is not None:
            descriptor = self._process.stdin.fileno()
            os.set_blocking(descriptor, False)
            self._loop.add_writer(descriptor, self._write, descriptor)
        if self._pidfd >= 0:
            self._loop.add_reader(self._pidfd, self._exited)
        else:
            self._look()

    def _read(self, descriptor: int, kept: bytearray) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._hang_up(descriptor)
            return
        room = self._command.max_output_bytes - len(kept)
        kept += data[:room]
        if len(data) > room and not self._ended.done():
            limit = self._command.max_output_bytes
            self._ended.set_exception(ProbeFailed("too_large", f"it wrote more than {limit} bytes"))

    def _write(self, descriptor: int) -> None:
        try:
            written = os.write(descriptor, self._pending[:_CHUNK]) if self._pending else 0
        except BlockingIOError:
            return
        except OSError:  # it does not want to read more
            self._pending = memoryview(b"")
        else:
            self._pending = self._pending[written:]
        if not self._pending:
            self._close_stdin()

    def _close_stdin(self) -> None:
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            self._loop.remove_writer(stdin.fileno())
            stdin.close()

    def _hang_up(self, descriptor: int) -> None:
        pipe = self._pipes.pop(descriptor, None)
        if pipe is not None:
            self._loop.remove_reader(descriptor)
            pipe.close()

    def _look(self) -> None:
        """Ask whether it ended, where the kernel has no pidfd; without reaping it, so that its group stays ours."""
        if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._exited()
        else:
            self._poll = self._loop.call_later(_POLL_S, self._look)

    def _exited(self) -> None:
        self._forget()  # a pidfd stays readable: left there, it would wake the loop without end
        self._gone.set()
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait(self) -> int:
        """Return the exit status (negative: the signal that ended it) once it has ended, with all output read.

        Raises: ProbeFailed with reason "too_large".
        """
        await asyncio.shield(self._ended)
        # A grandchild may hold the pipes open for ever: only what is there already is waited for.
        for descriptor in list(self._pipes):
            kept = self.output if self._pipes[descriptor] is self._process.stdout else self.errors
            for _ in range(self._command.max_output_bytes // _CHUNK + 2):
                before = len(kept)
                self._read(descriptor, kept)
                if descriptor not in self._pipes or len(kept) == before:
                    break
        self._kill(signal.SIGKILL)  # what it left in the background; it is not reaped yet, so the group is still ours
        return self._process.wait()

    def _kill(self, number: int) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def close(self, grace_s: float, tasks: set[asyncio.Task[None]]) -> None:
        """Release everything now. What still runs gets TERM, and KILL after the grace, by a task kept in `tasks`."""
        self._close_stdin()
        for descriptor in list(self._pipes):
            self._hang_up(descriptor)
        if self._process.returncode is None:
            self._kill(signal.SIGTERM)
            task = self._loop.create_task(self._reap(grace_s), name=f"reap {self._process.pid}")
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def _forget(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    async def _reap(self, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s):
                await self._gone.wait()
        except TimeoutError:
            pass
        finally:
            # Also when this is cancelled: what was KILLed can be waited for without a pause to speak of.
            self._kill(signal.SIGKILL)
            self._process.wait()
            self._forget()


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1


def _start(command: Command) -> subprocess.Popen[bytes]:
    name = command.args[0]
    try:
        return subprocess.Popen(  # noqa: S603 running what the operator configured is the purpose
            list(command.args),
            stdin=subprocess.DEVNULL if command.stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=command.cwd or None,
            env=dict(command.env),
            close_fds=True,
            start_new_session=True,
            bufsize=0,
            **_identity(command.user),
        )
    except FileNotFoundError as error:
        # cwd that does not exist is the same exception: its filename tells.
        raise ProbeFailed("local", f"cannot run {name}: {error.filename or name} does not exist") from error
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        why = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
        raise ProbeFailed("local", f"cannot run {name}: {why}") from error


def _identity(user: str) -> dict[str, Any]:
    """Return Popen's arguments to become a user, with that user's groups and no others."""
    if not user:
        return {}
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError as error:
        raise ProbeFailed("local", f"there is no user '{user}'") from error
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
