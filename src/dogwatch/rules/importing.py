"""Files of recorded signals taken into a store that no daemon uses, to be looked at and gone through as own history."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import msgspec

from dogwatch.core.values import Transition
from dogwatch.errors import Conflict
from dogwatch.rules.names import HOST_SERIES
from dogwatch.rules.recording import Piece, Recording
from dogwatch.store.columns import ResultColumns, SampleColumns
from dogwatch.store.protocol import ResultRow, Store, TargetState
from dogwatch.store.raw import RawResults

# Rows between two waits for the disk: what is added waits in a bounded buffer.
_TOGETHER = 10_000


class Taken(msgspec.Struct, kw_only=True):
    """What came in. means: results of which the file has no more than means; they are left out."""

    results: int = 0
    transitions: int = 0
    samples: int = 0
    means: int = 0


async def take_in(
    store: Store, recording: Recording, *, progress: Callable[[float], None] = lambda _share: None
) -> Taken:
    """Add a file's history to a store, through the ways that live results take: roll-ups follow.

    Raises: Conflict where the store has history of the same things from the file's begin on; nothing is added then.
    PermanentError where the file is damaged: what came before stays.
    """
    head = recording.head
    await _check(store, recording)
    states, taken = await store.states(), Taken()
    for piece in recording.pieces():
        await _results(store, piece, taken)
        for one in piece.results:
            for change in one.transitions:
                # What is believed of a target now is not what was believed then.
                state = states.get(change.target) or _unknown(change)
                await store.commit_transition(change, state)
                taken.transitions += 1
        await _samples(store, piece, taken)
        await store.flush()
        progress((piece.end_s - head.since_s) / max(head.until_s - head.since_s, 1e-9))
    return taken


def _unknown(change: Transition) -> TargetState:
    """Return the state of a target of which nothing else is known; no specification takes it over."""
    return TargetState(target=change.target, status=change.after, since_s=change.time_s, fingerprint="", decider=b"")


async def _check(store: Store, recording: Recording) -> None:
    """Raises: Conflict. History is kept in the order of its times."""
    head = recording.head
    newest = await store.recent([node.name for node in head.targets], limit=1)
    later = sorted(name for name, rows in newest.items() if rows and rows[-1].time_s >= head.since_s)
    for host in head.hosts:
        if await store.raw_samples(host, HOST_SERIES, since_s=head.since_s, until_s=head.made_s + 1e9):
            later.append(host)
    if later:
        more = f" and {len(later) - 3} more" if len(later) > 3 else ""
        raise Conflict(
            f"there is history of {', '.join(later[:3])}{more} from the begin of the file on",
            hint="take older files in first, or use a data folder of their own",
        )


async def _results(store: Store, piece: Piece, taken: Taken) -> None:
    taken.means += sum(bucket.count for one in piece.results for bucket in one.rolled)
    for row in heapq.merge(*(_rows(one, piece) for one in piece.results), key=lambda row: row.time_s):
        store.add_result(row)
        taken.results += 1
        if taken.results % _TOGETHER == 0:
            await store.flush()


def _rows(one: RawResults, piece: Piece) -> Iterator[ResultRow]:
    # Blocks hold rows around the time that was asked for, too.
    rows = [row for block in one.blocks for row in ResultColumns.decode(block).rows(one.target)]
    rows.sort(key=lambda row: row.time_s)
    return (row for row in rows if piece.begin_s <= row.time_s < piece.end_s)


async def _samples(store: Store, piece: Piece, taken: Taken) -> None:
    for host, every in piece.samples.items():
        points: dict[float, list[tuple[str, float]]] = {}
        for one in every:
            for block in one.blocks:
                rows = SampleColumns.decode(block)
                for time_ms, value in zip(rows.times, rows.values, strict=True):
                    if piece.begin_s <= time_ms / 1000 < piece.end_s:
                        points.setdefault(time_ms / 1000, []).append((one.series, value))
        for number, (time_s, samples) in enumerate(sorted(points.items())):
            store.add_samples(host, time_s, samples)
            taken.samples += len(samples)
            if number % 100 == 99:
                await store.flush()
