"""The seam of every collector: its options, what it offers, and the sampler that holds its descriptors and state."""

from __future__ import annotations

import re
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

import msgspec

from dogwatch.core.component import Component
from dogwatch.core.metrics import Family, series
from dogwatch.core.units import Seconds
from dogwatch.errors import PermanentError, TransientError
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.view import Glance


class Absent(PermanentError):
    """This machine has no such thing (no pressure files, no container engine): no fault, and no data."""

    code = "absent"


class CollectorError(TransientError):
    """A run failed; the next one is tried as usual."""

    code = "collector"


class Moment(msgspec.Struct, frozen=True, gc=False):
    """When a sample is taken: the wall clock stamps it, the monotonic clock measures rates."""

    time_s: float
    monotonic_s: float


class Metric(msgspec.Struct, frozen=True):
    """A family that a collector offers. name: may hold one `*` where the kernel decides (`node_memory_*_bytes`)."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


class Sampler:
    """One open collector: kept descriptors, the newest sample, and what rates need of the one before.

    `sample` reads and computes what views and history show; decoding the rest waits until `families` is asked.
    Either may raise: the runner records it against the collector.
    """

    def sample(self, at: Moment, /) -> Coroutine[object, object, None] | None:
        """Take a sample. Return None when it is done, or what to await where it may take time."""
        raise NotImplementedError

    def families(self) -> Iterable[Family]:
        """Return what node_exporter would show of the newest sample; nothing before the first."""
        return ()

    def history(self) -> Iterable[tuple[str, float]]:
        """Return the few values of the newest sample that are worth keeping (hosts/history.py lists them)."""
        return ()

    def show(self, glance: Glance) -> None:
        """Fill in what this collector knows."""

    def note(self) -> str:
        """Return what a person should know of a run that succeeded, one sentence; "" for nothing."""
        return ""

    def trouble(self) -> str:
        """Return what failed in a run whose other parts succeeded (one mount of many), one sentence; "" for nothing."""
        return ""

    def close(self) -> None:
        """Close every descriptor; safe to call twice."""


class Collector(Component, frozen=True, kw_only=True):
    """Reads one thing of this machine.

    enabled: false switches it off. every: seconds between samples; unset takes the collector's own default or
    `host.every`. timeout: seconds after which a run is given up and reported.
    """

    enabled: bool = True
    every: Seconds | None = None
    timeout: Seconds = 5.0

    # Seconds between samples where neither the collector nor, for None, the section says so.
    default_every_s: ClassVar[float | None] = None
    metrics: ClassVar[tuple[Metric, ...]] = ()
    # Options that are regular expressions; the section's check compiles them.
    patterns: ClassVar[tuple[str, ...]] = ()

    def open(self, machine: Machine) -> Sampler:
        """Return a sampler. No I/O yet: what cannot be opened is reported by the first sample."""
        raise NotImplementedError


K = TypeVar("K")


class Table(Generic[K]):
    """Families with one value for each of some keys (devices, mounts); series text is made once per key.

    columns: the metrics; a row holds their values in that order and may be shorter (older kernels know less).
    """

    def __init__(self, columns: Sequence[Metric]) -> None:
        self._columns = columns
        self._texts: dict[K, tuple[str, ...]] = {}

    def families(self, rows: Mapping[K, Sequence[float]], labels: Mapping[K, Mapping[str, str]]) -> Iterator[Family]:
        """Return one family per column. labels: of each key in rows."""
        if self._texts.keys() != rows.keys():
            self._texts = {key: self._text(key, labels) for key in rows}
        texts = self._texts
        for index, metric in enumerate(self._columns):
            pairs = [(texts[key][index], row[index]) for key, row in rows.items() if index < len(row)]
            yield Family(metric.name, metric.kind, metric.help, pairs)

    def _text(self, key: K, labels: Mapping[K, Mapping[str, str]]) -> tuple[str, ...]:
        known = self._texts.get(key)
        return known or tuple(series(metric.name, labels[key]) for metric in self._columns)


_NAME = re.compile(r"[A-Za-z0-9_]+")


def field_name(text: str) -> str:
    """Return a field of a kernel's file as part of a metric's name.

    Raises: CollectorError where it is none, so that a damaged file cannot spoil a whole scrape.
    """
    if not _NAME.fullmatch(text):
        raise CollectorError(f"'{text[:40]}' is not a field's name")
    return text


def single(metric: Metric, value: float) -> Family:
    """Return a family of one series without labels."""
    return Family(metric.name, metric.kind, metric.help, ((metric.name, value),))
