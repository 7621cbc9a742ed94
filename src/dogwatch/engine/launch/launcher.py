"""Runs programs for actions: under a guard process that ends them when this worker cannot."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from dogwatch.core.units import format_duration
from dogwatch.engine.launch import tree, wire
from dogwatch.engine.launch.answer import answer_file, sweep
from dogwatch.engine.launch.command import (
    Command,
    ExitStatus,
    Output,
    User,
    describe,
    exit_status,
    find_user,
    start_failure,
)
from dogwatch.engine.launch.link import Link
from dogwatch.engine.launch.stream import Stream
from dogwatch.engine.launch.system import Lease, boottime_s
from dogwatch.errors import Conflict, DogwatchError, PermanentError, TransientError

_log = logging.getLogger(__name__)

_MARK = "DOGWATCH_GUARD"
_POLL_S = 0.02


class Launcher:
    """Between open and close. Programs that are run at the same time are bounded by `limit`; more wait.

    lock: a file in the data folder; whoever opens it next waits until the last program of before is gone. None: nobody
    waits. ttl_s: programs are killed unless `renew` is called so often; None: they are not. It should be shorter than
    the time after which another worker takes over, by what killing may take (a second).
    """

    def __init__(self, lock: Path | None = None, *, ttl_s: float | None = None, limit: int = 256) -> None:
        self._path = lock
        self._ttl_s = ttl_s
        self._room = asyncio.Semaphore(limit)
        self._numbers = itertools.count(1)
        self._link: Link | None = None
        self._linking = asyncio.Lock()
        self._lease: Lease | None = None
        self._lock = -1
        self._mark = secrets.token_hex(8)

    async def open(self, *, wait_s: float = 10.0) -> None:
        """Wait until no program of an earlier worker with the same lock is left; those without a guard are killed.

        Raises: Conflict after wait_s.
        """
        lease = Lease.create()
        try:
            self._lock = await _take(self._path, wait_s) if self._path is not None else _unnamed()
            if self._path is not None:
                found = os.fstat(self._lock)
                name = f"{found.st_dev}:{found.st_ino}:{self._path.resolve()}"
                self._mark = hashlib.sha256(name.encode()).hexdigest()[:16]
                await asyncio.to_thread(_end_leftovers, self._mark, wait_s)
        except BaseException:
            lease.close()
            self._release()
            raise
        self._lease = lease
        self.renew()

    def renew(self, since_s: float | None = None) -> None:
        """Let programs live for another ttl_s. Call it for each heartbeat that was accepted.

        since_s: `boottime_s()` from before the heartbeat was sent; its answer may have been long on its way.
        """
        if self._lease is not None:
            begins_s = boottime_s() if since_s is None else since_s
            self._lease.set(None if self._ttl_s is None else begins_s + self._ttl_s)

    async def run(self, command: Command, output: Output) -> ExitStatus:
        """Run a program to its end; nothing of it is left then. Cancelled: first SIGTERM, SIGKILL after its grace;
        cancelled again: SIGKILL now.

        Raises: PermanentError where it cannot be started, TransientError where it was interrupted, and what output
        raises.
        """
        async with self._room:
            user = await asyncio.to_thread(find_user, command.user) if command.user else None
            link = await self._guard()
            return await self._run(link, command, user, output)

    async def _run(self, link: Link, command: Command, user: User | None, output: Output) -> ExitStatus:
        number = next(self._numbers)
        marks = {_MARK: self._mark}
        with contextlib.ExitStack() as stack:
            answer = stack.enter_context(answer_file(self._mark, user)) if command.answer else None
            if answer is not None:
                marks[command.answer] = answer.path
            spec = describe(command, user, marks)
            message = await self._watch(link, number, spec, command, output)
            return _meaning(command, message, answer.read() if answer is not None else b"")

    async def _watch(
        self, link: Link, number: int, spec: dict[str, object], command: Command, output: Output
    ) -> wire.Message:
        """Return the last message about the program, with all of its output read."""
        async with _streams(output, lambda: link.kill(number, at_once=False)) as streams:
            end = await self._hand_over(link, number, spec, command.stdin, streams)
            try:
                message = await _until_gone(link, number, end)
            finally:
                link.forget(number)
            for stream in streams:
                await stream.drain()
        for stream in streams:
            if stream.error is not None:
                raise stream.error
        return message

    async def _hand_over(
        self, link: Link, number: int, spec: dict[str, object], data: bytes | None, streams: list[Stream]
    ) -> asyncio.Future[wire.Message]:
        end = link.expect(number)
        stdin = -1
        try:
            stdin = _stdin(data)
            await link.start(number, spec, [stdin, *(stream.write_end for stream in streams)])
        except BaseException:
            link.forget(number)
            end.cancel()
            raise
        finally:
            if stdin >= 0:
                os.close(stdin)
            for stream in streams:
                stream.close_write_end()
        return end

    async def _guard(self) -> Link:
        """Return the living guard; start one where there is none, once nothing of the one before is left."""
        async with self._linking:
            if self._link is not None and not self._link.alive:
                await self._link.ended
                self._link = None
            if self._lease is None:
                raise TransientError("programs cannot be run: the worker stops")
            if self._link is None:
                self._link = Link(self._lease, self._lock)
                if self._path is not None:
                    os.pwrite(self._lock, f"worker {os.getpid()}, guard {self._link.pid}\n".encode().ljust(64), 0)
            return self._link

    @property
    def guard_pid(self) -> int:
        """Return the guard's process id; 0 while none was needed."""
        return self._link.pid if self._link is not None and self._link.alive else 0

    async def close(self, *, wait_s: float = 10.0) -> None:
        """End what runs, each program with its grace, within wait_s in all, and the guard."""
        lease, self._lease = self._lease, None
        async with self._linking:
            link, self._link = self._link, None
        try:
            if link is not None:
                await _end(link, wait_s)
        finally:
            if lease is not None:
                lease.close()
            self._release()

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


