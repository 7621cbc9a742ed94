"""Containers of Docker or podman, through the Engine API on its unix socket."""

from __future__ import annotations

import asyncio
import os
import stat as modes
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Annotated, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from dogwatch.core.metrics import Family
from dogwatch.core.units import Seconds
from dogwatch.hosts.collector import Absent, Collector, CollectorError, Metric, Moment, Sampler, Table
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.rates import Rates
from dogwatch.hosts.unixhttp import EngineError, get
from dogwatch.hosts.view import ContainerView, Glance

T = TypeVar("T")

_LABELS = ("id", "image", "name")
_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTHS = ("healthy", "unhealthy", "starting")
# cAdvisor's names for what it has, our own for what it does not.
_STATS = tuple(
    Metric(name, kind, text, _LABELS)
    for name, kind, text in (
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds."),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory."),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes."),
        ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container; 0 for none."),
        ("container_network_receive_bytes_total", "counter", "Cumulative count of bytes received"),
        ("container_network_transmit_bytes_total", "counter", "Cumulative count of bytes transmitted"),
    )
)
_RESTARTS = Metric("dogwatch_container_restarts_total", "counter", "Restarts by the engine's restart policy.", _LABELS)
_STATE = Metric("dogwatch_container_state", "gauge", "1 for the state that the container is in.", (*_LABELS, "state"))
_HEALTH = Metric(
    "dogwatch_container_health",
    "gauge",
    "1 for the health that the container's own check found; none without a check.",
    (*_LABELS, "health"),
)
# Where engines listen; the first that is there is asked. {uid} is our own: a podman without root.
_SOCKETS = ("run/docker.sock", "var/run/docker.sock", "run/podman/podman.sock", "run/user/{uid}/podman/podman.sock")
# A limit of half the address space is the kernel's way to say that there is none.
_NO_LIMIT = 1 << 62


class ContainersCollector(Collector, frozen=True, kw_only=True):
    """State, health, restarts, CPU, memory and network of containers, through the Engine API of Docker or podman.

    socket: the engine's unix socket; "" looks at Docker's and podman's usual places. max_containers: more than these
    are left out and reported. concurrency: requests at one time.
    """

    kind: ClassVar[str] = "containers"
    # Every container costs the engine two answers.
    default_every_s: ClassVar[float | None] = 30.0
    metrics: ClassVar[tuple[Metric, ...]] = (*_STATS, _RESTARTS, _STATE, _HEALTH)
    timeout: Seconds = 10.0
    socket: str = ""
    max_containers: Annotated[int, Meta(ge=1, le=10_000)] = 200
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 8

    def open(self, machine: Machine) -> Sampler:
        return ContainersSampler(machine, self)


class Listed(msgspec.Struct, frozen=True, rename="pascal"):
    """One entry of /containers/json."""

    id: str
    names: list[str] | None = None
    image: str = ""
    state: str = ""
    status: str = ""


class _Health(msgspec.Struct, frozen=True, rename="pascal"):
    status: str = ""


class _State(msgspec.Struct, frozen=True, rename="pascal"):
    health: _Health | None = None


class Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    """What we take of /containers/<id>/json."""

    restart_count: int = 0
    state: _State | None = None


class _CpuUsage(msgspec.Struct, frozen=True):
    total_usage: int = 0


class _Cpu(msgspec.Struct, frozen=True):
    cpu_usage: _CpuUsage | None = None


class _Memory(msgspec.Struct, frozen=True):
    usage: int = 0
    limit: int = 0
    stats: dict[str, int] | None = None


class _Network(msgspec.Struct, frozen=True):
    rx_bytes: int = 0
    tx_bytes: int = 0


class Stats(msgspec.Struct, frozen=True):
    """What we take of /containers/<id>/stats. cgroup version 1 and 2 differ in the names below memory_stats.stats."""

    cpu_stats: _Cpu | None = None
    memory_stats: _Memory | None = None
    networks: dict[str, _Network] | None = None

    def row(self) -> tuple[float, ...]:
        """Return the values of _STATS, in their order."""
        cpu = self.cpu_stats.cpu_usage if self.cpu_stats else None
        memory = self.memory_stats or _Memory()
        fields = memory.stats or {}
        idle_file = fields.get("total_inactive_file", fields.get("inactive_file", 0))
        networks = (self.networks or {}).values()
        return (
            cpu.total_usage / 1e9 if cpu else 0.0,
            memory.usage,
            max(0, memory.usage - idle_file),
            memory.limit if memory.limit < _NO_LIMIT else 0,
            sum(network.rx_bytes for network in networks),
            sum(network.tx_bytes for network in networks),
        )


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """One container as the newest sample saw it. row: values of _STATS; None unless it runs."""

    labels: Mapping[str, str]
    state: str
    health: str
    restarts: int
    row: tuple[float, ...] | None


