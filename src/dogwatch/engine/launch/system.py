"""What the guard needs of Linux and Python's os module has not: prctl; and the lease, a time in shared memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int | bytes) -> None:
    argument = value if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc.prctl(option, argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def adopt_orphans() -> None:
    """Become the parent of whatever descends from this process and loses its own (a double fork, a daemon)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: signal.Signals, parent: int) -> bool:
    """Ask for a signal when the parent dies; return whether it still lived then. A change of user undoes it."""
    _prctl(_PR_SET_PDEATHSIG, number)
    return os.getppid() == parent


def set_name(name: str) -> None:
    """Set what `ps -o comm` shows, up to 15 characters."""
    _prctl(_PR_SET_NAME, name.encode())


def boottime_s() -> float:
    """Return seconds on a clock that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Until when programs may run, on CLOCK_BOOTTIME: eight bytes that the worker writes and each shepherd reads.

    Shared memory and no message, so that it holds without anybody's help: also where the guard is stopped or dead.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls) -> Lease:
        return cls(os.memfd_create("dogwatch-lease", os.MFD_CLOEXEC))

    def set(self, until_s: float | None) -> None:
        """None: programs may run for ever."""
        value = 0 if until_s is None else max(1, int(until_s * 1e9))
        os.pwrite(self.descriptor, value.to_bytes(8, sys.byteorder), 0)

    def remaining_s(self) -> float | None:
        """Return how long it is still valid, 0 or less if it is not, None if it has no end."""
        until = int.from_bytes(os.pread(self.descriptor, 8, 0), sys.byteorder)
        return until / 1e9 - boottime_s() if until else None

    def close(self) -> None:
        os.close(self.descriptor)
