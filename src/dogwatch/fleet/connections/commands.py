"""Commands over SSH, whoever speaks the protocol: a script of ours around each, so that it can be ended and trusted."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable

from dogwatch.fleet.connection import Become, Connection, Ended, HostFailed, Output, RemoteCommand, State, shell_line
from dogwatch.fleet.drive import Channel, Drive, prepared

_PIECE = 65536
_CLOSE_S = 1.0


class Process(abc.ABC):
    """A command on its way, as the protocol tells of it."""

    @abc.abstractmethod
    async def read(self, stream: str) -> bytes:
        """Return what came on stdout or stderr; b"" at its end, whatever ended it."""

    @abc.abstractmethod
    async def write(self, data: bytes) -> None:
        """Raises: OSError where nobody reads it."""

    @abc.abstractmethod
    def end_input(self) -> None: ...

    @abc.abstractmethod
    async def ended(self) -> tuple[int | None, str]:
        """Return the exit code and the name of a signal; None and "" where the connection was lost before."""

    @abc.abstractmethod
    def send_signal(self, name: str) -> None: ...

    @abc.abstractmethod
    async def close(self) -> None: ...


class SshCommands(Connection):
    """A connection, for any number of commands one after the other."""

    @abc.abstractmethod
    async def start(self, line: str) -> Process:
        """Start a line of the login shell.

        Raises: HostFailed; NotBegun where the connection turned out to be gone.
        """

    async def run(self, command: RemoteCommand, output: Output | None = None) -> Ended:
        script, gate = prepared(command)
        mark = f"dogwatch-pid-{secrets.token_hex(8)} "
        # It tells the number of its process group, as servers send no signals to the sessions of root; and it waits
        # for a word from us, so that nothing is begun there after we have given up (a slow login shell).
        process = await self.start(shell_line(f"echo {mark}$$ >&2; read -r _ || exit 125; {script}"))
        session = _Session(process, mark.encode(), lambda number, name: self._kill(number, name, command.become))
        session.silent = command.stdin is None and gate is None
        return await Drive(session, command, gate, output).run()

    async def _kill(self, number: int, name: str, become: Become | None) -> None:
        script, gate = prepared(RemoteCommand(script=f"kill -s {name} -- -{number}", become=become))
        try:
            process = await self.start(shell_line(script))
        except HostFailed:
            return
        await Drive(_Session(process, b"", None), RemoteCommand(script="", timeout_s=2.0), gate, None).run()


class _Session(Channel):
    """A command's channel. mark: what stands before its process group's number, the first that it says on stderr.

    silent: nothing is said to it but that it may begin.
    """

    silent = False

    def __init__(self, process: Process, mark: bytes, kill: Callable[[int, str], Awaitable[None]] | None) -> None:
        self._process = process
        self._mark = mark
        self._kill = kill
        self._refusal = b""
        self._number = 0
        self._early = b""
        self._told = asyncio.Event()  # the number, or the end of stderr
        if not mark:
            self._told.set()

    async def ready(self) -> None:
        await self._told.wait()

    async def read(self, stream: str) -> bytes:
        if stream == "stdout" or not self._mark:
            return await self._process.read(stream)
        while data := await self._process.read(stream):
            self._early += data
            before, mark, rest = self._early.partition(self._mark)
            number, end, after = rest.partition(b"\n")
            if mark and end:
                self._number = int(number) if number.isdigit() else 0
                self._mark = self._early = b""
                with contextlib.suppress(OSError):
                    await self.write(b"\n")
                    if self.silent:
                        self._process.end_input()
                self._told.set()
                return before + after or await self._process.read(stream)
            self._early = self._early[-_PIECE:]
        data, self._early = self._early, b""
        self._refusal = self._refusal or data
        self._told.set()
        return data

    async def write(self, data: bytes) -> None:
        await self._process.write(data)

    def end_input(self) -> None:
        self._process.end_input()

    async def wait(self) -> tuple[int | None, str]:
        code, signal = await self._process.ended()
        if signal:
            return None, signal
        await self._told.wait()
        if code is not None and self._mark:
            lines = self._refusal.decode(errors="replace").split("\n")
            told = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")
            raise HostFailed(State.MISCONFIGURED, f"the login shell there did not start /bin/sh: {told[:300]}")
        if code is None:
            raise HostFailed(State.LOST, "the connection was lost while the command ran; it may still run there")
        return code, ""

    async def signal(self, name: str) -> None:
        self._process.send_signal(name)
        if self._kill is not None and self._number > 1:
            await self._kill(self._number, name)

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._process.close()
