"""The logs as one person may see them: of a source by its labels, of which its name is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.permissions import Filter, everything
from dogwatch.logs.reader import Logs, Trouble
from dogwatch.logs.store.query import Answer, Query


def source_labels(name: str, labels: Mapping[str, str]) -> Mapping[str, str]:
    return {**labels, "source": name}


class SeenLogs:
    """See Logs."""

    def __init__(self, inner: Logs, sees: Filter) -> None:
        self._inner = inner
        self._sees = sees

    async def sources(self) -> Mapping[str, Mapping[str, str]]:
        every = await self._inner.sources()
        return {name: labels for name, labels in every.items() if self._sees(source_labels(name, labels))}

    async def troubles(self) -> Sequence[Trouble]:
        """Sinks are of all sources: who is limited to some sees none of them."""
        return [
            one
            for one in await self._inner.troubles()
            if (self._sees(source_labels(one.name, one.labels)) if one.kind == "source" else self._sees is everything)
        ]

    async def _limited(self, query: Query) -> Query:
        seen = await self.sources()
        wanted = seen if query.sources is None else [name for name in query.sources if name in seen]
        return msgspec.structs.replace(query, sources=tuple(wanted))

    async def run(self, query: Query) -> Answer:
        return await self._inner.run(await self._limited(query))

    async def tail(self, query: Query) -> AsyncIterator[list[dict[str, Any]]]:
        async for records in self._inner.tail(await self._limited(query)):
            yield records
