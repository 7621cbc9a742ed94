"""What transforms would do to some lines: `logs test`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.records import records
from dogwatch.logs.rows import OWN
from dogwatch.logs.section import LogsSpec
from dogwatch.logs.sources.file import FileSource
from dogwatch.logs.steps import through


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


def trial(spec: LogsSpec, source: str, data: bytes) -> Iterator[str]:
    """Yield lines for people: each line, and what it is after each step of each route from the source."""
    for number, route in enumerate(spec.effective_routes()):
        if source not in route.from_:
            continue
        yield f"route {number + 1}, to {', '.join(route.to)}"
        steps = [(transform.kind, transform.open()) for transform in route.do]
        at = 0
        for line in data.splitlines():
            block = Block(
                source=source, stream="test", path="-", begin=at, end=at + len(line) + 1, data=line + b"\n", count=1
            )
            at = block.end
            yield f"  {line.decode('utf-8', 'replace')}"
            for kind, step in steps:
                block = through(block, [step])
                if not block.rows:
                    yield f"    {kind}: dropped"
                    break
                shown = {name: value for name, value in records(block)[0].items() if name not in OWN}
                yield f"    {kind}: {msgspec.json.encode(shown, enc_hook=str).decode()}"
