"""Listening sockets: bound here, inherited from systemd, or handed to the program that replaces this one.

A restart (SIGUSR2) executes the new program in this process with its listening sockets kept open, in systemd's own
form (LISTEN_FDS): the process id stays, so supervisors and containers notice nothing, and connections that arrive
meanwhile wait in the kernel's queue instead of being refused (docs/decisions/0005).
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NoReturn

from dogwatch.errors import DogwatchError
from dogwatch.web.options import parse_listen

FIRST_FD = 3
# Longer than the default: during a restart the queue is all that stands between clients and a refusal.
BACKLOG = 4096


def bind(address: str) -> list[socket.socket]:
    """Bind and listen on every address that the name stands for.

    Raises: DogwatchError when the address is in use or not ours; the configuration has checked its form.
    """
    host, port = parse_listen(address)
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
            listener.setblocking(False)
    except OSError as error:
        for listener in sockets:
            listener.close()
        why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        hint = "another program, or another Dogwatch, listens there; choose another with --listen"
        raise DogwatchError(f"cannot listen on {address}: {why}", hint=hint if error.errno == 98 else "") from None
    return sockets


def inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that this process was started with, and take them out of the environment."""
    count, owner = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not count.isdigit() or owner != str(os.getpid()):
        return []
    sockets = []
    for descriptor in range(FIRST_FD, FIRST_FD + int(count)):
        listener = socket.socket(fileno=descriptor)
        os.set_inheritable(descriptor, False)
        listener.setblocking(False)
        sockets.append(listener)
    return sockets


def serves(listener: socket.socket, address: str) -> bool:
    """Return whether a bound socket is one that `bind(address)` would make."""
    host, port = parse_listen(address)
    name = listener.getsockname()
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or name[1] != port:
        return False
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return any(where[0] == name[0] for *_, where in found)


def own_command() -> list[str]:
    """Return the command line that started this process; what it names may be a newer program by now."""
    return [sys.executable, *sys.orig_argv[1:]]


def execute_again(sockets: Sequence[socket.socket], environ: Mapping[str, str]) -> NoReturn:
    """Replace this program by a new one of the same command line that inherits the sockets."""
    # First out of the way of the numbers that they must get, then onto them.
    safe = [fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, FIRST_FD + len(sockets)) for listener in sockets]
    for place, descriptor in enumerate(safe, FIRST_FD):
        os.dup2(descriptor, place, inheritable=True)
        os.close(descriptor)
    command = own_command()
    told = {"LISTEN_FDS": str(len(sockets)), "LISTEN_PID": str(os.getpid())} if sockets else {}
    os.execve(command[0], command, {**environ, **told})  # noqa: S606 our own command line
