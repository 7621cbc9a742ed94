"""The part of the program that watches this machine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

import msgspec

from dogwatch.config.part import Configuration, Prepared
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family, series
from dogwatch.core.values import Event, Signal
from dogwatch.errors import NotFound
from dogwatch.hosts.calls import BlockingCalls
from dogwatch.hosts.collector import Moment
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Entry, Runner
from dogwatch.hosts.section import HOST, HostSpec
from dogwatch.hosts.view import HostView
from dogwatch.store.protocol import Store

_log = logging.getLogger(__name__)

Spawn = Callable[[str, Coroutine[None, None, None]], "asyncio.Task[None]"]


def _spawn(name: str, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Start a task that nobody supervises; an end by an error is at least in the log, at once."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("task %s failed: %s: %s", task.get_name(), type(error).__name__, error, exc_info=error)


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """What live views are told of a sample: the few values that history keeps."""

    host: str
    time_s: float
    values: dict[str, float]


class Hosts:
    """Samples this machine, shows it, keeps what is worth keeping. Implements Part and HostsView.

    It begins to sample when the first configuration is put in force. spawn: starts its task: a
    supervisor's `start`. on_signal: is given every sample for deciders; None builds none.
    """

    name = "hosts"

    def __init__(
        self,
        *,
        clock: Clock,
        bus: Bus,
        store: Store,
        spawn: Spawn = _spawn,
        on_signal: Callable[[Signal], None] | None = None,
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._store = store
        self._spawn = spawn
        self._on_signal = on_signal
        # Outlives reloads: a mount that hangs is not asked again by a new collector.
        self._calls = BlockingCalls()
        self._runner = Runner(clock, self._take)
        self._task: asyncio.Task[None] | None = None
        self._spec = HostSpec()
        self._name = ""
        self._machine = Machine(calls=self._calls)
        self._announced_s: float | None = None
        self._values: dict[str, float] = {}

    def prepare(self, configuration: Configuration) -> Prepared:
        """Build the collectors that changed; those that did not keep their descriptors and their rates."""
        return _PreparedHosts(self, configuration.get(HOST))

    def build(self, spec: HostSpec) -> tuple[Machine, dict[str, Entry]]:
        """Return the machine and the entries that spec asks for, those of now where nothing changed."""
        same_root = spec.root == self._spec.root
        machine = self._machine if same_root else Machine(spec.root, calls=self._calls)
        entries: dict[str, Entry] = {}
        for kind, collector in spec.enabled().items():
            every_s = spec.every_s(collector)
            old = self._runner.entries.get(kind)
            if old and same_root and old.collector == collector and old.every_s == every_s:
                entries[kind] = old
            else:
                entries[kind] = Entry(collector, collector.open(machine), every_s=every_s)
        return machine, entries

    def swap(self, spec: HostSpec, machine: Machine, entries: dict[str, Entry]) -> list[Entry]:
        """Put entries in force and return those that they replace."""
        replaced = [old for kind, old in self._runner.entries.items() if entries.get(kind) is not old]
        self._spec, self._machine = spec, machine
        self._name = spec.name or _machine_name(machine)
        self._runner.replace(entries)
        if self._task is None:
            self._task = self._spawn("hosts", self._runner.run())
        return replaced

    async def stop(self) -> None:
        """End the schedule and every run, close all descriptors. Threads of calls that hang are left behind."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        entries = list(self._runner.entries.values())
        self._runner.replace({})
        for entry in entries:
            await entry.close()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The collectors in force, by kind."""
        return self._runner.entries

    def hosts(self) -> Sequence[HostView]:
        """Return this machine, as the newest samples show it."""
        return (self._view(),)

    def host(self, name: str) -> HostView:
        if name != self._name:
            raise NotFound(f"no host '{name}'", hint=f"known: {self._name}")
        return self._view()

    def _view(self) -> HostView:
        glance = self._runner.glance()
        fields = {field: getattr(glance, field) for field in glance.__struct_fields__}
        return HostView(name=self._name, collectors=self._runner.views(), **fields)

    def metrics(self) -> Iterable[Family]:
        return self._families()

    def _families(self) -> Iterator[Family]:
        yield from self._runner.families()
        yield Family(_CALLS, "gauge", "Calls that may hang (statvfs) under way now.", ((_CALLS, self._calls.running),))

    def _take(self, at: Moment, entries: Sequence[Entry]) -> None:
        """Keep and announce new samples."""
        values = self._runner.history(entries)
        if values:
            self._store.add_samples(self._name, at.time_s, values)
        if self._on_signal is not None:
            for entry in entries:
                self._signal(self._on_signal, at.time_s, entry)
        if self._bus.wanted("sample"):
            self._announce(at, values)

    def _signal(self, send: Callable[[Signal], None], time_s: float, entry: Entry) -> None:
        values = dict(self._runner.history([entry]))
        if values:
            send(Signal(source=f"host.{entry.name}", target=self._name, time_s=time_s, values=values))

    def _announce(self, at: Moment, values: list[tuple[str, float]]) -> None:
        """Publish at most once in an interval: what comes between waits for the next."""
        self._values.update(values)
        if self._announced_s is not None and 0 <= at.monotonic_s - self._announced_s < self._spec.every * 0.9:
            return
        self._announced_s = at.monotonic_s
        sample = HostSample(host=self._name, time_s=at.time_s, values=self._values)
        self._values = {}
        self._bus.publish(Event(topic="sample", time_s=at.time_s, data=sample))


class _PreparedHosts:
    """A change to the collectors that is built, but not in force."""

    def __init__(self, hosts: Hosts, spec: HostSpec) -> None:
        self._hosts = hosts
        self._spec = spec
        self._before = dict(hosts.entries)
        self._machine, self._entries = hosts.build(spec)
        self._replaced: list[Entry] = []

    async def start(self) -> None:
        """Nothing: a collector opens what it reads at its first sample, and reports what it cannot open."""

    def swap(self) -> None:
        self._replaced = self._hosts.swap(self._spec, self._machine, self._entries)

    async def finish(self) -> None:
        for entry in self._replaced:
            await entry.close()

    async def discard(self) -> None:
        for kind, entry in self._entries.items():
            if self._before.get(kind) is not entry:
                await entry.close()


_CALLS = series("dogwatch_host_blocking_calls", {})


def _machine_name(machine: Machine) -> str:
    if machine.root:
        # The kernel would tell us our container's name.
        try:
            with open(machine.path("etc/hostname"), encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                return file.read(256).strip() or os.uname().nodename
        except OSError:
            pass
    return os.uname().nodename
