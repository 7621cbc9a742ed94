"""One look at this process: cheap enough for every few seconds."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from dogwatch.diagnose import fds, tasks

_log = logging.getLogger(__name__)

# More kinds than these are one kind, "other": what is kept is bounded.
MAX_KINDS = 50
OTHER = "other"


class Lag(msgspec.Struct, frozen=True):
    """How late the loop woke a timer since the last look, seconds. beats: how often it was measured."""

    max_s: float = 0.0
    p99_s: float = 0.0
    beats: int = 0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What the process has. time_s: wall clock; at_s: monotonic. task_kinds: count by qualified name of the coroutine.

    gauges: what others registered (queue depths, drops).
    """

    time_s: float
    at_s: float
    fds: int
    fd_limit: int
    threads: int
    resident_bytes: int
    tasks: int
    task_kinds: Mapping[str, int]
    gc_counts: tuple[int, int, int]
    lag: Lag
    gauges: Mapping[str, float]


class LagMeter:
    """A timer that beats and notes how late it was. It ends with `stop`.

    The loop's own clock is not asked: uvloop's counts whole milliseconds and stands still during a callback.
    """

    def __init__(self, period_s: float = 0.25) -> None:
        self._period_s = period_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._lags: list[float] = []

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._set()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop = None

    def take(self) -> Lag:
        """Return what was measured since the last call. A beat that is overdue right now counts, too."""
        lags, self._lags = self._lags, []
        if self._handle is not None and (overdue_s := time.monotonic() - self._due_s) > 0:
            lags.append(overdue_s)
        if not lags:
            return Lag()
        lags.sort()
        return Lag(max_s=lags[-1], p99_s=lags[min(len(lags) - 1, int(len(lags) * 0.99))], beats=len(lags))

    def _set(self) -> None:
        if self._loop is not None:
            self._due_s = time.monotonic() + self._period_s
            self._handle = self._loop.call_later(self._period_s, self._beat)

    def _beat(self) -> None:
        # uvloop's timers step in whole milliseconds and may be early.
        self._lags.append(max(0.0, time.monotonic() - self._due_s))
        self._set()


def resident_bytes() -> int:
    """Return the resident memory of this process; its peak when no descriptor is left to read it with."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fd_limit() -> int:
    """Return the soft limit of descriptors, 0 where there is none."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit


def started_at_s() -> float:
    """Return when this process started, wall clock."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    lines = Path("/proc/stat").read_text().splitlines()
    booted_s = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return booted_s + ticks / os.sysconf("SC_CLK_TCK")


def take(*, time_s: float, at_s: float, lag: Lag, gauges: Mapping[str, Callable[[], float]]) -> Sample:
    """Look at the process now; in the loop's thread. A gauge that fails is left out of this sample."""
    alive = asyncio.all_tasks()
    kinds = tasks.count_kinds(alive)
    known = dict(kinds.most_common(MAX_KINDS))
    if len(kinds) > MAX_KINDS:
        known[OTHER] = kinds.total() - sum(known.values())
    read: dict[str, float] = {}
    for name, gauge in gauges.items():
        try:
            read[name] = float(gauge())
        except Exception as error:  # noqa: BLE001 - someone's gauge must not end the watch
            _log.warning("gauge %s failed: %s: %s", name, type(error).__name__, error)
    return Sample(
        time_s=time_s,
        at_s=at_s,
        fds=fds.count_fds(),
        fd_limit=fd_limit(),
        threads=threading.active_count(),
        resident_bytes=resident_bytes(),
        tasks=len(alive),
        task_kinds=known,
        gc_counts=gc.get_count(),
        lag=lag,
        gauges=read,
    )