class ContainersSampler(Sampler):
    def __init__(self, machine: Machine, options: ContainersCollector) -> None:
        self._machine = machine
        self._options = options
        self._containers: dict[str, Container] = {}
        self._rates: Rates[str] = Rates()
        self._trouble = ""
        self._stats: Table[str] = Table(_STATS)
        self._restarts: Table[str] = Table((_RESTARTS,))
        self._state: Table[tuple[str, str]] = Table((_STATE,))
        self._health: Table[tuple[str, str]] = Table((_HEALTH,))

    def sample(self, at: Moment, /) -> Coroutine[object, object, None]:
        return self._collect(self._socket(), at)

    def _socket(self) -> str:
        if self._options.socket:
            return self._options.socket
        for place in _SOCKETS:
            path = self._machine.path(place.format(uid=os.getuid()))
            try:
                if modes.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116
                    return path
            except OSError:
                continue
        raise Absent("no container engine's socket")

    async def _collect(self, socket: str, at: Moment) -> None:
        try:
            body = await get(socket, "/containers/json?all=1")
        except OSError as error:
            raise CollectorError(f"cannot ask {socket}: {error.strerror or error}") from error
        listed = _decode(body, list[Listed])
        chosen = listed[: self._options.max_containers]
        slots = asyncio.Semaphore(self._options.concurrency)
        found: dict[str, Container] = {}
        faults: list[str] = []

        async def one(entry: Listed) -> None:
            async with slots:
                try:
                    container = await _look(socket, entry)
                except (EngineError, CollectorError, OSError) as error:
                    faults.append(f"{_name(entry)}: {error}")
                else:
                    if container is not None:
                        found[entry.id] = container

        async with asyncio.TaskGroup() as group:
            for entry in chosen:
                group.create_task(one(entry), name=f"hosts container {entry.id[:12]}")
        if len(listed) > len(chosen):
            faults.append(f"{len(listed) - len(chosen)} containers beyond max_containers are left out")
        self._trouble = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        # In the engine's order, whatever answered first.
        self._containers = {entry.id: found[entry.id] for entry in chosen if entry.id in found}
        self._rates.update(
            at.monotonic_s, {key: (c.row[0], c.row[4], c.row[5]) for key, c in self._containers.items() if c.row}
        )

    def families(self) -> Iterator[Family]:
        # By name as well: a container that is renamed gets new text.
        known = {f"{key} {container.labels['name']}": container for key, container in self._containers.items()}
        labels = {key: container.labels for key, container in known.items()}
        yield from self._stats.families({key: c.row for key, c in known.items() if c.row}, labels)
        yield from self._restarts.families({key: (c.restarts,) for key, c in known.items()}, labels)
        yield from self._one_of(self._state, _STATES, "state", lambda container: container.state)
        yield from self._one_of(self._health, _HEALTHS, "health", lambda container: container.health)

    def _one_of(
        self, table: Table[tuple[str, str]], words: tuple[str, ...], label: str, value: Callable[[Container], str]
    ) -> Iterator[Family]:
        rows: dict[tuple[str, str], tuple[float]] = {}
        labels: dict[tuple[str, str], Mapping[str, str]] = {}
        for key, container in self._containers.items():
            now = value(container)
            named = f"{key} {container.labels['name']}"
            for word in words if now else ():
                rows[named, word] = (float(word == now),)
                labels[named, word] = {**container.labels, label: word}
        return table.families(rows, labels)

    def show(self, glance: Glance) -> None:
        glance.containers = [self._view(key, container) for key, container in self._containers.items()]

    def _view(self, key: str, container: Container) -> ContainerView:
        rates = self._rates.by_key.get(key) if container.row else None
        return ContainerView(
            container_id=key,
            name=container.labels["name"],
            image=container.labels["image"],
            state=container.state,
            health=container.health,
            cpu_ratio=rates[0] / self._machine.cores if rates else None,
            memory_bytes=int(container.row[2]) if container.row else None,
            memory_limit_bytes=int(container.row[3]) or None if container.row else None,
            restarts=container.restarts,
            network_receive_bytes_per_s=rates[1] if rates else None,
            network_transmit_bytes_per_s=rates[2] if rates else None,
        )

    def trouble(self) -> str:
        return self._trouble


async def _look(socket: str, entry: Listed) -> Container | None:
    """Return one container; None when it was removed meanwhile."""
    path = f"/containers/{entry.id}"
    try:
        inspected = _decode(await get(socket, f"{path}/json"), Inspected)
        row = None
        if entry.state in ("running", "paused"):
            # one-shot: without it the engine waits a second for a second sample.
            row = _decode(await get(socket, f"{path}/stats?stream=false&one-shot=true"), Stats).row()
    except EngineError as error:
        if error.status == 404:
            return None
        raise
    health = inspected.state.health.status if inspected.state and inspected.state.health else ""
    return Container(
        labels={"id": entry.id, "image": entry.image, "name": _name(entry)},
        state=entry.state,
        health="" if health == "none" else health,
        restarts=inspected.restart_count,
        row=row,
    )


def _name(entry: Listed) -> str:
    return entry.names[0].lstrip("/") if entry.names else entry.id[:12]


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CollectorError(f"the engine's answer is not understood: {error}") from error
