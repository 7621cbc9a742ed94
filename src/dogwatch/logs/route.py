"""Routes at run time: which lanes a source has, and what the transforms on the way to each make of a block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from dogwatch.logs.block import Block
from dogwatch.logs.section import LogsSpec, Route
from dogwatch.logs.transform import Step


class Path:
    """One route with its compiled steps."""

    def __init__(self, route: Route) -> None:
        self.sources = frozenset(route.from_)
        self.sinks = frozenset(route.to)
        self.steps: tuple[Step, ...] = tuple(transform.open() for transform in route.do)

    def apply(self, block: Block) -> Block:
        if not self.steps:
            return block
        from dogwatch.logs.frames import through

        return through(block, self.steps)


class Routing:
    """All routes. counts: what steps did, by `<route>.<step>.<name>`."""

    def __init__(self, spec: LogsSpec) -> None:
        self._paths = tuple(Path(route) for route in spec.effective_routes())
        self._order = tuple(one.name for one in spec.sinks)

    def lanes(self, source: str) -> tuple[str, ...]:
        """Return the sinks that a source's blocks go to."""
        reached = {sink for path in self._paths if source in path.sources for sink in path.sinks}
        return tuple(name for name in self._order if name in reached)

    def changes(self, source: str) -> bool:
        return any(path.steps for path in self._paths if source in path.sources)

    def apply(self, block: Block, lanes: Iterable[str]) -> dict[str, list[Block]]:
        """Return what each lane is to be given; a route's steps run once for all its sinks. Heavy: for a thread."""
        found: dict[str, list[Block]] = {lane: [] for lane in lanes}
        for path in self._paths:
            wanted = [lane for lane in found if lane in path.sinks]
            if block.source in path.sources and wanted:
                changed = path.apply(block)
                for lane in wanted:
                    found[lane].append(changed)
        return found

    def counts(self) -> Counter[tuple[int, int, str]]:
        found: Counter[tuple[int, int, str]] = Counter()
        for at, path in enumerate(self._paths):
            for number, step in enumerate(path.steps):
                for name, value in step.counts.items():
                    found[at, number, name] = value
        return found


Apply = Callable[[Block, Sequence[str]], dict[str, list[Block]]]
