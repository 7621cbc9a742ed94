"""Every open descriptor of this process: what it is and, where it can be told, who holds it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import os
import resource
import socket
import struct
import textwrap
import types
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dogwatch.diagnose.frame import fit, table

# How many holders up: socket ← transport ← protocol ← coroutine.
HOLDER_DEPTH = 4
# Linux include/net/tcp_states.h
_TCP_STATES = (
    "",
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
)


# A container with more entries is an index of many things, not the owner of one.
_INDEX = 500
_CONTAINERS = (dict, list, set, tuple, types.MethodType, types.CellType)
_NEVER_HOLDERS = frozenset(
    {
        type,
        types.FunctionType,
        types.CodeType,
        types.ModuleType,
        types.FrameType,
        types.BuiltinFunctionType,
        types.WrapperDescriptorType,
        types.MethodDescriptorType,
        types.GetSetDescriptorType,
        types.MemberDescriptorType,
        weakref.ReferenceType,
        property,
        staticmethod,
        classmethod,
        frozenset,
    }
)


class FdInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One descriptor. kind: file, directory, socket, pipe, eventpoll, eventfd, timerfd, signalfd, memfd, device, other.

    target: the path, or what the kernel calls it. Sockets: family, type, local, remote, state. holders: who refers to
    it, nearest first; empty where a C library holds it.
    """

    number: int
    kind: str
    target: str
    family: str = ""
    type: str = ""
    local: str = ""
    remote: str = ""
    state: str = ""
    holders: Sequence[str] = ()


