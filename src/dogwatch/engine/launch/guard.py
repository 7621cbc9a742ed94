"""The guard process: forks a shepherd for each program, and sees to it that all end when the worker does.

Started as `python -I -S -c …`, a child of the worker, in a session of its own: no terminal's Ctrl-C and no hang-up
reaches it, and SIGTERM, which a service manager sends to all processes of a service at once, it does not heed: programs
end when the worker says so, or dies.

Whoever of the three is killed, the others end the programs: the worker's death closes its socket; the guard's makes the
kernel signal each shepherd; a shepherd's makes its processes the guard's own children.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

from dogwatch.engine.launch import shepherd, system, tree, wire

TYPE_CHECKING = False  # typing would be a fifth of what the guard imports
if TYPE_CHECKING:
    from typing import Any

_WORKER_DIED = signal.SIGUSR2
_SWEEP_MS = 5
# Shepherds that wait for another program, and for how long.
_IDLE = 8
_IDLE_MS = 10_000


class Herd:
    """A shepherd as the guard knows it. number: of its program, 0 for none. signalled: it is not used again, for a
    signal that was sent a moment too late would hit its next program.
    """

    __slots__ = ("control", "number", "pid", "signalled")

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self.control = control
        self.number = 0
        self.signalled = False

    def signal(self, number: signal.Signals) -> None:
        self.signalled = True
        os.kill(self.pid, number)


class Guard:
    def __init__(self, sock: socket.socket, lease: system.Lease, wakeup: int) -> None:
        self._sock = sock
        self._lease = lease
        self._wakeup = wakeup
        self._pid = os.getpid()
        # By process id; and, those that have a program, by the descriptor on which they say that it has ended.
        self._shepherds: dict[int, Herd] = {}
        self._busy: dict[int, Herd] = {}
        self._idle: list[Herd] = []
        self._poll = select.poll()
        self._lost: list[int] = []
        self._unsent: list[bytes] = []
        self._ending = False

    def run(self) -> None:
        """Serve until the worker is gone, and then until nothing of it is left."""
        self._poll.register(self._wakeup, select.POLLIN)
        while not (self._ending and not self._shepherds and not self._orphans()):
            if not self._ending:
                self._poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            ready = self._poll.poll(self._patience_ms())
            if not ready:
                self._dismiss(0)
            talks = False
            for descriptor, _ in ready:
                if descriptor == self._wakeup:
                    self._signalled(os.read(self._wakeup, 4096))
                elif descriptor in self._busy:
                    self._idles(self._busy[descriptor])
                else:
                    talks = True
            self._reap()
            # Last: whoever asks for the next program is to find the shepherd of the one before.
            if talks and not self._ending:
                self._talk()

    def _patience_ms(self) -> int | None:
        if self._lost or self._ending:
            return _SWEEP_MS
        return _IDLE_MS if self._idle else None

    def _signalled(self, numbers: bytes) -> None:
        if _WORKER_DIED in numbers:
            self._end()

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            self._poll.unregister(self._sock)
            self._dismiss(0)
            for herd in self._busy.values():
                herd.signal(shepherd.KILL_WORKER)

    def _idles(self, herd: Herd) -> None:
        """A shepherd has no program any more; or it has died, and will be reaped."""
        self._poll.unregister(herd.control)
        del self._busy[herd.control.fileno()]
        try:
            if wire.receive(herd.control, socket.MSG_DONTWAIT)[0] is None:
                return
        except OSError:
            return
        herd.number = 0
        if herd.signalled or self._ending:
            herd.control.close()
            return
        self._idle.append(herd)
        self._dismiss(_IDLE)

    def _dismiss(self, kept: int) -> None:
        """Let go of idle shepherds, the oldest first, until so many are left."""
        while len(self._idle) > kept:
            self._idle.pop(0).control.close()

    def _talk(self) -> None:
        self._send()
        try:
            message, descriptors = wire.receive(self._sock, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            message, descriptors = None, []
        if message is None:
            self._end()
        elif message[0] == wire.START:
            self._start(message, descriptors)
        elif message[0] == wire.KILL:
            self._kill(message)

    def _send(self) -> None:
        """Say what waits to be said. Never blocks: a worker that is stopped reads nothing."""
        while self._unsent:
            try:
                wire.send(self._sock, self._unsent[0], flags=socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._end()
                return
            del self._unsent[0]

    def _kill(self, message: wire.Message) -> None:
        _, number, at_once = message
        for herd in self._busy.values():
            if herd.number == number:
                herd.signal(shepherd.KILL_ASKED if at_once else shepherd.TERMINATE)

    def _start(self, message: wire.Message, descriptors: list[int]) -> None:
        number: Any = message[1]
        try:
            herd = self._idle.pop() if self._idle else self._new_shepherd(descriptors)
        except OSError as error:
            self._unsent.append(wire.encode((wire.FAILED, number, "fork", error.errno)))
        else:
            herd.number = number
            self._busy[herd.control.fileno()] = herd
            self._poll.register(herd.control, select.POLLIN)
            # One that was killed while it was idle is reaped, and its program reported, as any other.
            with contextlib.suppress(OSError):
                wire.send(herd.control, wire.encode(message), descriptors, socket.MSG_DONTWAIT)
        for descriptor in descriptors:
            os.close(descriptor)
        self._send()

    def _new_shepherd(self, descriptors: list[int]) -> Herd:
        """Raises: OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Blocked before the fork: no signal may find the shepherd with the guard's handlers.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
            if not pid:
                self._be_shepherd(ours, theirs, descriptors)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            theirs.close()
        herd = self._shepherds[pid] = Herd(pid, ours)
        return herd

    def _be_shepherd(self, ours: socket.socket, theirs: socket.socket, descriptors: list[int]) -> None:
        try:
            signal.set_wakeup_fd(-1)
            # The guard's ends: they must close with it, so that an idle shepherd sees that it died.
            for sock in (ours, *(herd.control for herd in self._shepherds.values())):
                sock.close()
            for descriptor in descriptors:  # of its first program; they come once more, by the socket
                os.close(descriptor)
            shepherd.serve(self._sock, theirs, self._lease, self._pid)
            os._exit(0)
        except Exception:  # noqa: BLE001 it is shown, and the guard sees it by the exit status
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(70)

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            herd = self._shepherds.pop(pid, None)
            if herd is not None:
                self._bury(herd)
        if self._lost:
            self._sweep()

    def _bury(self, herd: Herd) -> None:
        if self._busy.pop(herd.control.fileno(), None):
            self._poll.unregister(herd.control)
        if herd in self._idle:
            self._idle.remove(herd)
        herd.control.close()
        if herd.number:
            self._lost.append(herd.number)

    def _orphans(self) -> list[int]:
        return [pid for pid in tree.children(self._pid) if pid not in self._shepherds]

    def _sweep(self) -> None:
        """End what shepherds that were killed have left, and say so when it is gone."""
        if self._orphans():
            tree.kill(self._pid, self._shepherds)
            return
        self._unsent += [wire.encode((wire.LOST, number)) for number in self._lost]
        self._lost.clear()
        self._send()


def _prepare_signals() -> int:
    """Return a descriptor that becomes readable with each signal.

    Handlers, not SIG_IGN: what is ignored stays ignored in every program, while exec resets handlers to the default.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    wakeup, wake = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    kept = {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
    for number in signal.valid_signals() - kept:
        if number < signal.SIGRTMIN or signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    return wakeup


def main(worker: int, sock: int, lease: int, *kept: int) -> None:
    """worker: its process id. sock, lease: descriptors; kept: of what must be closed by nobody before the last goes."""
    system.set_name("dogwatch-guard")
    wakeup = _prepare_signals()
    for descriptor in (sock, lease, *kept):
        os.set_inheritable(descriptor, False)
    os.chdir("/")
    system.adopt_orphans()
    if not system.die_with_parent(_WORKER_DIED, worker):
        return
    # A fork shares memory until somebody writes to it: the collector would write to all of it.
    gc.collect()
    gc.freeze()
    gc.disable()
    Guard(socket.socket(fileno=sock), system.Lease(lease), wakeup).run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
