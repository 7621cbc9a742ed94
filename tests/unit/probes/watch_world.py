"""A watch on a manual clock, and what its probes answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from watch_fakes import SCRIPTS, World

from dogwatch.probes.probe import Attempt, Done, ProbeResult


def answer(name: str, result: ProbeResult) -> None:
    SCRIPTS[name] = lambda _attempt, done: done(result)


def hang(name: str) -> list[Done]:
    waiting: list[Done] = []

    def script(_attempt: Attempt, done: Done) -> None:
        waiting.append(done)

    SCRIPTS[name] = script
    return waiting


def statuses(world: World, name: str) -> list[str]:
    return [one.after.word for one in world.store.kept_transitions if one.target == name]


async def _first(events: object, count: int) -> AsyncIterator[object]:
    number = 0
    async for event in events:  # type: ignore[attr-defined]
        yield event
        number += 1
        if number == count:
            return
