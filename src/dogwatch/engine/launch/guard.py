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
import traceback
from typing import Any

from dogwatch.engine.launch import shepherd, system, tree, wire

_WORKER_DIED = signal.SIGUSR2
_SWEEP_MS = 5


class Guard:
    def __init__(self, sock: socket.socket, lease: system.Lease, wakeup: int) -> None:
        self._sock = sock
        self._lease = lease
        self._wakeup = wakeup
        self._pid = os.getpid()
        # process id of a shepherd → number of its program
        self._shepherds: dict[int, int] = {}
        self._lost: list[int] = []
        self._unsent: list[bytes] = []
        self._ending = False

    def run(self) -> None:
        """Serve until the worker is gone, and then until nothing of it is left."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        while not (self._ending and not self._shepherds and not self._orphans()):
            if not self._ending:
                poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            else:
                with contextlib.suppress(KeyError):
                    poll.unregister(self._sock)
            for descriptor, _ in poll.poll(_SWEEP_MS if self._lost or self._ending else None):
                if descriptor == self._wakeup:
                    self._signalled(os.read(self._wakeup, 4096))
                else:
                    self._talk()
            self._reap()

    def _signalled(self, numbers: bytes) -> None:
        if _WORKER_DIED in numbers:
            self._end()

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            for pid in self._shepherds:
                os.kill(pid, shepherd.KILL_WORKER)

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
        for pid, known in self._shepherds.items():
            if known == number:
                os.kill(pid, shepherd.KILL_ASKED if at_once else shepherd.TERMINATE)

    def _start(self, message: wire.Message, descriptors: list[int]) -> None:
        number: Any = message[1]
        # Blocked before the fork: no signal may find the shepherd with the guard's handlers.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:
            self._unsent.append(wire.encode((wire.FAILED, number, "fork", error.errno)))
            pid = -1
        if not pid:
            self._be_shepherd(number, message[2], descriptors)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._shepherds[pid] = number
        self._send()

    def _be_shepherd(self, number: int, spec: Any, descriptors: list[int]) -> None:
        try:
            signal.set_wakeup_fd(-1)
            if spec is None:
                spec = wire.read_spec(descriptors[3])
                os.close(descriptors.pop())
            shepherd.Shepherd(self._sock, self._lease, number, spec).tend(self._pid, descriptors)
            os._exit(0)
        except Exception:  # noqa: BLE001 it is shown, and the guard sees it by the exit status
            traceback.print_exc()
        finally:
            os._exit(70)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            number = self._shepherds.pop(pid, None)
            if number is not None and status:
                self._lost.append(number)
        if self._lost:
            self._sweep()

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
