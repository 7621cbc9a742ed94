"""Routes at run time: which lanes a source has, and what the transforms on the way to each make of a block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from dogwatch.core.metrics import Family
from dogwatch.logs.block import UNCOUNTED, Block
from dogwatch.logs.records import json_lines
from dogwatch.logs.rows import Encoded
from dogwatch.logs.section import LogsSpec, Route
from dogwatch.logs.splice import Splice
from dogwatch.logs.steps import Steps
from dogwatch.logs.transform import Step
from dogwatch.logs.transforms.metric import MetricStep

_PART_BYTES = 256 * 1024


class Path:
    """One route with its compiled steps."""

    def __init__(self, route: Route) -> None:
        self.sources = frozenset(route.from_)
        self.sinks = frozenset(route.to)
        self.kinds = tuple(transform.kind for transform in route.do)
        self.steps: tuple[Step, ...] = tuple(transform.open() for transform in route.do)
        self._compiled = Steps(self.steps)
        self._splice = Splice.of(self.steps)

    def apply(self, block: Block) -> Block:
        return self._compiled.apply(block) if self.steps else block

    def encoded(self, block: Block) -> Block:
        """Do the same for sinks that want nothing but JSON lines. What it returns knows how many lines there were.

        They are made here and now, and of a large block in parts: when the sink writes, or once a whole block is read,
        the first records would long have left the processor's cache.
        """
        if not self._compiled.by_rows_alone(block):
            return self.apply(counted(block))
        texts, count, taken = [], 0, 0
        for part in _parts(block):
            if self._splice is not None and (lines := self._splice.apply(part)) is not None:
                texts.append(lines[0])
                count += lines[1]
                taken += lines[2]
                continue
            taken += counted(part).count
            changed = self._compiled.apply(part)
            texts.append(json_lines(changed))
            count += changed.rows
        return msgspec.structs.replace(block, made=Encoded(b"".join(texts), count), data=b"", count=taken)


def counted(block: Block) -> Block:
    """Return the block with the number of its lines."""
    if block.count != UNCOUNTED:
        return block
    return msgspec.structs.replace(block, count=block.data.count(b"\n"))


def _parts(block: Block) -> Iterator[Block]:
    """Yield a block of lines in parts of about `_PART_BYTES`."""
    data, at = block.data, 0
    if block.starts is not None:
        yield block
        return
    while at < len(data):
        # The newline before the bound, or the one after it where a line is longer.
        end = data.rfind(b"\n", at, at + _PART_BYTES) + 1 or data.find(b"\n", at) + 1
        part = data[at:end]
        # How many lines that are is counted when they are cut: looking for each newline twice would cost much.
        yield msgspec.structs.replace(block, data=part, begin=block.begin + at, end=block.begin + end, count=UNCOUNTED)
        at = end


class StepCount(NamedTuple):
    """What one step counted. route, step: their places in the configuration, from 0."""

    route: int
    step: int
    kind: str
    event: str
    value: int


class Routing:
    """All routes."""

    def __init__(self, spec: LogsSpec) -> None:
        self._paths = tuple(Path(route) for route in spec.effective_routes())
        self._takes_json = frozenset(one.name for one in spec.sinks if one.sink.takes_json())
        self._order = tuple(one.name for one in spec.sinks)

    def lanes(self, source: str) -> tuple[str, ...]:
        """Return the sinks that a source's blocks go to."""
        reached = {sink for path in self._paths if source in path.sources for sink in path.sinks}
        return tuple(name for name in self._order if name in reached)

    def changes(self, source: str) -> bool:
        return any(path.steps for path in self._paths if source in path.sources)

    def apply(self, blocks: Sequence[Block], lanes: Iterable[str]) -> tuple[dict[str, list[Block]], int]:
        """Return what each lane is to be given of one source's blocks, and how many lines they have.

        A route's steps run once for all its sinks. Heavy: for a thread.
        """
        count = sum(block.count for block in blocks) if all(block.count != UNCOUNTED for block in blocks) else UNCOUNTED
        found: dict[str, list[Block]] = {lane: [] for lane in lanes}
        for path in self._paths:
            wanted = [lane for lane in found if lane in path.sinks]
            if not wanted or blocks[0].source not in path.sources:
                continue
            if not path.steps:
                blocks = changed = list(map(counted, blocks))
                count = sum(block.count for block in blocks)
            elif self._takes_json.issuperset(wanted):
                changed = [path.encoded(block) for block in blocks]
                count = sum(block.count for block in changed)
            else:
                changed = [path.apply(block) for block in blocks]
            for lane in wanted:
                found[lane] += changed
        return found, sum(counted(block).count for block in blocks) if count == UNCOUNTED else count

    def families(self) -> Iterator[Family]:
        """Yield the metrics that steps make; those of one name together, with the first one's help."""
        found: dict[str, list[Family]] = {}
        for path in self._paths:
            for step in path.steps:
                if isinstance(step, MetricStep):
                    for one in step.families():
                        found.setdefault(one.name, []).append(one)
        for name, several in found.items():
            lines: Counter[str] = Counter()
            for family in several:
                for text, value in family.series:
                    lines[text] += value  # type: ignore[assignment]
            yield Family(name, several[0].kind, several[0].help, list(lines.items()))

    def counts(self) -> list[StepCount]:
        """Return what every step counted, in their order."""
        return [
            StepCount(at, number, path.kinds[number], event, value)
            for at, path in enumerate(self._paths)
            for number, step in enumerate(path.steps)
            for event, value in list(step.counts.items())
        ]


Apply = Callable[[Block, Sequence[str]], dict[str, list[Block]]]
