"""What makes reports for actions: the whole program's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from dogwatch.access.trail import AuditFilter, find
from dogwatch.reports.inspection import Inspection, Sources, inspect
from dogwatch.store.database import Database, Tx

_MOST_EVENTS = 2000


class Reports:
    """A service of the running program. base_url: where people reach its console, for links; "" where nobody said."""

    def __init__(self, sources: Callable[[], Sources]) -> None:
        self._sources = sources
        self.base_url = ""

    async def daily(self, period_s: float) -> Inspection:
        sources = self._sources()
        return await inspect(sources, since_s=sources.clock.now_s() - period_s)


def changes_in(
    database: Database, sees: Callable[[Mapping[str, str]], bool] | None = None
) -> Callable[[float], Awaitable[Sequence[tuple[str, str]]]]:
    """Return what tells (verb, noun) of each change since a time, from the audit trail."""

    async def changes(since_s: float) -> Sequence[tuple[str, str]]:
        def work(tx: Tx) -> Sequence[tuple[str, str]]:
            entries = find(AuditFilter(since_s=since_s, outcome="done"), _MOST_EVENTS, sees)(tx)
            return [(one.event.verb, one.event.subject.noun) for one in entries]

        return await database.read(work)

    return changes
