"""What fills the memory: objects by type, and allocation sites where tracemalloc runs."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Sequence

import msgspec

from dogwatch.core.units import format_size
from dogwatch.diagnose.frame import fit, short, table


class TypeUse(msgspec.Struct, frozen=True, kw_only=True):
    """Objects of one type. size_bytes: their own, without what they refer to."""

    type: str
    count: int
    size_bytes: int


class SiteUse(msgspec.Struct, frozen=True, kw_only=True):
    """Memory allocated at one line and not freed."""

    file: str
    line: int
    count: int
    size_bytes: int


class HeapInfo(msgspec.Struct, frozen=True, kw_only=True):
    """by_count and by_size: types, most first. sites: empty where tracemalloc does not run.

    gc_counts: objects since the last collection of each generation. Strings, numbers and bytes are counted only where
    an object that the collector tracks refers to them (`deep`).
    """

    objects: int
    size_bytes: int
    gc_counts: tuple[int, int, int]
    by_count: Sequence[TypeUse]
    by_size: Sequence[TypeUse]
    sites: Sequence[SiteUse] = ()


def inspect_heap(*, top: int = 20, deep: bool = False) -> HeapInfo:
    """Return the biggest users of the heap. deep: with strings and numbers; about a microsecond for each object."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    names: dict[type, str] = {}
    seen: set[int] = set()

    def count(thing: object) -> None:
        kind = type(thing)
        name = names.get(kind)
        if name is None:
            module = kind.__module__
            name = names[kind] = kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
        counts[name] += 1
        try:
            sizes[name] += sys.getsizeof(thing)
        except Exception:  # noqa: BLE001 - a foreign __sizeof__ may do anything; its object counts as 0 bytes
            sizes[name] += 0

    tracked = gc.get_objects()
    for thing in tracked:
        count(thing)
    if deep:
        for thing in tracked:
            for held in gc.get_referents(thing):
                if not gc.is_tracked(held) and id(held) not in seen:
                    seen.add(id(held))
                    count(held)
    del tracked
    return HeapInfo(
        objects=counts.total(),
        size_bytes=sizes.total(),
        gc_counts=gc.get_count(),
        by_count=[TypeUse(type=name, count=n, size_bytes=sizes[name]) for name, n in counts.most_common(top)],
        by_size=[TypeUse(type=name, count=counts[name], size_bytes=n) for name, n in sizes.most_common(top)],
        sites=_sites(top),
    )


def _sites(top: int) -> list[SiteUse]:
    # tracemalloc costs 1 MiB to import and is nearly never on.
    if "tracemalloc" not in sys.modules:
        return []
    import tracemalloc

    if not tracemalloc.is_tracing():
        return []
    found = tracemalloc.take_snapshot().statistics("lineno")[:top]
    return [
        SiteUse(file=s.traceback[0].filename, line=s.traceback[0].lineno, count=s.count, size_bytes=s.size)
        for s in found
    ]


def render_heap(heap: HeapInfo, *, width: int = 80) -> str:
    """Return the heap as tables: by size, then allocation sites."""
    rows = [(use.count, format_size(use.size_bytes), fit(use.type, width - 24)) for use in heap.by_size]
    text = f"{heap.objects} objects, {format_size(heap.size_bytes)}; since collection {heap.gc_counts}\n\n"
    text += table(("count", "size", "type"), rows, width=width)
    if heap.sites:
        sites = [(use.count, format_size(use.size_bytes), f"{short(use.file)}:{use.line}") for use in heap.sites]
        text += "\n\n" + table(("count", "size", "allocated at"), sites, width=width)
    return text
