"""Nobody reads records of a source whose labels they may not see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from dogwatch.access.permissions import everything
from dogwatch.logs.reader import Trouble
from dogwatch.logs.store.query import Answer, Query
from dogwatch.web.seen_logs import SeenLogs


class Asked:
    """Stands for the store; remembers what it was asked."""

    def __init__(self) -> None:
        self.queries: list[Query] = []

    async def sources(self) -> Mapping[str, Mapping[str, str]]:
        return {"shop": {"team": "a"}, "bank": {"team": "b"}, "gone": {}}

    async def run(self, query: Query) -> Answer:
        self.queries.append(query)
        return Answer()

    async def troubles(self) -> list[Trouble]:
        return [
            Trouble(kind="source", name="shop", text="cannot listen", labels={"team": "a"}),
            Trouble(kind="source", name="bank", text="cannot listen", labels={"team": "b"}),
            Trouble(kind="sink", name="archive", text="no space left on device", waiting_bytes=7),
        ]

    async def tail(self, query: Query) -> AsyncIterator[list[dict[str, Any]]]:
        self.queries.append(query)
        yield []


def seen(**labels: str) -> tuple[Asked, SeenLogs]:
    inner = Asked()
    return inner, SeenLogs(inner, lambda carried: all(carried.get(k) == v for k, v in labels.items()))


async def test_queries_are_limited_to_what_is_seen() -> None:
    inner, logs = seen(team="a")
    assert list(await logs.sources()) == ["shop"]
    await logs.run(Query())
    await logs.run(Query(sources=("bank",)))
    await logs.run(Query(sources=("shop", "bank"), condition='source == "bank"'))
    async for _records in logs.tail(Query()):
        break
    assert [query.sources for query in inner.queries] == [("shop",), (), ("shop",), ("shop",)]


async def test_the_name_is_a_label_that_labels_cannot_change() -> None:
    _inner, logs = seen(source="gone")
    assert list(await logs.sources()) == ["gone"]


async def test_whoever_sees_all_sees_all() -> None:
    inner = Asked()
    await SeenLogs(inner, everything).run(Query())
    assert inner.queries[0].sources == ("shop", "bank", "gone")


async def test_troubles_of_sinks_are_for_those_who_see_all() -> None:
    _inner, logs = seen(team="a")
    assert [one.name for one in await logs.troubles()] == ["shop"]
    assert [one.name for one in await SeenLogs(Asked(), everything).troubles()] == ["shop", "bank", "archive"]
