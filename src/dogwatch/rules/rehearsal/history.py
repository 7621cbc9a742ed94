"""A backtest over a store: chunks of history read in readers' threads, gone through in another, decided in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from dogwatch.core.values import Signal
from dogwatch.errors import DogwatchError
from dogwatch.rules.backtest import Progress
from dogwatch.rules.names import HOST_SERIES, by_time, host_signal
from dogwatch.rules.rehearsal.course import Chunk
from dogwatch.rules.rehearsal.run import TOGETHER, Run, chunks
from dogwatch.store.columns import SampleColumns
from dogwatch.store.protocol import Store
from dogwatch.store.raw import RawResults, RawSamples

# How often probes ask, as long as nothing better is known: it only sets how long chunks are.
_EVERY_S = 15.0


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
    if run.longest_s:
        before = Chunk(begin_s=since_s - run.longest_s, end_s=since_s, ticks=[])
        for part in _parts(names):
            raw = await store.raw_results(part, since_s=before.begin_s, until_s=before.end_s)
            await asyncio.to_thread(run.warm, before, raw)
    rows_per_s = len(names) / _EVERY_S
    span_s = max(until_s - since_s, 1e-9)
    for chunk in chunks(since_s, until_s, alive, rows_per_s=rows_per_s, small=bool(run.rules.plain)):
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
        signals: list[Signal] = []
        if run.needs_hosts:
            for host in hosts:
                samples = await store.raw_samples(host, HOST_SERIES, since_s=chunk.begin_s, until_s=chunk.end_s)
                signals += await asyncio.to_thread(host_signals, host, samples, chunk)
        await asyncio.to_thread(_timed, progress, run.close, chunk, by_time(signals))
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


def host_signals(host: str, samples: Sequence[RawSamples], chunk: Chunk) -> list[Signal]:
    """Return a host's signals of a chunk, made of its series; where no raw samples are left, of their means."""
    low, high = chunk.begin_s, chunk.end_s
    points: dict[float, list[tuple[str, float]]] = {}
    for one in samples:
        for time_s, mean, _width in one.rolled:
            if low <= time_s < high:
                points.setdefault(time_s, []).append((one.series, mean))
        for rows in (*(SampleColumns.decode(block) for block in one.blocks), *one.fresh):
            for time_ms, value in zip(rows.times, rows.values, strict=True):
                time_s = time_ms / 1000
                if low <= time_s < high:
                    points.setdefault(time_s, []).append((one.series, value))
    return [host_signal(host, time_s, values, {}) for time_s, values in sorted(points.items())]
