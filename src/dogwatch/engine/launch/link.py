"""The worker's end of one guard process, from its start until nothing of it is left."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dogwatch
from dogwatch.engine.launch import wire
from dogwatch.engine.launch.system import Lease
from dogwatch.errors import TransientError

_log = logging.getLogger(__name__)

# From the death of a guard to that of its programs it is milliseconds; a process that is stuck must not stop us.
_AFTER_GUARD_S = 5.0
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from dogwatch.engine.launch.guard import main; main(*map(int, sys.argv[2:]))"
)
# What Python itself may need to start; nothing else of our environment is there to be read in /proc.
_NEEDED = ("LD_LIBRARY_PATH", "LANG", "LC_ALL")


class Link:
    """Numbers are given by the caller; each stands for one program.

    ended: done when no process of this guard is left; the programs that were still expected are interrupted then.
    """

    def __init__(self, lease: Lease, lock: int) -> None:
        """Raises: TransientError where no process can be started."""
        self._loop = asyncio.get_running_loop()
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = _start(theirs.fileno(), lease.descriptor, lock)
                self._pidfd = os.pidfd_open(self._process.pid)
            except OSError as error:
                self._sock.close()
                raise TransientError(f"cannot start the guard of programs: {error.strerror}") from error
        self._sock.setblocking(False)
        self._expected: dict[int, asyncio.Future[wire.Message]] = {}
        self._outgoing: collections.deque[tuple[bytes, Sequence[int], asyncio.Future[None] | None]] = (
            collections.deque()
        )
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = False
        self.alive = True
        self.pid = self._process.pid
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._sock.fileno(), self._receive)
        self._loop.add_reader(self._pidfd, self._guard_died)

    def expect(self, number: int) -> asyncio.Future[wire.Message]:
        """Return what will hold the last message about a program: ENDED, FAILED, LOST or STUCK."""
        future: asyncio.Future[wire.Message] = self._loop.create_future()
        if self.ended.done():
            future.set_exception(_interrupted())
        else:
            self._expected[number] = future
        return future

    def forget(self, number: int) -> None:
        self._expected.pop(number, None)

    @property
    def numbers(self) -> Sequence[int]:
        """Which programs are still expected to end."""
        return tuple(self._expected)

    async def idle(self) -> None:
        """Return once no program is expected any more."""
        if self._expected:
            await asyncio.wait(self._expected.values())

    # -- saying

    async def start(self, number: int, spec: dict[str, object], descriptors: Sequence[int]) -> None:
        """Hand a program over, with its standard three descriptors; they stay the caller's to close."""
        packet, memory = wire.start_packet(number, spec)
        try:
            sent: asyncio.Future[None] = self._loop.create_future()
            self._outgoing.append((packet, [*descriptors, memory] if memory >= 0 else descriptors, sent))
            self._flush()
            # Cancelled, it stays in the row, and is passed over: its descriptors are closed by then.
            await sent
        finally:
            if memory >= 0:
                os.close(memory)

    def kill(self, number: int, *, at_once: bool) -> None:
        self._outgoing.append((wire.encode((wire.KILL, number, at_once)), (), None))
        self._flush()

    def _flush(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        while self._outgoing and not self._quiet:
            packet, descriptors, sent = self._outgoing[0]
            if sent is not None and sent.done():
                self._outgoing.popleft()
                continue
            try:
                wire.send(self._sock, packet, descriptors, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                if sent is not None:
                    sent.set_exception(TransientError(f"cannot reach the guard of programs: {error.strerror}"))
            else:
                if sent is not None:
                    sent.set_result(None)
            self._outgoing.popleft()

    def shut(self) -> None:
        """Want everything gone; `ended` says when it is."""
        if not self._quiet:
            self._quiet = True
            self._loop.remove_writer(self._sock.fileno())
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def abandon(self) -> None:
        """Let go of a guard that does not end; its shepherds go on with what they can."""
        self._process.kill()
        self._finish()

    # -- hearing

    def _receive(self) -> None:
        for _ in range(64):
            try:
                message, _ = wire.receive(self._sock, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                message = None
            if message is None:
                self._finish()
                return
            self._heard(message)

    def _heard(self, message: wire.Message) -> None:
        number = message[1]
        assert isinstance(number, int)
        future = self._expected.pop(number, None)
        if future is not None and not future.done():
            future.set_result(message)

    def _guard_died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.alive = False
        self._process.wait()
        if not self.ended.done():
            self._timer = self._loop.call_later(_AFTER_GUARD_S, self._give_up)

    def _give_up(self) -> None:
        _log.error("the guard of programs (process %d) has died, and some of its programs may still run", self.pid)
        self._finish()

    def _finish(self) -> None:
        """Nothing is left, or nothing more will be known."""
        if self.ended.done():
            return
        self.alive = False
        self._quiet = True
        if self._timer is not None:
            self._timer.cancel()
        for descriptor in (self._sock.fileno(), self._pidfd):
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        self._sock.close()
        os.close(self._pidfd)
        # The guard was the last to close its end, or was killed: there is nothing to wait for.
        self._process.wait()
        self.ended.set_result(None)
        for future in self._expected.values():
            if not future.done():
                future.set_exception(_interrupted())
        self._expected.clear()
        for _, _, sent in self._outgoing:
            if sent is not None and not sent.done():
                sent.set_exception(_interrupted())
        self._outgoing.clear()


def _interrupted() -> TransientError:
    return TransientError(
        "interrupted: the guard process of this worker's programs was killed, and the program with it"
    )


def _start(*descriptors: int) -> subprocess.Popen[bytes]:
    root = str(Path(dogwatch.__file__).parent.parent)
    return subprocess.Popen(  # noqa: S603 our own interpreter
        [sys.executable, "-I", "-S", "-c", _PROGRAM, root, str(os.getpid()), *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=descriptors,
        env={name: os.environ[name] for name in _NEEDED if name in os.environ},
        start_new_session=True,
    )
