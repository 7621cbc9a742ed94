"""Names in a query that no record of the store has: why nothing was found, most often."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dogwatch.core.component import nearest
from dogwatch.logs.store.layout import Contents
from dogwatch.logs.store.wal import read

# Every record has these; the others are asked for by us, whether or not records have them.
_EXPECTED = frozenset(("id", "source", "file", "time_us", "trace_id", "traceId", "run_id"))
_MOST = 20_000


def unknown(names: Iterable[str], sources: Collection[str] | None, contents: Contents) -> list[str]:
    """Return a sentence for each name that no record of these sources has, or for an empty store. None for
    all sources.

    Nothing is said where too much is new to be looked through.
    """
    if not contents.segments and not contents.wals:
        return ["nothing is kept there yet"]
    wanted = sorted(set(names) - _EXPECTED)
    if not wanted:
        return []
    known = set[str]()
    for one in contents.segments:
        if sources is None or one.meta.source in sources:
            known.update(one.meta.columns, one.meta.odd)
    left = _MOST
    for path in contents.wals.values():
        for _arrived_us, records in read(path):
            left -= len(records)
            if left < 0:
                return []
            known.update(*(record for record in records if sources is None or record.get("source") in sources))
    return [_sentence(name, known) for name in wanted if name not in known] if known else []


def _sentence(name: str, known: set[str]) -> str:
    hint = nearest(name, sorted(known))
    return f"no record has a field '{name}'{f'; {hint}' if hint.startswith('did') else ''}"
