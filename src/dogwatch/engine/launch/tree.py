"""Finding and ending every process that descends from another, in whatever session or group it hides."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Container


def children(pid: int) -> list[int]:
    """Return the processes whose parent it is; none where it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 pathlib would be half of the guard's memory
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        # Gone in the meantime; or a kernel without CONFIG_PROC_CHILDREN, then every process is asked.
        if not os.path.exists("/proc/self/task/" + str(os.getpid()) + "/children"):  # noqa: PTH110
            return _children_by_scan(pid)
    return found


def _children_by_scan(parent: int) -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(int(name)) == parent]  # noqa: PTH208


def parent_of(pid: int) -> int:
    """Return the parent's process id; 0 if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            # The name, in parentheses, may hold anything, further parentheses and blanks included.
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descendants(pid: int, without: Container[int] = ()) -> list[int]:
    """Return all processes below one, parents before children. without: these and what is below them stay out."""
    found = [child for child in children(pid) if child not in without]
    for one in found:  # grows as it goes
        found += children(one)
    return found


def _send(pid: int, parents: set[int], numbers: tuple[signal.Signals, ...]) -> bool:
    """Signal a process, unless its number belongs to a stranger by now. Return whether it was there."""
    try:
        descriptor = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return False
    try:
        # What the descriptor holds cannot change any more; what was listed may have ended and been another's since.
        if parent_of(pid) not in parents:
            return False
        for number in numbers:
            signal.pidfd_send_signal(descriptor, number)
    except PermissionError:
        return True  # a setuid program of another user: it is there, and not ours to end
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def terminate(pid: int, without: Container[int] = ()) -> None:
    """Ask everything below a process to end. Stopped ones are continued, or they would not hear of it."""
    below = descendants(pid, without)
    parents = {pid, *below}
    for one in below:
        _send(one, parents, (signal.SIGTERM, signal.SIGCONT))


def kill(pid: int, without: Container[int] = ()) -> None:
    """Kill everything below a process, again and again until a look finds nothing that was not killed before.

    A killed process cannot fork, so each look catches what the one before was too early for, and what has lost its
    parent since is a child of this process: a subreaper. The caller reaps, and calls again until it has no child.
    """
    seen: set[int] = set()
    while True:
        below = descendants(pid, without)
        new = [one for one in below if one not in seen]
        parents = {pid, *below}
        for one in new:
            _send(one, parents, (signal.SIGKILL,))
        if not new:
            return
        seen.update(new)


def leftovers(mark: bytes) -> list[int]:
    """Return the processes whose environment began with this entry: of programs whose guards were killed as well."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
                if mark in file.read().split(b"\0"):
                    found.append(int(name))
    return found
