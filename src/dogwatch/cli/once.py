"""Probes that are run once, here, without a daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dogwatch.cli.adhoc import AdHoc
from dogwatch.core.fanout import all_or_first_error
from dogwatch.probes.adhoc import ask_once, build_probe
from dogwatch.probes.engine import Engine
from dogwatch.probes.env import close_env, new_env
from dogwatch.probes.kinds import PROBES


async def probe_all(
    jobs: Sequence[AdHoc], *, timeout_s: float, forks: int, progress: Callable[[int], None] | None
) -> list[dict[str, Any]]:
    """Run every job once, `forks` at a time, and return their results in order.

    Raises: ConfigError before anything is run.
    """
    probes = [build_probe(PROBES, job.kind, job.options) for job in jobs]
    engine = Engine()
    engine.open()
    env = new_env(engine, {})
    done = 0

    async def one(index: int) -> dict[str, Any]:
        nonlocal done
        result = await ask_once(probes[index], env, timeout_s=timeout_s)
        done += 1
        if progress is not None:
            progress(done)
        return {
            "target": jobs[index].text,
            "kind": jobs[index].kind,
            "success": result.success,
            "duration_s": result.duration_s,
            "reason": result.reason,
            "message": result.message,
            "phases": msgspec.to_builtins(result.phases) if result.phases else None,
            "values": {name: value for name, value in result.values.items() if _plain(value)},
        }

    try:
        return await all_or_first_error(one, range(len(jobs)), limit=forks)
    finally:
        await close_env(env)


def _plain(value: object) -> bool:
    return value is None or isinstance(value, int | float | str | bool)
