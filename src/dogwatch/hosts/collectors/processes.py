"""Processes: how many in which state, and the top ones by CPU and memory."""

from __future__ import annotations

import asyncio
import heapq
import os
import resource
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from dogwatch.core.metrics import Family, series
from dogwatch.hosts.collector import Collector, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.view import Glance, ProcessView

_PIDS = Metric("node_processes_pids", "gauge", "Number of PIDs")
_THREADS = Metric("node_processes_threads", "gauge", "Allocated threads in system")
_STATE = Metric("node_processes_state", "gauge", "Number of processes in each state.", ("state",))
_MAX_PIDS = Metric("node_processes_max_processes", "gauge", "Number of max PIDs limit")
_MAX_THREADS = Metric("node_processes_max_threads", "gauge", "Limit of threads in the system")
# So many are read before other work gets its turn: about a millisecond.
_TURN = 250
_READ_BYTES = 1024


class ProcessesCollector(Collector, frozen=True, kw_only=True):
    """Processes by state, threads, and the top ones.

    top: how many are shown, by CPU and by memory each; 0 shows none. keep_descriptors: of how many processes the
    file is kept open (three times as fast); never more than a quarter of our own limit; 0 keeps none.
    """

    kind: ClassVar[str] = "processes"
    metrics: ClassVar[tuple[Metric, ...]] = (_PIDS, _THREADS, _STATE, _MAX_PIDS, _MAX_THREADS)
    top: Annotated[int, Meta(ge=0, le=1000)] = 10
    keep_descriptors: Annotated[int, Meta(ge=0)] = 4096

    def open(self, machine: Machine) -> Sampler:
        return ProcessesSampler(machine, self)


class _Process:
    """One process between samples."""

    __slots__ = ("cpu_ratio", "fd", "line", "name", "pid", "resident_pages", "started", "state", "threads", "ticks")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = -1
        self.line = b""
        self.started = b""
        self.ticks = 0
        self.cpu_ratio = 0.0
        self.name = b""
        self.state = b""
        self.threads = 0
        self.resident_pages = 0

    def take(self, raw: bytes, ticks_per_ratio: float) -> None:
        """Read one line of /proc/<pid>/stat. ticks_per_ratio: CPU ticks since the last sample that make 1."""
        end = raw.rindex(b")")
        words = raw[end + 2 :].split(None, 22)
        ticks = int(words[11]) + int(words[12])
        if words[19] == self.started:
            self.cpu_ratio = max(0.0, (ticks - self.ticks) / ticks_per_ratio) if ticks_per_ratio > 0 else 0.0
        else:
            # New to us, or another process under an old number.
            self.started, self.cpu_ratio = words[19], 0.0
        self.ticks = ticks
        self.state = words[0]
        self.threads = int(words[17])
        self.resident_pages = int(words[21])
        self.line = raw
        self.name = raw[raw.index(b"(") + 1 : end]


