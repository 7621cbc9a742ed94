"""Probes that are run here, without a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dogwatch.cli.adhoc import AdHoc
from dogwatch.core.clock import SystemClock
from dogwatch.core.fanout import all_or_first_error
from dogwatch.probes.adhoc import ask_once, build_probe
from dogwatch.probes.engine import Engine
from dogwatch.probes.env import close_env, new_env
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.probe import Probe, ProbeResult

Row = dict[str, Any]


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often each target is asked. forks: attempts at once, over all targets."""

    count: int = 1
    interval_s: float = 1.0
    timeout_s: float = 5.0
    forks: int = 50


def build_all(jobs: Sequence[AdHoc]) -> list[Probe]:
    """Return the probes. Raises: ConfigError before anything is run."""
    return [build_probe(PROBES, job.kind, job.options, job.typed) for job in jobs]


async def probe_all(jobs: Sequence[AdHoc], pace: Pace, each: Callable[[int, Row], None]) -> None:
    """Ask every target `count` times, one attempt after the other, and tell each result as it comes.

    each: is given the job's number and what was found.
    Raises: ConfigError before anything is run.
    """
    probes = build_all(jobs)
    engine = Engine()
    engine.open()
    env = new_env(engine, {"clock": SystemClock()})
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(pace.forks)

    async def one(index: int) -> None:
        started_s = loop.time()
        for number in range(pace.count):
            # A fixed rate, as ping's; an attempt that takes longer moves only the next one.
            await asyncio.sleep(max(0.0, started_s + number * pace.interval_s - loop.time()))
            async with places:
                result = await ask_once(probes[index], env, timeout_s=pace.timeout_s)
            each(index, _row(jobs[index], result))

    try:
        await all_or_first_error(one, range(len(jobs)), limit=max(1, len(jobs)))
    finally:
        await close_env(env)


def _row(job: AdHoc, result: ProbeResult) -> Row:
    return {
        "target": job.shown,
        "kind": job.kind,
        "success": result.success,
        "duration_s": result.duration_s,
        "reason": result.reason,
        "message": result.message,
        "phases": msgspec.to_builtins(result.phases) if result.phases else None,
        "values": {name: value for name, value in result.values.items() if _plain(value)},
    }


def _plain(value: object) -> bool:
    return value is None or isinstance(value, int | float | str | bool)
