"""What transforms would do to some lines: `logs test`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.multiline import INNER
from dogwatch.logs.records import records
from dogwatch.logs.rows import OWN
from dogwatch.logs.section import LogsSpec
from dogwatch.logs.source import Source
from dogwatch.logs.sources.file import FileSource
from dogwatch.logs.steps import through
from dogwatch.logs.transform import Step


def source_of(spec: LogsSpec, name: str) -> str | None:
    """Return the source that has this name, or follows this file."""
    for one in spec.sources:
        if one.name == name:
            return name
    for one in spec.sources:
        patterns = one.source.paths if isinstance(one.source, FileSource) else ()
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            return one.name
    return None


class Became(msgspec.Struct, frozen=True):
    """A record after a step. record: None where the step dropped it. notes: what the step had to say of it."""

    step: str
    record: dict[str, object] | None
    notes: list[str] = []


class Tried(msgspec.Struct, frozen=True):
    """A record on one route. route: counted from 1. to: names of sinks. line: as the source makes it."""

    route: int
    to: tuple[str, ...]
    line: str
    steps: list[Became]


def trial(spec: LogsSpec, source: str, data: bytes) -> Iterator[Tried]:
    """Yield each record, and what it is after each step of each route from the source."""
    lines = _records(next(one.source for one in spec.sources if one.name == source), data)
    for number, route in enumerate(spec.effective_routes()):
        if source not in route.from_:
            continue
        steps = [(transform.kind, transform.open()) for transform in route.do]
        at = 0
        for line in lines:
            block = Block(
                source=source,
                stream="test",
                path="-",
                begin=at,
                end=at + len(line) + 1,
                data=line + b"\n",
                count=1,
                starts=(at,),
                joined=INNER in line,
            )
            at = block.end
            text = line.decode("utf-8", "replace").replace(INNER.decode(), "\n")
            yield Tried(number + 1, route.to, text, list(_steps(block, steps)))


def shown(found: Iterable[Tried]) -> Iterator[str]:
    """Yield lines for people."""
    route = 0
    for one in found:
        if one.route != route:
            route = one.route
            yield f"route {route}, to {', '.join(one.to)}"
        yield from (f"  {_printable(line)}" for line in one.line.split("\n"))
        before: dict[str, object] | None = None
        for step in one.steps:
            if step.record is None:
                yield f"    {step.step}: dropped"
                continue
            note = f"  ({'; '.join(step.notes)})" if step.notes else ""
            # What a step changes is found more easily where nothing is said twice.
            now = msgspec.json.encode(step.record, enc_hook=str).decode() if step.record != before else "as it was"
            yield f"    {step.step}: {now}{note}"
            before = step.record


def _printable(text: str) -> str:
    """Return a line without what a terminal would obey."""
    return "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text)


def _records(source: Source, data: bytes) -> list[bytes]:
    """Return what the source would make one record each of."""
    multiline = getattr(source, "multiline", None)
    if multiline is None:
        return data.removesuffix(b"\n").split(b"\n") if data else []
    data = data if data.endswith(b"\n") or not data else data + b"\n"
    found: list[bytes] = multiline.joiner().join(data.replace(b"\r\n", b"\n"), whole=True).data.split(b"\n")
    return found[:-1]


def _steps(block: Block, steps: Sequence[tuple[str, Step]]) -> Iterator[Became]:
    for kind, step in steps:
        before = dict(step.counts)
        block = through(block, [step])
        if not block.rows:
            yield Became(kind, None)
            return
        record = {name: value for name, value in records(block)[0].items() if name not in OWN}
        notes = [text for name, text in _NOTES.items() if step.counts.get(name, 0) > before.get(name, 0)]
        if problem := getattr(step, "problem", ""):
            notes.append(problem)
        yield Became(kind, record, notes)


# What steps count, in words.
_NOTES = {
    "unread": "it could not be read, and passes as it is",
    "unjudged": "it could not be judged, and passes",
    "row_by_row": "judged row by row, which is slow",
    "failed": "the module failed, and it passes as it is",
    "series_dropped": "not counted: too many label values",
}
