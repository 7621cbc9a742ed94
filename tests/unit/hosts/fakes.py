"""A store, a configuration and a collector that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family
from dogwatch.hosts.collector import Collector, Metric, Moment, Sampler, single
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.section import HostSpec
from dogwatch.hosts.view import Glance

METRIC = Metric("node_scripted", "gauge", "What the script says.")


class Configured:
    """A configuration with nothing but a host section."""

    def __init__(self, spec: HostSpec) -> None:
        self.spec = spec

    def get(self, _section: object) -> HostSpec:
        return self.spec


class KeptSamples:
    """The one call of Store that hosts make."""

    def __init__(self) -> None:
        self.samples: list[tuple[str, float, dict[str, float]]] = []

    def add_samples(self, host: str, time_s: float, samples: Iterable[tuple[str, float]]) -> None:
        self.samples.append((host, time_s, dict(samples)))


class ScriptedSampler(Sampler):
    def __init__(self) -> None:
        self.step: Callable[[Moment], Coroutine[object, object, None] | None] = lambda _at: None
        self.at: list[Moment] = []
        self.closed = 0
        self.bad_families: Exception | None = None

    def sample(self, at: Moment, /) -> Coroutine[object, object, None] | None:
        self.at.append(at)
        return self.step(at)

    def families(self) -> Iterator[Family]:
        if self.bad_families:
            raise self.bad_families
        yield single(METRIC, len(self.at))

    def history(self) -> Iterator[tuple[str, float]]:
        yield "scripted", len(self.at)

    def show(self, glance: Glance) -> None:
        glance.cores = len(self.at)

    def close(self) -> None:
        self.closed += 1


class ScriptedCollector(Collector, frozen=True, kw_only=True):
    """Does what its test says."""

    kind: ClassVar[str] = "scripted"
    metrics: ClassVar[tuple[Metric, ...]] = (METRIC,)
    timeout: float = 0.05

    def open(self, _machine: Machine) -> Sampler:
        return ScriptedSampler()


async def forever(_at: Moment) -> None:
    await asyncio.Event().wait()
