"""The `host:` section of the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from dogwatch.config.section import Fault, Path, Section
from dogwatch.core.units import Seconds
from dogwatch.hosts.collector import Collector
from dogwatch.hosts.collectors import COLLECTORS

if TYPE_CHECKING:

    class Collectors(msgspec.Struct, frozen=True, kw_only=True):
        """One field for each built-in collector, made from the registry so that a new one is listed only there."""

else:
    Collectors = msgspec.defstruct(
        "Collectors",
        [(component.kind, component, component()) for component in COLLECTORS],
        frozen=True,
        kw_only=True,
        module=__name__,
        namespace={"__doc__": "Options of the built-in collectors."},
    )


class ExtraCollector(msgspec.Struct, frozen=True, kw_only=True):
    """A collector of an outside package, written as its kind: `- gpu: {…}`."""

    collector: Collector


class HostSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How this machine is watched.

    name: how it is called; "" for the machine's own name. every: seconds between samples of a collector that has no
    interval of its own. root: where the machine's root is mounted, for a Dogwatch in a container that is given the
    host's ("/host"). collectors: options of the built-in ones. extra: collectors of outside packages.
    """

    name: str = ""
    every: Seconds = 15.0
    root: str = "/"
    collectors: Collectors = Collectors()
    extra: tuple[ExtraCollector, ...] = ()

    def enabled(self) -> dict[str, Collector]:
        """Return the collectors that are switched on, by kind."""
        built_in: list[Collector] = [getattr(self.collectors, kind) for kind in COLLECTORS.kinds()]
        every_one = built_in + [extra.collector for extra in self.extra]
        return {collector.kind: collector for collector in every_one if collector.enabled}

    def every_s(self, collector: Collector) -> float:
        return collector.every or collector.default_every_s or self.every


def check(spec: HostSpec) -> Iterator[Fault]:
    """Find what types cannot say: intervals of nothing, expressions that do not compile, a collector named twice."""
    if not spec.every > 0:
        yield Fault(("every",), "must be more than 0")
    if not spec.root.startswith("/"):
        yield Fault(("root",), f"'{spec.root}' is not an absolute path")
    for kind in COLLECTORS.kinds():
        yield from _check_collector(getattr(spec.collectors, kind), ("collectors", kind))
    seen = set(COLLECTORS.kinds())
    for index, extra in enumerate(spec.extra):
        kind = extra.collector.kind
        if kind in seen:
            yield Fault(("extra", index, kind), f"'{kind}' is here already")
        seen.add(kind)
        yield from _check_collector(extra.collector, ("extra", index, kind))


def _check_collector(collector: Collector, path: Path) -> Iterator[Fault]:
    if collector.every is not None and not collector.every > 0:
        yield Fault((*path, "every"), "must be more than 0; use enabled: false to switch it off")
    if not collector.timeout > 0:
        yield Fault((*path, "timeout"), "must be more than 0")
    for option in collector.patterns:
        try:
            re.compile(getattr(collector, option))
        except re.error as error:
            yield Fault((*path, option), f"is not a regular expression: {error}")


HOST: Section[HostSpec] = Section(
    key="host",
    type=HostSpec,
    doc="Collectors of this machine: which run, how often, and what they leave out.",
    default=HostSpec,
    families={Collector: COLLECTORS},
    check=check,
)