def count_fds() -> int:
    """Return the number of open descriptors; also when there is none left to look with."""
    # Since Linux 6.2 the folder's size is the count. Before, it is 0.
    if count := os.stat("/proc/self/fd").st_size:  # noqa: PTH116 - of each scrape
        return count
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - one of them is the listing's own; no Path for each
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def inspect_fds(*, holders: bool = True) -> list[FdInfo]:
    """Return every descriptor by number. holders: also search the heap for who holds it, some tens of milliseconds."""
    targets: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            targets[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
    held = _holders(set(targets)) if holders else {}
    return [_describe(number, target, held.get(number, ())) for number, target in sorted(targets.items())]


def count_kinds() -> Counter[str]:
    """Return how many descriptors of each kind there are."""
    return Counter(info.kind for info in inspect_fds(holders=False))


def _describe(number: int, target: str, holders: Sequence[str]) -> FdInfo:
    kind = _kind(target)
    if kind != "socket":
        return FdInfo(number=number, kind=kind, target=target, holders=holders)
    family = type_ = local = remote = state = ""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as twin:
        family, type_ = twin.family.name.removeprefix("AF_").lower(), twin.type.name.removeprefix("SOCK_").lower()
        local = _address(twin.getsockname())
        with contextlib.suppress(OSError):
            remote = _address(twin.getpeername())
        state = _state(twin, remote)
    return FdInfo(
        number=number,
        kind=kind,
        target=target,
        family=family,
        type=type_,
        local=local,
        remote=remote,
        state=state,
        holders=holders,
    )


def _kind(target: str) -> str:
    if target.startswith("anon_inode:"):
        name = target.removeprefix("anon_inode:").strip("[]")
        return name if name in ("eventpoll", "eventfd", "timerfd", "signalfd", "pidfd", "inotify") else "other"
    for prefix, kind in (
        ("socket:", "socket"),
        ("pipe:", "pipe"),
        ("/memfd:", "memfd"),
        ("/dev/", "device"),
        ("/", "file"),
    ):
        if target.startswith(prefix):
            return "directory" if kind == "file" and os.path.isdir(target) else kind  # noqa: PTH112
    return "other"


def _state(twin: socket.socket, remote: str) -> str:
    with contextlib.suppress(OSError, struct.error):
        if twin.type == socket.SOCK_STREAM and twin.family in (socket.AF_INET, socket.AF_INET6):
            return _TCP_STATES[twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]
        if twin.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "listen"
    return "connected" if remote else "unconnected"


def _address(name: Any) -> str:
    if isinstance(name, tuple) and len(name) >= 2:
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    if isinstance(name, bytes):
        return "@" + name.lstrip(b"\0").decode(errors="replace")
    return str(name)


def _descriptor_of(thing: object) -> int:
    """Return the descriptor that an object owns, -1 for none. It must not run foreign code: only known types."""
    kind = type(thing)
    try:
        if issubclass(kind, (socket.socket, io.FileIO)):
            return int(thing.fileno())  # type: ignore[attr-defined]
        if kind.__module__ == "uvloop.loop":
            if kind.__name__ == "Server":
                sockets = thing.sockets  # type: ignore[attr-defined]
                return _fileno(sockets[0]) if sockets else -1
            if hasattr(kind, "get_extra_info"):
                return _fileno(thing.get_extra_info("socket"))  # type: ignore[attr-defined]
        if issubclass(kind, asyncio.BaseEventLoop):
            return int(thing._selector.fileno())  # type: ignore[attr-defined]  # noqa: SLF001
    except (OSError, ValueError, AttributeError, RuntimeError):
        return -1
    return -1


def _fileno(thing: Any) -> int:
    return -1 if thing is None else int(thing.fileno())


def _holders(numbers: set[int]) -> dict[int, tuple[str, ...]]:
    """Search the heap for objects that own descriptors, then for who refers to them, some levels up."""
    names: dict[int, list[str]] = {}
    level: dict[int, set[int]] = {}
    candidates: list[object] = []
    for thing in gc.get_objects():
        kind = type(thing)
        number = _descriptor_of(thing)
        if number in numbers:
            names.setdefault(number, []).append(_name(thing))
            level[id(thing)] = {number}
            if isinstance(thing, asyncio.AbstractEventLoop):
                level.pop(id(thing))  # everything refers to the loop: going on from there tells nothing
        elif kind not in _NEVER_HOLDERS:
            candidates.append(thing)
    seen = set(level)
    for _ in range(HOLDER_DEPTH):
        if not level:
            break
        level = _one_up(level, candidates, seen, names)
        seen.update(level)
    return {number: tuple(dict.fromkeys(found))[:8] for number, found in names.items()}


def _one_up(
    level: dict[int, set[int]], candidates: list[object], seen: set[int], names: dict[int, list[str]]
) -> dict[int, set[int]]:
    """Name whatever refers to the objects of a level, and return it, by identity, with its descriptors."""
    above: dict[int, set[int]] = {}
    ids = level.keys()
    for holder in candidates:
        if id(holder) in seen:
            continue
        referents = gc.get_referents(holder)
        if len(referents) > _INDEX:
            continue
        hits = ids & set(map(id, referents))
        if not hits:
            continue
        its = set().union(*(level[hit] for hit in hits))
        if isinstance(holder, asyncio.AbstractEventLoop):
            continue
        above[id(holder)] = its
        if type(holder) not in _CONTAINERS:
            for number in its:
                names[number].append(_name(holder))
    return above


def _name(thing: object) -> str:
    kind = type(thing)
    if hasattr(thing, "cr_await") or hasattr(thing, "ag_await") or hasattr(thing, "gi_yieldfrom"):
        return f"{kind.__name__} {getattr(thing, '__qualname__', '')}"
    if isinstance(thing, asyncio.Task):
        return f"task {thing.get_name()}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _telling(holders: Sequence[str]) -> str:
    """Return the holder that says most: the task or coroutine, else the furthest from the descriptor itself."""
    named = [holder for holder in holders if holder.startswith(("task ", "coroutine "))]
    return (named or list(holders) or [""])[-1]


def render_fds(fds: Iterable[FdInfo], *, width: int = 80) -> str:
    """Return the descriptors as a table."""
    rows = []
    known = list(fds)
    for info in known:
        what = info.target
        if info.kind == "socket":
            arrow = f" → {info.remote}" if info.remote else ""
            what = f"{info.family} {info.type} {info.local}{arrow} {info.state}"
        rows.append((info.number, info.kind, what, _telling(info.holders)))
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(info.kind for info in known).most_common())
    narrow = [(number, kind, fit(what, 42), holder) for number, kind, what, holder in rows]
    head = textwrap.fill(f"{len(known)} descriptors: {kinds}", width)
    return f"{head}\n\n" + table(("fd", "kind", "what", "held by"), narrow, width=width)
