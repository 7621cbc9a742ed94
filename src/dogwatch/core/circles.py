"""Circles in what names each other: steps, jobs, dependencies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def circles(edges: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Yield each circle once, its first name repeated at the end; a name that points at itself is left out.

    Depth first without recursion, so that a chain of thousands is fine.
    """
    done: set[str] = set()
    for start in edges:
        trail: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = []
        if start not in done:
            stack, trail = [(start, iter(edges[start]))], [start]
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                trail.pop()
                done.add(name)
            elif following in trail and following != name:
                yield [*trail[trail.index(following) :], following]
            elif following in edges and following not in done and following != name:
                stack.append((following, iter(edges[following])))
                trail.append(following)
