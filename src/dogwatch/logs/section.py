"""The `logs:` section: sources, routes with their transforms, sinks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.component import nearest
from dogwatch.core.units import Bytes, Seconds
from dogwatch.logs.sink import Sink
from dogwatch.logs.sinks import SINKS
from dogwatch.logs.source import Source
from dogwatch.logs.sources import SOURCES
from dogwatch.logs.transform import Transform
from dogwatch.logs.transforms import TRANSFORMS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class SourceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where lines come from; one key names the kind, `file: {paths: […]}`.

    name: what routes and records call it; the checkpoint knows it by this name. labels: who may read its records is
    decided by these and by its name, as `source`.
    """

    name: str
    source: Source
    labels: Mapping[str, str] = {}


class Buffer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may wait for a sink. memory: in memory. disk: beyond that on disk; 0 for none.

    when_full: block stops reading for this sink alone (files wait where they are), drop_newest and drop_oldest lose
    records and count them.
    """

    memory: Bytes = 16 * 1024 * 1024
    disk: Bytes = 0
    when_full: Literal["block", "drop_newest", "drop_oldest"] = "block"


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a batch is written. size: once so much waits. wait: or so long after the first."""

    size: Bytes = 1024 * 1024
    wait: Seconds = 0.1


class Again(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a failed write is tried again, without end: a random time up to base, which doubles up to cap.

    base: the first. cap: the longest.
    """

    base: Seconds = 0.5
    cap: Seconds = 60.0


class SinkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where records go; one key names the kind, `file: {path: …}`.

    name: what routes call it; the checkpoint knows it by this name. buffer: what may wait. batch: when it is written.
    concurrency: batches that may be on their way at once; more than 1 for sinks over HTTP alone, and lines of one file
    may then arrive out of their order. retry: when a write fails.
    """

    name: str
    sink: Sink
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 1
    buffer: Buffer = Buffer()
    batch: Batch = Batch()
    retry: Again = Again()


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From sources through transforms to sinks.

    from: names of sources; empty for all. do: transforms in their order, each one key that names its verb. to: names of
    sinks; empty for all.
    """

    from_: tuple[str, ...] = msgspec.field(default=(), name="from")
    do: tuple[Transform, ...] = ()
    to: tuple[str, ...] = ()


class LogsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent. folder: of its checkpoint, disk buffers and dead letters; default `logs` beside the daemon's store.

    sources: where lines come from. routes: how they go; without any, all sources go to all sinks. sinks: where to.
    checkpoint: the longest time between checkpoints; after 1,000 lines one is written sooner. grace: how long sinks may
    go on writing at a stop.
    """

    folder: str = ""
    sources: tuple[SourceSpec, ...] = ()
    routes: tuple[Route, ...] = ()
    sinks: tuple[SinkSpec, ...] = ()
    checkpoint: Annotated[float, Meta(gt=0, le=3600, extra={"unit": "duration"})] = 5.0
    grace: Seconds = 5.0

    def effective_routes(self) -> tuple[Route, ...]:
        """Return the routes with all names written out."""
        sources, sinks = tuple(one.name for one in self.sources), tuple(one.name for one in self.sinks)
        return tuple(
            msgspec.structs.replace(route, from_=route.from_ or sources, to=route.to or sinks)
            for route in self.routes or (Route(),)
        )


def check(spec: LogsSpec) -> Iterator[Fault]:
    yield from _names("sources", [one.name for one in spec.sources])
    yield from _names("sinks", [one.name for one in spec.sinks])
    for at, source in enumerate(spec.sources):
        for path, message, hint in source.source.faults():
            yield Fault(("sources", at, source.source.kind, *path), message, hint)
    for at, sink in enumerate(spec.sinks):
        for path, message, hint in sink.sink.faults():
            yield Fault(("sinks", at, sink.sink.kind, *path), message, hint)
        if sink.concurrency > 1 and not sink.sink.concurrent:
            yield Fault(
                ("sinks", at, "concurrency"), f"{sink.sink.kind} writes one batch after the other", "leave it out"
            )
    for at, route in enumerate(spec.routes):
        yield from _route(at, route, spec)
    if spec.sources and not spec.sinks:
        yield Fault(("sinks",), "there are sources, but no sink")
    yield from _unused(spec)


def _names(key: str, names: Sequence[str]) -> Iterator[Fault]:
    for at, name in enumerate(names):
        if not _NAME.fullmatch(name):
            yield Fault((key, at, "name"), "a name is at most 100 letters, digits and . _ -")
        if name in names[:at]:
            yield Fault((key, at, "name"), f"'{name}' is used twice, first by {key}[{names.index(name)}]")


def _route(at: int, route: Route, spec: LogsSpec) -> Iterator[Fault]:
    known = {"from": [one.name for one in spec.sources], "to": [one.name for one in spec.sinks]}
    for key, names in (("from", route.from_), ("to", route.to)):
        for index, name in enumerate(names):
            if name not in known[key]:
                word = "source" if key == "from" else "sink"
                yield Fault(("routes", at, key, index), f"no {word} is called '{name}'", nearest(name, known[key]))
    for index, transform in enumerate(route.do):
        for path, message, hint in transform.faults():
            yield Fault(("routes", at, "do", index, transform.kind, *path), message, hint)


def _unused(spec: LogsSpec) -> Iterator[Fault]:
    routes = spec.effective_routes()
    for at, source in enumerate(spec.sources):
        if not any(source.name in route.from_ for route in routes):
            yield Fault(("sources", at, "name"), f"no route begins at '{source.name}'")
    for at, sink in enumerate(spec.sinks):
        if not any(sink.name in route.to for route in routes):
            yield Fault(("sinks", at, "name"), f"no route leads to '{sink.name}'")


LOGS: Section[LogsSpec] = Section(
    key="logs",
    type=LogsSpec,
    doc="The log agent: sources, transforms, sinks, and what waits between them.",
    default=LogsSpec,
    families={Source: SOURCES, Sink: SINKS, Transform: TRANSFORMS},
    check=check,
)
