"""The services that probes share, opened once and closed once."""

from __future__ import annotations

import asyncio
import inspect
import resource
from typing import Any

from dogwatch.probes.probe import ProbeEnv

# What the rest of the program needs: store, listeners, log files, pages being served.
_KEPT_DESCRIPTORS = 200


def default_concurrency() -> int:
    """Return how many attempts may be under way at once: what the descriptor limit bears, at most 20,000."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 20_000
    return max(32, min(20_000, int((soft - _KEPT_DESCRIPTORS) * 0.8)))


def new_env(engine: Any = None, extra: dict[str, Any] | None = None) -> ProbeEnv:
    """Return an environment around an engine; extra: what kinds need, by kind."""
    return ProbeEnv(engine=engine, tasks=set(), extra=extra or {})


async def close_env(env: ProbeEnv) -> None:
    """Cancel what still runs, then close the engine and every extra that can be closed."""
    tasks = list(env.tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for service in (*env.extra.values(), env.engine):
        close = getattr(service, "close", None) or getattr(service, "aclose", None)
        if close is None:
            continue
        closed = close()
        if inspect.isawaitable(closed):
            await closed
