"""Drives one command on a channel: prompt, input, bounded output, deadline, and its end when it is cancelled."""

from __future__ import annotations

import abc
import asyncio
import contextlib

from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.units import format_duration
from dogwatch.fleet.become import Gate
from dogwatch.fleet.connection import Ended, HostFailed, Kept, Output, RemoteCommand, State, compose

_PIECE = 65536
# What a command left behind may hold its streams open; they are read this long after its end.
_AFTER_S = 1.0
# Longest that sending a signal may take.
_SIGNAL_S = 3.0


class Channel(abc.ABC):
    """A running command as its connection sees it. Reading ends with b""."""

    async def ready(self) -> None:  # noqa: B027 most are ready at once
        """Return when the command reads its input."""

    @abc.abstractmethod
    async def read(self, stream: str) -> bytes: ...

    @abc.abstractmethod
    async def write(self, data: bytes) -> None:
        """Write to stdin. Raises: OSError where nobody reads it."""

    @abc.abstractmethod
    def end_input(self) -> None: ...

    @abc.abstractmethod
    async def wait(self) -> tuple[int | None, str]:
        """Return the exit code, or None and the name of a signal. Raises: HostFailed where the connection was lost."""

    @abc.abstractmethod
    async def signal(self, name: str) -> None:
        """Send TERM or KILL to everything that it started. It may take as long as the host needs: callers bound it."""

    @abc.abstractmethod
    async def close(self) -> None: ...


def prepared(command: RemoteCommand) -> tuple[str, Gate | None]:
    """Return the script to start, and the gate that its stderr goes through. Raises: HostFailed."""
    script = compose(command.script, command.env)
    if command.become is None:
        return script, None
    gate = Gate(command.become)
    return gate.wrap(script), gate


class Drive:
    """One command on its channel."""

    def __init__(self, channel: Channel, command: RemoteCommand, gate: Gate | None, output: Output | None) -> None:
        self._channel = channel
        self._command = command
        self._gate = gate
        self._output = output
        self._kept = {"stdout": Kept(command.limit_bytes), "stderr": Kept(command.limit_bytes)}
        self._begun = asyncio.Event()
        if gate is None:
            self._begun.set()

    async def run(self) -> Ended:
        """Return how it ended. The channel is closed then. Raises: HostFailed."""
        tasks = [
            asyncio.create_task(self._read("stdout"), name="fleet-stdout"),
            asyncio.create_task(self._read("stderr"), name="fleet-stderr"),
        ]
        feeder = asyncio.create_task(self._feed(), name="fleet-stdin")
        try:
            try:
                async with asyncio.timeout(self._command.timeout_s):
                    return await self._to_the_end(tasks)
            except TimeoutError:
                told = f"took longer than {format_duration(self._command.timeout_s or 0)}"
                if self._gate is not None and not self._gate.open:
                    told = f"{told}, waiting for {self._command.become.method if self._command.become else 'sudo'}"
                left = await self._stop()
                return self._ended(State.TIMED_OUT, None, "", f"{told}{left}")
            except asyncio.CancelledError:
                await asyncio.shield(self._stop())
                raise
        finally:
            await cancel_and_wait([feeder, *tasks])
            await self._channel.close()

    async def _to_the_end(self, tasks: list[asyncio.Task[None]]) -> Ended:
        waiting = asyncio.create_task(self._channel.wait(), name="fleet-wait")
        try:
            open_ = set(tasks)
            while not waiting.done():
                # One that ended by itself is not waited for again; one that failed (a password was refused) is raised.
                done, _ = await asyncio.wait({waiting, *open_}, return_when=asyncio.FIRST_COMPLETED)
                for task in open_ & done:
                    task.result()
                open_ -= done
            exit_code, signal = await waiting
            await asyncio.wait(tasks, timeout=_AFTER_S)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await cancel_and_wait([waiting])
        if self._gate is not None and not self._gate.open:
            raise self._gate.failure()
        state = State.SUCCEEDED if exit_code == 0 else State.NON_ZERO
        return self._ended(state, exit_code, signal, "")

    def _ended(self, state: State, exit_code: int | None, signal: str, note: str) -> Ended:
        out, err = self._kept["stdout"], self._kept["stderr"]
        return Ended(
            state=state,
            exit_code=exit_code,
            signal=signal,
            stdout=out.data(),
            stderr=err.data(),
            cut=(out.cut, err.cut),
            note=note,
        )

    async def _read(self, stream: str) -> None:
        while data := await self._channel.read(stream):
            gate = self._gate
            if stream == "stderr" and gate is not None:
                answer, data = gate.feed(data)
                if answer:
                    with contextlib.suppress(OSError):
                        await self._channel.write(answer)
                if gate.open:
                    self._begun.set()
            if data:
                self._kept[stream].add(data)
                if self._output is not None:
                    self._output(stream, data)

    async def _feed(self) -> None:
        await self._channel.ready()
        await self._begun.wait()
        # A command that reads no input to its end is not at fault.
        with contextlib.suppress(OSError):
            if self._command.stdin is not None:
                async for piece in self._command.stdin:
                    for at in range(0, len(piece), _PIECE):
                        await self._channel.write(piece[at : at + _PIECE])
            self._channel.end_input()

    async def _stop(self) -> str:
        """End the command; return "" or a warning that it may run on."""
        waiting = asyncio.create_task(self._channel.wait(), name="fleet-wait")
        try:
            for name, patience_s in (("TERM", self._command.grace_s), ("KILL", 1.0)):
                with contextlib.suppress(TimeoutError, HostFailed):
                    async with asyncio.timeout(_SIGNAL_S):
                        await self._channel.signal(name)
                done, _ = await asyncio.wait([waiting], timeout=patience_s)
                if done:
                    lost = not waiting.cancelled() and isinstance(waiting.exception(), HostFailed)
                    return "; it may still run there" if lost else ""
            return "; it may still run there"
        finally:
            await cancel_and_wait([waiting])
