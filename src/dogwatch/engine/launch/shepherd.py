"""One program: starts it, adopts whatever descends from it, reports its end once nothing of it is left.

A process of its own for each program, forked off the guard: as their subreaper it has exactly this program's processes
below it, whatever they do to their parents, sessions and environment. Without a child left, nothing is left, and it can
take another program: a fork is most of what a short one costs.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time

from dogwatch.engine.launch import system, tree, wire

TYPE_CHECKING = False  # typing would be a fifth of what the guard imports
if TYPE_CHECKING:
    from typing import Any

# A program that has ended may have left a helper that is about to (`> >(tee log)`): so long it is let be.
LINGER_S = 0.3
# How often a shepherd looks at the lease; it need not be later than that when a suspended machine comes back.
LEASE_LOOK_S = 0.5
# A process that does not die of SIGKILL for so long is stuck in the kernel, or is not ours to kill.
STUCK_S = 5.0
_SWEEP_S = 0.005
_SLOW_SWEEP_S = 0.5

TERMINATE, KILL_ASKED, KILL_WORKER = signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM
GUARD_DIED = signal.SIGVTALRM
_REASONS = {KILL_ASKED: wire.ASKED, KILL_WORKER: wire.WORKER, GUARD_DIED: wire.GUARD}
_AWAITED = (signal.SIGCHLD, TERMINATE, *_REASONS)

RUNS, LINGERS, TERMINATES, KILLS = range(4)


def serve(sock: socket.socket, control: socket.socket, lease: system.Lease, guard: int) -> None:
    """Tend one program after the other, in a process forked for it with all signals blocked, until control closes."""
    system.adopt_orphans()
    if not system.die_with_parent(GUARD_DIED, guard):
        return
    while True:
        message, descriptors = wire.receive(control)
        if message is None:
            return
        number: Any = message[1]
        spec: Any = message[2]
        if spec is None:
            spec = wire.read_spec(descriptors[3])
            os.close(descriptors.pop())
        Shepherd(sock, lease, number, spec).tend(descriptors)
        try:
            wire.send(control, wire.encode((wire.IDLE,)))
        except OSError:
            return  # the guard is gone


class Shepherd:
    """What a shepherd knows of one program. `tend` returns when all is over."""

    def __init__(self, sock: socket.socket, lease: system.Lease, number: int, spec: dict[str, Any]) -> None:
        self._sock = sock
        self._lease = lease
        self._number = number
        self._spec = spec
        self._pid = 0
        self._complaint = -1
        self._status: int | None = None
        self._cpu_s = 0.0
        self._max_rss = 0
        self._phase = RUNS
        self._until_s = 0.0
        self._why = ""
        self._stuck = False

    def tend(self, descriptors: list[int]) -> None:
        remaining_s = self._lease.remaining_s()
        refused = (wire.LEASE, 0) if remaining_s is not None and remaining_s <= 0 else None
        try:
            if refused is None:
                self._start(descriptors)
        except OSError as error:
            refused = "fork", error.errno or 0
        for descriptor in descriptors:
            os.close(descriptor)
        if refused is not None:
            self._report(wire.FAILED, *refused)
            return
        while self._reap():
            self._step()
            self._wait()
        said = os.read(self._complaint, 256)
        os.close(self._complaint)
        if said:
            where, _, number = said.decode().partition(" ")
            self._report(wire.FAILED, where, int(number))
        else:
            self._report(wire.ENDED, self._status, self._cpu_s, self._max_rss, self._why)

    def _report(self, kind: int, *details: object) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            wire.send(self._sock, wire.encode((kind, self._number, *details)))

    # -- its life

    def _reap(self) -> bool:
        """Take what has ended; return whether anything is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._pid:
                self._status = status
            self._cpu_s += usage.ru_utime + usage.ru_stime
            self._max_rss = max(self._max_rss, usage.ru_maxrss * 1024)

    def _step(self) -> None:
        now_s = time.monotonic()
        if self._phase == RUNS and self._status is not None:
            self._phase, self._until_s = LINGERS, now_s + LINGER_S
        elif self._phase == LINGERS and now_s >= self._until_s:
            self._terminate()
        elif self._phase == TERMINATES and now_s >= self._until_s:
            self._kill()
        remaining_s = self._lease.remaining_s()
        if remaining_s is not None and remaining_s <= 0 and self._phase != KILLS:
            self._why = wire.LEASE
            self._kill()
        if self._phase == KILLS:
            tree.kill(os.getpid())
            if now_s >= self._until_s and not self._stuck:
                self._stuck = True
                self._report(wire.STUCK, tuple(tree.descendants(os.getpid())))

    def _terminate(self) -> None:
        grace_s = float(self._spec["grace_s"])
        if grace_s <= 0:
            self._kill()
            return
        self._phase, self._until_s = TERMINATES, time.monotonic() + grace_s
        tree.terminate(os.getpid())

    def _kill(self) -> None:
        self._phase, self._until_s = KILLS, time.monotonic() + STUCK_S

    def _wait(self) -> None:
        """Sleep until a child ends, somebody wants something, or the next thing is due."""
        waits = []
        if self._phase == KILLS:
            waits.append(_SLOW_SWEEP_S if self._stuck else _SWEEP_S)
        elif self._phase != RUNS:
            waits.append(self._until_s - time.monotonic())
        remaining_s = self._lease.remaining_s()
        if remaining_s is not None:
            waits.append(min(remaining_s, LEASE_LOOK_S))
        received = signal.sigtimedwait(_AWAITED, max(0.0, min(waits))) if waits else signal.sigwaitinfo(_AWAITED)
        if received is None:
            return
        number = received.si_signo
        if number == TERMINATE and self._phase in (RUNS, LINGERS):
            self._why = self._why or wire.ASKED
            self._terminate()
        elif number in _REASONS and self._phase != KILLS:
            self._why = _REASONS[signal.Signals(number)]
            self._kill()

    # -- its start

    def _start(self, descriptors: list[int]) -> None:
        # What the child writes there is read when it has ended: it may hang before it becomes the program (a working
        # directory on a dead NFS server), and must be killable then. Nothing is said as soon as it has become it.
        self._complaint, complain = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._complaint)
            os.close(complain)
            raise
        if not self._pid:
            try:
                self._become(os.getppid(), descriptors, complain)
            finally:
                os._exit(127)
        os.close(complain)

    def _become(self, shepherd: int, descriptors: list[int], complain: int) -> None:
        """In the child: become the program, or say where that failed."""
        spec, where = self._spec, "session"
        try:
            os.setsid()
            for target, descriptor in enumerate(descriptors):
                os.dup2(descriptor, target)
            where = "limits"
            if spec["nice"]:
                os.nice(spec["nice"])
            if spec["open_files"] is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (spec["open_files"], spec["open_files"]))
            if spec["umask"] is not None:
                os.umask(spec["umask"])
            where = "user"
            if spec["identity"] is not None:
                uid, gid, groups = spec["identity"]
                os.setgroups(groups)
                os.setgid(gid)
                os.setuid(uid)
            where = "cwd"
            os.chdir(spec["cwd"])
            # After the change of user, which would undo it. Should every guard be killed, this at least is over.
            if not system.die_with_parent(signal.SIGKILL, shepherd):
                return
            # Handlers are reset by exec, the mask is not. A SIGTERM that waits must not fall to the guard's handler.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            where = "limits"
            if spec["memory"] is not None:
                resource.setrlimit(resource.RLIMIT_AS, (spec["memory"], spec["memory"]))
            where = "exec"
            where, number = _execute(spec["paths"], spec["args"], spec["env"])
        except (OSError, MemoryError, ValueError) as error:
            number = getattr(error, "errno", None) or 0
        os.write(complain, f"{where} {number}".encode())


def _execute(paths: list[bytes], args: list[bytes], env: dict[bytes, bytes]) -> tuple[str, int]:
    """Become the first of the paths that can be run, or return where and why none could: exec or interpreter."""
    import errno

    worst = errno.ENOENT
    for path in paths:
        try:
            os.execve(path, args, env)  # noqa: S606 running what the operator configured is the purpose
        except (FileNotFoundError, NotADirectoryError):
            if os.path.exists(path):  # noqa: PTH110
                return "interpreter", errno.ENOENT
        except PermissionError:
            worst = errno.EACCES
        except OSError as error:
            return "exec", error.errno or 0
    return "exec", worst
