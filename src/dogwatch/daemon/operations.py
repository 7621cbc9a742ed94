"""What the admin socket answers: what this process does, as data and as text for 80 columns."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Callable, Mapping

from dogwatch import __version__
from dogwatch.access.service import Access
from dogwatch.daemon import compiled
from dogwatch.daemon.admin import Operation, PeerOperation
from dogwatch.diagnose import fds, heap, profile, tasks, threads


async def _tasks() -> dict[str, object]:
    found = tasks.inspect_tasks()
    return {"data": found, "text": tasks.render_tasks(found)}


async def _fds() -> dict[str, object]:
    found = fds.inspect_fds()
    return {"data": found, "text": fds.render_fds(found)}


async def _threads() -> dict[str, object]:
    found = threads.inspect_threads()
    return {"data": found, "text": threads.render_threads(found)}


async def _heap() -> dict[str, object]:
    # Walking every object takes a while: beside the loop, not in it.
    found = await asyncio.to_thread(heap.inspect_heap)
    return {"data": found, "text": heap.render_heap(found)}


async def _profile(seconds: float = 5.0) -> dict[str, object]:
    found = await profile.profile(seconds)
    return {"data": found, "text": profile.render_profile(found)}


async def _version() -> dict[str, object]:
    data = {"version": __version__, "pid": os.getpid(), "modules": compiled.status()}
    return {"data": data, "text": f"dogwatch {__version__}, pid {os.getpid()}, {data['modules']}"}


def peer_operations(access: Access) -> Mapping[str, PeerOperation]:
    """Return the operations that depend on who asks."""

    async def local_token(uid: int) -> dict[str, object]:
        """Give this machine's own user a token for the API: whoever may open the socket may do everything."""
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        return {"token": access.local_token(name)}

    return {"local_token": local_token}


def operations(drain: Callable[[bool], int], stop: Callable[[], None]) -> Mapping[str, Operation]:
    """Return the operations by name.

    drain: lets the worker of this process take no more runs, or take them again, and tells how many it has.
    stop: ends the program as SIGTERM does.
    """

    async def _drain(*, on: bool = True) -> dict[str, object]:
        busy = drain(on)
        return {"data": {"busy": busy}, "text": f"runs at work: {busy}"}

    async def _stop() -> dict[str, object]:
        stop()
        return {"data": {}, "text": "stopping"}

    return {
        "drain": _drain,
        "stop": _stop,
        "tasks": _tasks,
        "fds": _fds,
        "threads": _threads,
        "heap": _heap,
        "profile": _profile,
        "version": _version,
    }