class ProcessesSampler(Sampler):
    def __init__(self, machine: Machine, options: ProcessesCollector) -> None:
        self._machine = machine
        self._proc = machine.path("proc")
        self._top = options.top
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._keep = (
            options.keep_descriptors if soft == resource.RLIM_INFINITY else min(options.keep_descriptors, soft // 4)
        )
        self._kept = 0
        self._processes: dict[int, _Process] = {}
        self._last_s = 0.0
        self._sampled = False
        self._states: Counter[bytes] = Counter()
        self._threads = 0
        self._shown: list[_Process] = []
        self._note = ""
        self._limits = (machine.proc("sys/kernel/pid_max"), machine.proc("sys/kernel/threads-max"))
        self._users = _Users(machine.path("etc/passwd"))

    def sample(self, at: Moment, /) -> Coroutine[object, object, None] | None:
        pids = [int(name) for name in os.listdir(self._proc) if name.isdigit()]  # noqa: PTH208 # three times as fast
        ticks = (at.monotonic_s - self._last_s) * self._machine.ticks_per_s * self._machine.cores
        if len(pids) > _TURN:
            return self._in_turns(pids, ticks, at)
        self._finish(self._read(pids, ticks), at)
        return None

    async def _in_turns(self, pids: list[int], ticks: float, at: Moment) -> None:
        alive: dict[int, _Process] = {}
        for start in range(0, len(pids), _TURN):
            alive.update(self._read(pids[start : start + _TURN], ticks))
            await asyncio.sleep(0)
        self._finish(alive, at)

    def _read(self, pids: Iterable[int], ticks: float) -> dict[int, _Process]:
        alive: dict[int, _Process] = {}
        processes = self._processes
        pread = os.pread
        for pid in pids:
            process = processes.get(pid)
            if process is None:
                # Known at once, so that a run that is cut short leaves no descriptor without an owner.
                process = processes[pid] = _Process(pid)
            try:
                line = pread(process.fd, _READ_BYTES, 0) if process.fd >= 0 else self._line(process)
                if line == process.line:
                    # Most processes sleep: nothing about them has changed.
                    process.cpu_ratio = 0.0
                else:
                    process.take(line, ticks)
            except ProcessLookupError:
                self._drop(process)  # it ended; its number may be another process's by the next sample
                continue
            except (OSError, ValueError, IndexError):
                continue  # it ended, or we may not look
            alive[pid] = process
        return alive

    def _line(self, process: _Process) -> bytes:
        """Open a process's file and return its line; keep the file open where there is room."""
        fd = os.open(f"{self._proc}/{process.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            line = os.pread(fd, _READ_BYTES, 0)
        except OSError:
            os.close(fd)
            raise
        if self._kept < self._keep:
            process.fd = fd
            self._kept += 1
        else:
            os.close(fd)
        return line

    def _drop(self, process: _Process) -> None:
        if process.fd >= 0:
            os.close(process.fd)
            process.fd = -1
            self._kept -= 1

    def _finish(self, alive: dict[int, _Process], at: Moment) -> None:
        for pid in self._processes.keys() - alive.keys():
            self._drop(self._processes[pid])
        self._processes = alive
        self._last_s = at.monotonic_s
        self._sampled = True
        everyone = list(alive.values())
        self._states = Counter([process.state for process in everyone])
        self._threads = sum([process.threads for process in everyone])
        busy = [process for process in everyone if process.cpu_ratio > 0]
        by_cpu = heapq.nlargest(self._top, busy, key=lambda process: process.cpu_ratio)
        by_memory = heapq.nlargest(self._top, everyone, key=lambda process: process.resident_pages)
        self._shown = list(dict.fromkeys(by_cpu + by_memory))
        hidden = self._sampled and bool(alive) and 1 not in alive
        self._note = "only our own processes are visible (hidepid)" if hidden else ""

    def families(self) -> Iterator[Family]:
        if not self._sampled:
            return
        yield single(_PIDS, len(self._processes))
        yield single(_THREADS, self._threads)
        pairs = [(series(_STATE.name, {"state": state.decode()}), count) for state, count in self._states.items()]
        yield Family(_STATE.name, _STATE.kind, _STATE.help, pairs)
        for metric, file in zip((_MAX_PIDS, _MAX_THREADS), self._limits, strict=True):
            try:
                yield single(metric, int(file.read()))
            except OSError:
                continue  # a limit that this kernel or container does not show

    def history(self) -> Iterator[tuple[str, float]]:
        if self._sampled:
            yield "dogwatch_host_processes", len(self._processes)

    def show(self, glance: Glance) -> None:
        if self._sampled:
            glance.process_count = len(self._processes)
            glance.processes = [self._view(process) for process in self._shown]

    def _view(self, process: _Process) -> ProcessView:
        directory = f"{self._proc}/{process.pid}"
        return ProcessView(
            pid=process.pid,
            name=process.name.decode("utf-8", "replace"),
            user=self._users.of(directory),
            cpu_ratio=process.cpu_ratio,
            resident_bytes=process.resident_pages * self._machine.page_bytes,
            threads=process.threads,
            descriptors=_open_descriptors(directory),
            state=process.state.decode("ascii", "replace"),
        )

    def note(self) -> str:
        return self._note

    def close(self) -> None:
        for process in self._processes.values():
            self._drop(process)
        self._processes = {}
        for file in self._limits:
            file.close()


class _Users:
    """Names of user numbers from the machine's own passwd: the C library might ask a directory server, and wait."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._changed_ns = -1
        self._names: dict[int, str] = {}

    def of(self, directory: str) -> str:
        """Return the owner of a process's directory; its number where it has no name, "" where it ended."""
        try:
            # The directory's: the files in it are root's where a process may not be traced.
            uid = os.stat(directory).st_uid  # noqa: PTH116
        except OSError:
            return ""
        self._load()
        return self._names.get(uid, str(uid))

    def _load(self) -> None:
        try:
            changed_ns = os.stat(self._path).st_mtime_ns  # noqa: PTH116
            if changed_ns == self._changed_ns:
                return
            with open(self._path, "rb") as file:  # noqa: PTH123
                text = file.read(1 << 20).decode("utf-8", "replace")
        except OSError:
            return
        words = [line.split(":", 3) for line in text.splitlines()]
        self._names = {int(entry[2]): entry[0] for entry in words if len(entry) > 3 and entry[2].isdecimal()}
        self._changed_ns = changed_ns


def _open_descriptors(directory: str) -> int | None:
    """Return how many descriptors a process has; None where we may not know."""
    try:
        # The size since Linux 6.2; before, it is 0 and they are counted.
        return os.stat(f"{directory}/fd").st_size or len(os.listdir(f"{directory}/fd"))  # noqa: PTH116, PTH208
    except OSError:
        return None
