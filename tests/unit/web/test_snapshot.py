"""Large watches: what pages see is drawn up beside them, and is what there is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.fakes import FakeProgram
from tests.fakes_watch import many

from dogwatch.core.clock import ManualClock
from dogwatch.probes.view import TargetView
from dogwatch.web import listing, snapshot
from dogwatch.web.snapshot import SnapshotWatch, Summary


class Counting:
    """A watch that counts how often it was looked at."""

    def __init__(self, views: list[TargetView]) -> None:
        self.views, self.whole, self.parts = views, 0, 0

    def targets(self) -> list[TargetView]:
        self.whole += 1
        return list(self.views)

    def each(self) -> Iterator[TargetView]:
        self.parts += 1
        yield from self.views


def watch(number: int) -> tuple[Counting, SnapshotWatch, ManualClock]:
    clock = ManualClock()
    inner = Counting(list(many(number, clock.now_s())))
    return inner, SnapshotWatch(inner, clock), clock  # type: ignore[arg-type]


def test_a_summary_is_what_the_lists_say() -> None:
    views = many(3000, 1000.0)
    found = Summary()
    for start in range(0, 3000, 700):
        found.add(views[start : start + 700])
    assert found.views == list(views)
    assert found.counts == listing.counts(views)
    assert found.wrong == listing.troubled(views)
    assert [(group.name, group.counts, group.status) for group in found.groups.values()] == [
        (group.name, listing.counts(group.views), listing.worst(one.status for one in group.views))
        for group in listing.grouped(views)
    ]


def test_few_are_looked_at_each_time() -> None:
    inner, seen, _clock = watch(20)
    assert len(seen.targets()) == 20
    seen.targets()
    assert (inner.whole, inner.parts) == (2, 0)


def test_hundreds_are_shared_for_half_a_second() -> None:
    inner, seen, clock = watch(800)
    seen.targets()
    seen.targets()
    assert inner.whole == 1
    assert seen.exact() == inner.views  # whoever must know asks for itself
    clock.advance(0.6)
    seen.targets()
    assert (inner.whole, inner.parts) == (3, 0)


async def test_many_thousands_are_drawn_up_beside_requests() -> None:
    inner, seen, clock = watch(snapshot.BESIDE_FROM + 10)
    seen.targets()
    clock.advance(1.0)
    inner.views = inner.views[:-3]
    before = seen.targets()
    assert len(before) == snapshot.BESIDE_FROM + 10  # the one before, at once
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(seen.targets()) == snapshot.BESIDE_FROM + 7
    assert (inner.whole, inner.parts) == (1, 1)
    # What is too old is not shown, and a write is seen at once.
    clock.advance(snapshot.STALE_S + 1)
    inner.views = inner.views[:-1]
    assert len(seen.targets()) == snapshot.BESIDE_FROM + 6
    inner.views = inner.views[:-1]
    seen.forget()
    assert len(seen.targets()) == snapshot.BESIDE_FROM + 5


async def test_what_is_overtaken_ends() -> None:
    inner, seen, clock = watch(snapshot.BESIDE_FROM)
    seen.targets()
    clock.advance(1.0)
    seen.targets()
    seen.forget()
    inner.views = inner.views[:10]
    assert len(seen.targets()) == 10
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(seen.targets()) == 10


def test_the_rest_is_the_watch_itself() -> None:
    program = FakeProgram()
    seen = SnapshotWatch(program.watch, program.clock)
    assert seen.target("shop") == program.watch.target("shop")
