"""This machine, and containers of its Docker: programs that are started here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
from collections.abc import Sequence

from dogwatch.fleet.connection import Connection, Ended, HostFailed, Output, RemoteCommand, State
from dogwatch.fleet.drive import Channel, Drive, prepared

_PIECE = 65536


class LocalConnection(Connection):
    """Runs commands on this machine, in a session of their own."""

    async def run(self, command: RemoteCommand, output: Output | None = None) -> Ended:
        script, gate = prepared(command)
        channel = await _Program.start(["/bin/sh", "-c", script])
        return await Drive(channel, command, gate, output).run()

    async def close(self) -> None:
        """There is nothing to let go of."""


class DockerConnection(Connection):
    """Runs commands in a container, by `docker exec`. One that is stopped early may run on inside."""

    def __init__(self, container: str, *, user: str = "", program: str = "docker") -> None:
        self._container = container
        self._user = user
        self._program = program

    async def run(self, command: RemoteCommand, output: Output | None = None) -> Ended:
        script, gate = prepared(command)
        user = ["--user", self._user] if self._user else []
        args = [self._program, "exec", "-i", *user, "--", self._container, "/bin/sh", "-c", script]
        ended = await Drive(await _Program.start(args), command, gate, output).run()
        if ended.state is State.TIMED_OUT:
            return _noted(ended, f"{ended.note}; it may still run in the container")
        if ended.exit_code == 1 and ended.stderr.lower().startswith((b"error response from daemon", b"error: no such")):
            raise HostFailed(State.UNREACHABLE, ended.stderr.decode(errors="replace").strip()[:300])
        if ended.exit_code == 1 and b"docker daemon" in ended.stderr[:300]:
            raise HostFailed(State.UNREACHABLE, ended.stderr.decode(errors="replace").strip()[:300])
        return ended

    async def close(self) -> None:
        """There is nothing to let go of."""


def _noted(ended: Ended, note: str) -> Ended:
    return Ended(
        state=ended.state,
        exit_code=ended.exit_code,
        signal=ended.signal,
        stdout=ended.stdout,
        stderr=ended.stderr,
        cut=ended.cut,
        note=note,
    )


class _Program(Channel):
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, args: Sequence[str]) -> _Program:
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *args,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Cancelled in there, the library would wait until all that the program started has closed its pipes.
            with contextlib.suppress(OSError):
                await cls(await starting).close()
            raise
        except FileNotFoundError:
            raise HostFailed(State.UNREACHABLE, f"there is no program '{args[0]}' on this machine") from None
        except OSError as error:
            raise HostFailed(
                State.MISCONFIGURED, f"cannot start {args[0]}: {(error.strerror or str(error)).lower()}"
            ) from None
        return cls(process)

    async def read(self, stream: str) -> bytes:
        reader = self._process.stdout if stream == "stdout" else self._process.stderr
        assert reader is not None
        return await reader.read(_PIECE)

    async def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    def end_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def wait(self) -> tuple[int | None, str]:
        # Not the library's wait: that one ends when the last background child has closed the pipes.
        await _exited(self._process.pid)
        while (code := self._process.returncode) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)  # the loop is about to reap it
        if code >= 0:
            return code, ""
        with contextlib.suppress(ValueError):
            return None, signals.Signals(-code).name.removeprefix("SIG")
        return None, str(-code)

    async def signal(self, name: str) -> None:
        self._kill(name)

    def _kill(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, getattr(signals, f"SIG{name}"))

    async def close(self) -> None:
        if self._process.returncode is None:
            self._kill("KILL")
        self.end_input()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            await self._process.stdin.wait_closed()
        await self.wait()
        # What it left in the background goes on, as it does over SSH; its output is read no more.
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()


async def _exited(pid: int) -> None:
    """Return when a child of ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    try:
        loop.add_reader(descriptor, lambda: None if ended.done() else ended.set_result(None))
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
