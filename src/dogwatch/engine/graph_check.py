"""The graph of a job's steps, as it is written: what each needs, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dogwatch.config.section import Fault, Path
from dogwatch.core.circles import circles
from dogwatch.core.component import nearest
from dogwatch.engine.spec import JobSpec


def needs_of(job: JobSpec) -> dict[str, tuple[str, ...]]:
    """Return what each step needs, by name: what it says, else the step written before it."""
    needs: dict[str, tuple[str, ...]] = {}
    before: tuple[str, ...] = ()
    for step in job.steps:
        needs.setdefault(step.name, before if step.needs is None else tuple(dict.fromkeys(step.needs)))
        before = (step.name,)
    return needs


def levels_of(job: JobSpec) -> list[list[str]]:
    """Return the steps in the order they can begin: all of one level may run at the same time.

    What is part of a circle, or needs what is not there, is left out.
    """
    needs = needs_of(job)
    level: dict[str, int] = {}
    waiting = dict(needs)
    while ready := [name for name, wanted in waiting.items() if all(need in level for need in wanted)]:
        found = {name: 1 + max((level[need] for need in waiting[name]), default=-1) for name in ready}
        level |= found
        for name in ready:
            del waiting[name]
    return [
        [name for name in needs if level.get(name) == depth] for depth in range(max(level.values(), default=-1) + 1)
    ]


def before_each(needs: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Return every step that has ended when a step begins: what it needs, what those need, and so on."""
    found: dict[str, frozenset[str]] = {}
    for name in needs:
        seen: set[str] = set()
        stack = list(needs[name])
        while stack:
            need = stack.pop()
            if need not in seen and need in needs:
                seen.add(need)
                stack += needs[need]
        found[name] = frozenset(seen)
    return found


def need_faults(job: JobSpec, path: Path) -> Iterator[Fault]:
    """Find needs that name nothing, the step itself, or one step twice, and circles. path: of the job."""
    names = {step.name: at for at, step in reversed(list(enumerate(job.steps)))}
    for at, step in enumerate(job.steps):
        for place, need in enumerate(step.needs or ()):
            here = (*path, "steps", at, "needs", place)
            if need == step.name:
                yield Fault(here, "a step cannot need itself")
            elif need not in names:
                yield Fault(here, f"unknown step '{need}'", nearest(need[:100], list(names)))
            elif need in (step.needs or ())[:place]:
                yield Fault(here, f"'{need}' is named twice")
    for cycle in circles(needs_of(job)):
        here = (*path, "steps", names[cycle[0]], "needs")
        yield Fault(here, f"the steps need each other in a circle: {' → '.join(cycle)}")
