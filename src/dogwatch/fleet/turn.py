"""One attempt of a step over hosts: which hosts have their turn, given what is on disk of earlier ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import msgspec

from dogwatch.engine.action import Scene
from dogwatch.engine.port import AGAIN, Runs
from dogwatch.errors import DogwatchError, PermanentError
from dogwatch.fleet.book.book import FleetBook, Recorder
from dogwatch.fleet.book.values import OPEN_STATES, Kept, Key, Opening
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.results import HostResult
from dogwatch.fleet.run import FleetRun

Chosen = Mapping[str, Mapping[str, str]]


class Turn(msgspec.Struct, kw_only=True):
    """hosts: in order. done: those that have their end from before. ledger: None where nothing is kept."""

    scene: Scene
    hosts: tuple[str, ...]
    done: dict[str, HostResult] = {}
    ledger: Recorder | None = None
    book: FleetBook | None = None
    key: Key

    async def close(self, running: FleetRun) -> None:
        """Write how it ended, also where the step was cancelled."""
        if self.book is None:
            return
        closing = asyncio.ensure_future(self.book.close(self.key, running.results(), running.reason, self.scene.actor))
        # The step's own end is what counts; this row is for those who look.
        with contextlib.suppress(DogwatchError):
            await asyncio.shield(closing)


async def begin_turn(scene: Scene, part: FleetPart, choose: Callable[[], Chosen], *, what: str, targets: str) -> Turn:
    """Write down that a step begins, or goes on where its worker was lost or its last attempt failed.

    choose: says which hosts there are, for a step that begins. Raises: DogwatchError.
    """
    key, book = Key(scene.run_id, scene.step), part.book
    if book is None:
        return Turn(scene=scene, hosts=tuple(choose()), key=key)
    done: dict[str, HostResult] = {}
    if await book.known(key):
        kept = await book.hosts(key)
        done = {one.host: one.result for one in kept if one.result is not None and _has_its_end(one, scene.attempt)}
        await book.reopen(key, scene.actor, attempt=scene.attempt)
    else:
        chosen, done, before = await _again(scene, book, choose)
        opening = Opening(
            what=scene.mask(what),
            targets=targets,
            orders={},
            actor=scene.actor,
            hosts=chosen,
            retry_of=before,
            done=done,
        )
        await book.open(opening, key)
        kept = await book.hosts(key)
    recorder = book.recorder(key, kept, attempt=scene.attempt, mask=scene.mask)
    return Turn(scene=scene, hosts=tuple(one.host for one in kept), done=done, ledger=recorder, book=book, key=key)


def _has_its_end(one: Kept, attempt: int) -> bool:
    """Return whether nothing is to be done on a host: it ended in this attempt, or well in an earlier one."""
    result = one.result
    return result is not None and result.state not in OPEN_STATES and (result.ok or one.attempt == attempt)


async def _again(
    scene: Scene, book: FleetBook, choose: Callable[[], Chosen]
) -> tuple[Chosen, dict[str, HostResult], str]:
    """Return the hosts of a step that begins: in a rerun those that it is about, and what is known of the others."""
    what = scene.labels.get(AGAIN, "")
    runs = scene.get(Runs) if what else None  # type: ignore[type-abstract]
    before = "" if runs is None else (await runs.show(scene.run_id)).rerun_of
    key = Key(before, scene.step)
    if not before or not await book.known(key):
        return choose(), {}, ""
    kept = await book.hosts(key)
    if what == "unfinished":
        done = {one.host: one.result for one in kept if one.result is not None and one.result.ok}
        return {one.host: one.labels for one in kept}, done, str(key)
    rest = [one for one in kept if one.result is None or one.result.state in OPEN_STATES]
    failed = [one for one in kept if one not in rest and one.result is not None and not one.result.ok]
    chosen = {one.host: one.labels for one in (failed if what == "failed" else rest)}
    if not chosen:
        raise PermanentError(f"no host of fleet run {key} {'failed' if what == 'failed' else 'is left'}")
    return chosen, {}, str(key)