async def _take(path: Path, wait_s: float) -> int:
    """Return the lock file's descriptor, locked. A descriptor that is inherited keeps the lock: guards hold it, too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until_s = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "another process"
                    raise Conflict(
                        f"programs of an earlier worker still run after {format_duration(wait_s)}: {path} is locked by "
                        f"{holder}",
                        hint="another worker uses this folder, or a program does not die (ps -o pid,stat,wchan,args)",
                    ) from None
                await asyncio.sleep(_POLL_S)
            else:
                os.pwrite(descriptor, f"worker {os.getpid()}\n".encode().ljust(64), 0)
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _unnamed() -> int:
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def _end_leftovers(mark: str, wait_s: float) -> None:
    """Kill what guards and shepherds that were killed themselves have left, and wait until it is gone.

    Raises: Conflict.
    """
    sweep(mark)
    until_s = time.monotonic() + wait_s
    while found := tree.leftovers(f"{_MARK}={mark}".encode()):
        _log.warning("ending programs that an earlier worker and its guard have left: %s", found)
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= until_s:
            raise Conflict(f"programs of an earlier worker cannot be ended: processes {found}")
        time.sleep(_POLL_S)


def _stdin(data: bytes | None) -> int:
    """Return a descriptor to read from: a file in memory, so that nobody has to write while the program reads."""
    return wire.in_memory(data, "dogwatch-stdin") if data else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.asynccontextmanager
async def _streams(output: Output, failed: Callable[[], None]) -> AsyncIterator[list[Stream]]:
    streams: list[Stream] = []
    try:
        for name in ("stdout", "stderr"):
            streams.append(Stream(name, output, failed))  # noqa: PERF401 what was made is closed if the next fails
        yield streams
    finally:
        for stream in streams:
            stream.close()


async def _until_gone(link: Link, number: int, end: asyncio.Future[wire.Message]) -> wire.Message:
    """Return the last message about a program. However often it is cancelled, it waits until the program is gone."""
    cancelled: asyncio.CancelledError | None = None
    while not end.done():
        try:
            # Not `await end`: a cancel would reach the future, and the end would be nobody's.
            await asyncio.wait({end})
        except asyncio.CancelledError as error:
            link.kill(number, at_once=cancelled is not None)
            cancelled = error
    if cancelled is not None:
        if end.exception() is None and end.result()[0] == wire.STUCK:
            _log.error("processes %s do not die; what started them was cancelled", end.result()[2])
        raise cancelled
    return end.result()


def _meaning(command: Command, message: wire.Message, answer: bytes) -> ExitStatus:
    """Raises: DogwatchError where the program did not end by itself."""
    kind, program = message[0], command.args[0]
    if kind == wire.ENDED and not message[5]:
        return exit_status(message, answer)
    raise _failure(command, program, message)


def _failure(command: Command, program: str, message: wire.Message) -> DogwatchError:
    kind = message[0]
    if kind == wire.LOST:
        return TransientError(f"interrupted: the process that watched {program} was killed")
    if kind == wire.STUCK:
        return PermanentError(f"{program} was killed, but these processes do not die: {message[2]}")
    if kind == wire.FAILED and message[2] != wire.LEASE:
        where, number = str(message[2]), message[3]
        return start_failure(command, where, number if isinstance(number, int) else 0)
    why = wire.LEASE if kind == wire.FAILED else message[5]
    reasons = {
        wire.LEASE: "this worker did not renew its lease in time, another may have taken over",
        wire.GUARD: "the guard process of this worker's programs was killed",
        wire.ASKED: "the worker stops",
        wire.WORKER: "the worker stops",
    }
    return TransientError(f"interrupted: {program} was ended, because {reasons[str(why)]}")


async def _end(link: Link, wait_s: float) -> None:
    for number in link.numbers:
        link.kill(number, at_once=False)
    try:
        async with asyncio.timeout(wait_s):
            await link.idle()
    except TimeoutError:
        _log.warning("programs did not end within %s and are killed", format_duration(wait_s))
    link.shut()
    try:
        async with asyncio.timeout(wait_s):
            await asyncio.shield(link.ended)
    except TimeoutError:
        _log.error("the guard of programs (process %d) does not end", link.pid)
    finally:
        if not link.ended.done():
            link.abandon()
