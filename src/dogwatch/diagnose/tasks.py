"""Every asyncio task: what it is, what it awaits all the way down, where it came from."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Sequence
from types import CodeType
from typing import Any

import msgspec

from dogwatch.core.units import format_duration
from dogwatch.diagnose import creation
from dogwatch.diagnose.frame import Frame, fit, of, short

# A chain deeper than this is cut: recursion, or a loop of generators.
MAX_DEPTH = 100


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task. state: running, ready or waiting. cancelling: cancellation was asked for and it has not ended.

    chain: from the task's own coroutine down to what it awaits now. waits_for: the future at the end. created and
    age_s only where creation sites are tracked.
    """

    name: str
    coroutine: str
    state: str
    chain: Sequence[Frame]
    waits_for: str = ""
    cancelling: bool = False
    created: Frame | None = None
    age_s: float | None = None


def inspect_tasks(loop: asyncio.AbstractEventLoop | None = None) -> list[TaskInfo]:
    """Return every task of a loop that has not ended, longest known first; to be called in the loop's thread."""
    tasks = asyncio.all_tasks(loop)
    current = asyncio.current_task(loop)
    now_s = time.monotonic()
    places: Places = {}
    found = [_describe(task, current, now_s, places) for task in tasks]
    found.sort(key=lambda info: (-(info.age_s or 0.0), info.coroutine, info.name))
    return found


def coroutine_name(task: asyncio.Task[Any]) -> str:
    """Return the qualified name of the task's coroutine: what kind of task it is."""
    work = task.get_coro()
    return getattr(work, "__qualname__", None) or type(work).__qualname__


def count_kinds(tasks: Sequence[asyncio.Task[Any]] | set[asyncio.Task[Any]]) -> Counter[str]:
    """Return how many tasks there are of each kind."""
    return Counter(map(coroutine_name, tasks))


def count_sites(tasks: Sequence[asyncio.Task[Any]] | set[asyncio.Task[Any]], kind: str) -> Counter[str]:
    """Return where tasks of a kind were created, as far as it is tracked."""
    sites: Counter[str] = Counter()
    for task in tasks:
        if coroutine_name(task) == kind and (site := creation.site_of(task)) is not None:
            sites[f"{short(site.file)}:{site.line} in {site.name}"] += 1
    return sites


Places = dict[tuple[CodeType, int], Frame]


def await_chain(work: object, places: Places | None = None) -> list[Frame]:
    """Return the frames of a suspended coroutine, generator or async generator and of all that it awaits.

    places: what was looked up before; a thousand tasks are at few places, and finding a line is most of the cost.
    """
    known: Places = {} if places is None else places
    chain: list[Frame] = []
    step: Any = work
    for _ in range(MAX_DEPTH):
        if step is None:
            break
        if hasattr(step, "cr_await"):
            frame, following = step.cr_frame, step.cr_await
        elif hasattr(step, "gi_yieldfrom"):
            frame, following = step.gi_frame, step.gi_yieldfrom
        elif hasattr(step, "ag_await"):
            frame, following = step.ag_frame, step.ag_await
        else:
            # asend() and coroutine wrappers do not show what they drive; the collector does.
            step = None if type(step).__name__ == "FutureIter" else _driven(step)
            continue
        if frame is not None:
            key = (frame.f_code, frame.f_lasti)
            place = known.get(key)
            if place is None:
                place = known[key] = of(frame)
            chain.append(place)
        step = following
    return chain


def _driven(wrapper: object) -> Any:
    for held in gc.get_referents(wrapper):
        if hasattr(held, "cr_await") or hasattr(held, "gi_yieldfrom") or hasattr(held, "ag_await"):
            return held
    return None


def _describe(task: asyncio.Task[Any], current: asyncio.Task[Any] | None, now_s: float, places: Places) -> TaskInfo:
    waiter = getattr(task, "_fut_waiter", None)
    state = "running" if task is current else "ready" if waiter is None or waiter.done() else "waiting"
    return TaskInfo(
        name=task.get_name(),
        coroutine=coroutine_name(task),
        state=state,
        chain=await_chain(task.get_coro(), places),
        waits_for=_describe_waiter(waiter),
        cancelling=task.cancelling() > 0,
        created=creation.site_of(task),
        age_s=creation.age_s(task, now_s),
    )


def _describe_waiter(waiter: object) -> str:
    if waiter is None:
        return ""
    if isinstance(waiter, asyncio.Task):
        return f"task {waiter.get_name()} ({coroutine_name(waiter)})"
    children = getattr(waiter, "_children", None)
    if children is not None:
        return f"{len(children)} gathered, {sum(not child.done() for child in children)} pending"
    return type(waiter).__name__


def render_tasks(tasks: Sequence[TaskInfo], *, width: int = 80) -> str:
    """Return the tasks as text, those with the same chain together, most first."""
    groups: dict[tuple[object, ...], list[TaskInfo]] = {}
    for task in tasks:
        groups.setdefault((task.coroutine, task.state, tuple(task.chain), task.created), []).append(task)
    lines = [f"{len(tasks)} tasks"]
    for group in sorted(groups.values(), key=len, reverse=True):
        first = group[0]
        names = ", ".join(task.name for task in group[:3]) + (", …" if len(group) > 3 else "")
        lines += ["", fit(f"{len(group)} × {first.coroutine}  {first.state}  {names}", width)]
        for depth, frame in enumerate(first.chain):
            lines.append(fit(f"  {'  ' * min(depth, 8)}{frame}", width))
        if first.waits_for:
            lines.append(fit(f"    waits for {first.waits_for}", width))
        if first.created is not None:
            ages = [task.age_s for task in group if task.age_s is not None]
            lines.append(fit(f"    created at {first.created}, oldest {format_duration(max(ages))}", width))
    return "\n".join(lines)
