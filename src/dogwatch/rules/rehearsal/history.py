"""A backtest over a store: chunks of history read in readers' threads, gone through in another, decided in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from dogwatch.errors import DogwatchError
from dogwatch.rules.backtest import Progress
from dogwatch.rules.rehearsal.course import Chunk
from dogwatch.rules.rehearsal.run import TOGETHER, Run, chunks
from dogwatch.store.protocol import Store
from dogwatch.store.raw import RawResults, RawSamples

# How often probes ask, as long as nothing better is known: it only sets how long chunks are.
_EVERY_S = 15.0
# What hosts told in so long before the begin is what is so then.
_NEWEST_S = 300.0


class Stopped(DogwatchError):
    """Somebody wanted no more of it."""

    def __init__(self) -> None:
        super().__init__("the backtest was stopped")


async def rehearse_history(
    store: Store,
    run: Run,
    hosts: Sequence[str],
    *,
    since_s: float,
    until_s: float,
    progress: Progress,
) -> None:
    """Take a run through what the store keeps of a time. Raises: Stopped."""
    names = list(run.posts)
    alive = await store.alive(since_s=since_s, until_s=until_s) or [(since_s, until_s)]

    async def samples(chunk: Chunk) -> list[tuple[str, Sequence[RawSamples]]]:
        since_s, until_s = chunk.begin_s, chunk.end_s
        wanted = [(host, run.host_series(host)) for host in hosts]
        return [
            (host, await store.raw_samples(host, series, since_s=since_s, until_s=until_s))
            for host, series in wanted
            if series
        ]

    # Also without windows: what was told last is what is so at the begin.
    before = Chunk(begin_s=since_s - max(run.longest_s, _NEWEST_S), end_s=since_s, ticks=[])
    for part in _parts(names) if run.longest_s else ():
        raw = await store.raw_results(part, since_s=before.begin_s, until_s=before.end_s)
        await asyncio.to_thread(run.warm, before, raw)
    await asyncio.to_thread(run.warm_hosts, before, await samples(before))
    rows_per_s = (len(names) + len(hosts) * run.host_values) / _EVERY_S
    span_s = max(until_s - since_s, 1e-9)
    together = bool(run.rules.groups or run.host_values)
    for chunk in chunks(since_s, until_s, alive, rows_per_s=rows_per_s, small=together):
        await asyncio.to_thread(_timed, progress, run.begin, chunk, await samples(chunk))
        for done, part in enumerate(_parts(names)):
            raw = await store.raw_results(part, since_s=chunk.begin_s, until_s=chunk.end_s)
            known = {one.target: one for one in raw}
            # Time passes also for those of which nothing is kept.
            every = [known.get(name) or RawResults(target=name) for name in part]
            await asyncio.to_thread(_timed, progress, run.take, chunk, every)
            passed_s = chunk.begin_s - since_s + (chunk.end_s - chunk.begin_s) * done * TOGETHER / len(names)
            progress.share, progress.signals = passed_s / span_s, run.signals
            if progress.stop:
                raise Stopped
        await asyncio.to_thread(_timed, progress, run.close, chunk)
        progress.share = min(1.0, (chunk.end_s - since_s) / span_s)
        progress.signals, progress.time_s = run.signals, chunk.end_s


def _parts(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[at : at + TOGETHER] for at in range(0, len(names), TOGETHER))


def _timed(progress: Progress, work: Callable[..., None], *arguments: object) -> None:
    begun = time.thread_time()
    try:
        work(*arguments)
    finally:
        progress.busy_s += time.thread_time() - begun
